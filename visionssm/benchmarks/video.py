"""VideoMamba on the CPU, images and clips: what its scans cost; ratios of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch

from visionssm.backbones.videomamba import create_video_classifier
from visionssm.benchmarks.restoration import TURN, infer
from visionssm.benchmarks.timing import CLOCKS, medians_in_turn, progress, ratio_row

Row = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
        images: models of images.
        clips: models of clips.
        size: side of images and frames.
        frames: of a clip.
        turn: seconds of a turn.
    """

    images: Sequence[str] = ("videomamba_img_tiny", "videomamba_img_small", "videomamba_img_middle")
    clips: Sequence[str] = ("videomamba_tiny", "videomamba_small", "videomamba_middle")
    size: int = 224
    frames: int = 8
    turn: float = TURN


TINY = Scale(images=("videomamba_img_nano_test",), clips=("videomamba_nano",), size=32, frames=2, turn=0.0)


def run(
    *,
    seconds: float = 10.0,
    clock: str = "wall",
    scale: Scale | None = None,
    keep: Callable[[list[Row]], object] = lambda _: None,
) -> list[Row]:
    """Models beside themselves with the identity in place of every scan, inference of batch 1.

    Args:
        seconds: for each model and its form without scans, in turn.
        clock: "wall", or "processor" while others use the machine.
        scale: of the cases; None for the published sizes.
        keep: called with the rows so far, after each model.
    """
    scale = scale or Scale()
    rows: list[Row] = []
    for name in (*scale.images, *scale.clips):
        torch.manual_seed(0)
        frames = (scale.frames,) if name in scale.clips else ()
        create = create_video_classifier if frames else timm.create_model
        model = create(name, img_size=scale.size).eval()
        inputs = torch.randn(1, 3, *frames, scale.size, scale.size)
        what = f"{name}, inference of {f'{scale.frames} frames of ' if frames else ''}{scale.size}², batch 1"
        progress(f"{what} …")
        scans = {"ours": "ours", "identity scans": "identity"}
        times = medians_in_turn(
            {key: partial(infer, model, inputs, scan) for key, scan in scans.items()},
            seconds=seconds,
            min_rounds=1,
            turn=scale.turn,
            clock=CLOCKS[clock],
        )
        rows.append(ratio_row(what, "≤ 1.5", times, "ours", "identity scans"))
        keep(rows)
    return rows
