"""Figures of the benchmarks: made without a display, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visionssm.files import complete_or_absent


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
