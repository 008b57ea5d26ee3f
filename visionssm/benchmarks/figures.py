"""Figures of the benchmarks: made without a display, written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionssm.files import complete_or_absent


@dataclass(frozen=True)
class Point:
    """A dot of a figure with its name, in the axes' data coordinates."""

    x: float
    y: float
    name: str
    colour: str


def new_figure(*, figsize: tuple[float, float]) -> tuple[Any, Any]:
    """A matplotlib figure with one pair of axes.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'visionssm[benchmark]'") from error

    figure = Figure(figsize=figsize, dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def save(figure: Any, path: str | Path) -> None:
    """Write a figure as a PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        figure.savefig(temporary, format="png")


def label_points(axes: Any, points: Sequence[Point], *, fontsize: float = 7.5) -> None:
    """Write a name beside each dot: at the nearest place around it that covers no dot and no other name.

    A line leads from a name to its dot where the two are apart. Limits and scales of the axes are set before.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()
    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    dots = axes.transData.transform([(point.x, point.y) for point in points])
    marks = [Bbox.from_bounds(x - 3 * pixels, y - 3 * pixels, 6 * pixels, 6 * pixels) for x, y in dots]
    taken: list[Any] = []
    for point, (x, y) in zip(points, dots, strict=True):
        text = axes.annotate(
            point.name,
            (point.x, point.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=fontsize,
            color=point.colour,
            va="center",
        )
        text.update_positions(renderer)
        width, height = Text.get_window_extent(text, renderer).size
        inside = [
            (number, dx, dy, box)
            for number, (dx, dy, side) in enumerate(_places())
            if _within(box := _box(x + dx * pixels, y + dy * pixels, width, height, side), axes.bbox)
        ]
        free = (place for place in inside if not any(place[3].overlaps(other) for other in (*taken, *marks)))
        number, dx, dy, box = next(free, inside[0])
        text.set_position((dx, dy))
        text.set_horizontalalignment("left" if dx > 0 else "right")
        if number >= _TOUCHING:
            axes.annotate(
                "", (point.x, point.y), xytext=(dx, dy), textcoords="offset points", zorder=1, arrowprops=_LINE
            )
        taken.append(box)


_TOUCHING = 6
"""So many of the first places are beside the dot itself, without a line."""
_LINE = dict(arrowstyle="-", color="#cbd5e1", linewidth=0.6, shrinkA=0, shrinkB=2)


def _places() -> list[tuple[float, float, str]]:
    """Places of a name around a dot in points, with the side of the dot that it is on, nearest first."""
    beside = [(7.0 * sign, dy) for dy in (0.0, 6.0, -6.0) for sign in (1, -1)]
    rings = [
        (radius * math.cos(angle), radius * math.sin(angle))
        for radius in range(14, 150, 8)
        for angle in (math.radians(step) for step in (45, -45, 135, -135, 20, -20, 160, -160, 75, -75, 105, -105))
    ]
    return [(dx, dy, "right" if dx > 0 else "left") for dx, dy in (*beside, *rings)]


def _box(x: float, y: float, width: float, height: float, side: str) -> Any:
    from matplotlib.transforms import Bbox

    return Bbox.from_bounds(x if side == "right" else x - width, y - height / 2, width, height).padded(2)


def _within(box: Any, frame: Any) -> bool:
    return bool(frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1))
