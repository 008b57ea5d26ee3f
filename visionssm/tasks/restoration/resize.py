"""Bicubic resizing as the field's low-resolution images are made: MATLAB's `imresize`, which widens its kernel.

Keys' cubic kernel with a = −1/2, widened by the scale where an image becomes smaller; at the borders the image is
continued as in a mirror. PIL's and PyTorch's antialiased bicubic are equal but for the borders; OpenCV's is another.
"""

from __future__ import annotations

import functools
import math

import numpy as np


def resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    """An image ⌈scale·H⌉ × ⌈scale·W⌉ pixels large.

    Args:
        pixels: (H, W) or (H, W, C).
        scale: of both sides.
    Returns:
        float64, not clipped: a cubic kernel overshoots at edges.
    Raises:
        ValueError: the image has no pixels, or the scale is not positive.

    Examples:
        >>> import numpy as np
        >>> resized(np.full((4, 6), 0.5), 1 / 2)
        array([[0.5, 0.5, 0.5],
               [0.5, 0.5, 0.5]])
    """
    if min(pixels.shape[:2]) < 1 or not 0 < scale < math.inf:
        raise ValueError(f"pixels of shape {pixels.shape} cannot be resized by {scale}")
    if scale == 1:
        return pixels.astype(np.float64)
    rows = _along_first(pixels.astype(np.float64), scale)
    return _along_first(rows.swapaxes(0, 1), scale).swapaxes(0, 1)


def _along_first(x: np.ndarray, scale: float) -> np.ndarray:
    places, weights = _taps(len(x), scale)
    shape = (-1, *(1,) * (x.ndim - 1))
    total = np.zeros((len(places), *x.shape[1:]))
    for place, weight in zip(places.T, weights.T, strict=True):
        total += weight.reshape(shape) * x[place]
    return total


@functools.lru_cache(maxsize=64)
def _taps(length: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(new length, taps) source pixels and weights of every new pixel."""
    narrow = min(scale, 1.0)
    width = 4 / narrow
    centres = (np.arange(math.ceil(length * scale - 1e-9)) + 0.5) / scale - 0.5
    first = np.floor(centres - width / 2).astype(int)
    places = first[:, None] + np.arange(math.ceil(width) + 2)
    weights = _cubic(narrow * (centres[:, None] - places))
    used = np.any(weights != 0, axis=0)
    mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])[places[:, used] % (2 * length)]
    return mirrored, weights[:, used] / weights[:, used].sum(1, keepdims=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, equation 15, with a = −1/2."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
