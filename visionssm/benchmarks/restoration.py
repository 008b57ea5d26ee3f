"""Networks for image restoration on the CPU: what their scans cost; ratios of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.benchmarks.networks import scanning_with
from visionssm.benchmarks.timing import CLOCKS, medians_in_turn, merged, progress, ratio_row
from visionssm.heads.restoration import create_restorer
from visionssm.layers.ss2d import RouteScan

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


PARTS: Mapping[str, Callable[[Scale], tuple[str, tuple[int, int], bool]]] = {
    "light": lambda scale: (scale.light, (scale.patch, scale.patch), False),
    "classic": lambda scale: (scale.classic, (scale.patch, scale.patch), False),
    "frame": lambda scale: (scale.light, scale.frame, True),
}
"""What is measured, by name: a network, sides of its image, and whether the published layout is measured too."""


def infer(model: nn.Module, images: Tensor, scan: str = "ours") -> None:
    """An inference with one of the scans of `visionssm.benchmarks.networks`."""
    with torch.inference_mode(), scanning_with(scan):
        model(images)


def told(run: Callable[[], object], model: nn.Module) -> None:
    """A call that takes minutes: how many of the network's scans are done is told on stderr."""
    layers = [layer for layer in model.modules() if isinstance(layer, RouteScan)]
    done = count(1)

    def tell(*_: Any) -> None:
        progress(f"  {next(done)} of {len(layers)} scans of the published layout …")

    hooks = [layer.register_forward_hook(tell) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


def run(
    *,
    parts: Sequence[str] = tuple(PARTS),
    known: Sequence[Row] = (),
    seconds: float = 10.0,
    clock: str = "wall",
    scale: Scale | None = None,
    keep: Callable[[list[Row]], object] = lambda _: None,
) -> list[Row]:
    """All rows: networks beside themselves without scans, and with scans of the published layout, step by step.

    Args:
        parts: names of `PARTS` to measure.
        known: rows of an earlier run; those that are measured again are replaced, the others kept.
        seconds: for what is measured in turn, each time; of the published layout one call, which takes minutes.
        clock: "wall", or "processor" while others use the machine.
        scale: of the cases; None for the published sizes.
        keep: called with the rows so far, after each part.
    """
    scale = scale or Scale()
    rows = list(known)
    for part in parts:
        name, sides, layout = PARTS[part](scale)
        torch.manual_seed(0)
        model = create_restorer(name).eval()
        image = torch.rand(1, model.in_chans, *sides, generator=torch.Generator().manual_seed(0))
        what = f"{name}, inference of {sides[0]}×{sides[1]}, batch 1"
        progress(f"{what} …")
        times = medians_in_turn(
            {"ours": partial(infer, model, image), "identity scans": partial(infer, model, image, "identity")},
            seconds=seconds,
            min_rounds=1,
            turn=scale.turn,
            clock=CLOCKS[clock],
        )
        measured = [ratio_row(what, "≤ 1.5", times, "ours", "identity scans")]
        if layout:
            began = CLOCKS[clock]()
            told(partial(infer, model, image, "published"), model)
            times["published layout"] = CLOCKS[clock]() - began
            measured.append(ratio_row(what, "≥ 20", times, "published layout", "ours"))
        rows = merged(rows, measured)
        keep(rows)
    return rows
