"""Precision over recall of every class as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from visionssm.drawing import class_colour
from visionssm.tasks.pointcloud.evaluation import POSITIONS, Score

SHOWN = ("bev", "3d")
"""Measures that have axes of their own."""

_TITLES = {"bev": "boxes seen from above", "3d": "boxes in space"}


def draw_precision_recall(scores: Sequence[Score], level: str) -> Figure:
    """Precision at the 41 recalls, a line for every class and overlap, dashed where the overlap is the looser one.

    Args:
        scores: of an evaluation.
        level: name of the difficulty that is drawn.
    """
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    recall = np.linspace(0, 1, POSITIONS)
    kinds = list(dict.fromkeys(x.kind for x in scores))
    for axes, measure in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        drawn = [x for x in scores if x.measure == measure and x.level == level and x.truths]
        for x in drawn:
            strict = x.overlap == max(y.overlap for y in drawn if y.kind == x.kind)
            colour = tuple(part / 255 for part in class_colour(kinds.index(x.kind)))
            label = f"{x.kind} {x.overlap:g}: {100 * x.ap40:.1f}"
            axes.plot(recall, x.precision, color=colour, linestyle="-" if strict else "--", linewidth=1.4, label=label)
        axes.set(title=f"{_TITLES[measure]}, {level}", xlabel="recall", ylabel="precision")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if drawn:
            axes.legend(frameon=False, fontsize=7, title="class, overlap: AP40", title_fontsize=7)
    return figure
