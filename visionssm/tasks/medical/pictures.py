"""Images and slices of volumes with classes in colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from visionssm.drawing import below, beside, class_legend, draw_classes, shown_scale, with_legend, with_title

SLICES = 3
"""Of a volume that are shown."""


def fullest(labels: np.ndarray, count: int = SLICES) -> list[int]:
    """Numbers of the slices (the first axis) with most foreground, in order."""
    sizes = np.count_nonzero(labels, axis=(1, 2))
    return sorted(np.argsort(-sizes, kind="stable")[:count].tolist())


def grey_picture(pixels: np.ndarray, low: float | None = None, high: float | None = None) -> Image.Image:
    """(C, H, W) numbers as a picture: three channels as colours, else the first one; the extremes black and white."""
    shown = (pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, 0)).astype(np.float32)
    low, high = float(shown.min()) if low is None else low, float(shown.max()) if high is None else high
    scaled = np.clip((shown - low) / max(high - low, 1e-6), 0, 1) * 255
    return Image.fromarray(scaled.round().astype(np.uint8).transpose(1, 2, 0))


def draw(pixels: np.ndarray, panels: Mapping[str, np.ndarray], classes: Sequence[str]) -> Image.Image:
    """A picture with a panel for the image and one for each of its labels; of a volume a row a slice.

    Args:
        pixels: (C, H, W) or (C, D, H, W).
        panels: title and labels (H, W) or (D, H, W); the slices with most foreground of the first ones are shown.
        classes: names, the background first.
    """
    if pixels.ndim == 3:
        return with_legend(_row(pixels, panels, "", None, None), _legend(panels, classes))
    shown = fullest(next(iter(panels.values())))
    low, high = float(pixels.min()), float(pixels.max())
    rows = [_row(pixels[:, z], {title: x[z] for title, x in panels.items()}, f" (slice {z})", low, high) for z in shown]
    return with_legend(below(rows), _legend({title: x[shown] for title, x in panels.items()}, classes))


def _row(
    pixels: np.ndarray, panels: Mapping[str, np.ndarray], note: str, low: float | None, high: float | None
) -> Image.Image:
    image = grey_picture(pixels, low, high)
    scale = shown_scale(image)
    nothing = np.zeros((image.height, image.width), int)
    titled = {f"image{note}": nothing, **panels}
    return beside([with_title(draw_classes(image, x, scale=scale), title) for title, x in titled.items()])


def _legend(panels: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[tuple[str, tuple[int, int, int]]]:
    return class_legend(classes, np.concatenate([x.ravel() for x in panels.values()]))
