"""Networks for image restoration on the CPU: what their scans cost; ratios of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.benchmarks.networks import scanning_with
from visionssm.benchmarks.timing import CLOCKS, STEP_BY_STEP, medians_in_turn, progress, ratio_row
from visionssm.heads.restoration import create_restorer

Row = dict[str, Any]
TURN = 0.4  # seconds: a few inferences, so that none is measured on the caches that another network leaves


@dataclass(frozen=True)
class Scale:
    """How large the cases are.

    Attributes:
        light, classic: names of the networks.
        patch: side of the images that they learn from.
        frame: rows and columns of the image that the light one is beside the published layout of.
        turn: seconds of a turn.
    """

    light: str = "mambair_sr_light_x2"
    classic: str = "mambair_sr_x2"
    patch: int = 64
    frame: tuple[int, int] = (180, 320)
    turn: float = TURN


TINY = Scale(light="mambair_nano_x2", classic="mambair_nano_x4", patch=6, frame=(6, 9), turn=0.0)


def infer(model: nn.Module, images: Tensor, scan: str = "ours") -> None:
    """An inference with one of the scans of `visionssm.benchmarks.networks`."""
    with torch.inference_mode(), scanning_with(scan):
        model(images)


def run(
    *,
    seconds: float = 10.0,
    clock: str = "wall",
    scale: Scale | None = None,
    keep: Callable[[list[Row]], object] = lambda _: None,
) -> list[Row]:
    """All rows: networks beside themselves without scans, and with scans of the published layout, step by step.

    Args:
        seconds: for what is measured in turn, each time.
        clock: "wall", or "processor" while others use the machine.
        scale: of the cases; None for the published sizes.
        keep: called with the rows so far, after each part.
    """
    scale = scale or Scale()
    rows: list[Row] = []
    for name, sides, layout in (
        (scale.light, (scale.patch, scale.patch), False),
        (scale.classic, (scale.patch, scale.patch), False),
        (scale.light, scale.frame, True),
    ):
        torch.manual_seed(0)
        model = create_restorer(name).eval()
        image = torch.rand(1, model.in_chans, *sides, generator=torch.Generator().manual_seed(0))
        what = f"{name}, inference of {sides[0]}×{sides[1]}, batch 1"
        progress(f"{what} …")
        scans = {"ours": "ours", "identity scans": "identity", **({"published layout": "published"} if layout else {})}
        times = medians_in_turn(
            {key: partial(infer, model, image, scan) for key, scan in scans.items()},
            seconds=seconds,
            min_rounds=1,
            turn=scale.turn,
            clock=CLOCKS[clock],
            once=STEP_BY_STEP,
        )
        rows.append(ratio_row(what, "≤ 1.5", times, "ours", "identity scans"))
        if layout:
            rows.append(ratio_row(what, "≥ 20", times, "published layout", "ours"))
        keep(rows)
    return rows
