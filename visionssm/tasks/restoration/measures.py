"""Peak signal-to-noise ratio and structural similarity, as the papers on restoration measure them."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

CHANNELS = ("y", "rgb")

_SIGMA, _RADIUS = 1.5, 5
_K1, _K2 = 0.01, 0.03


def luma(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) levels from 0 to 255 to (H, W) of Y, from 16 to 235 (ITU-R BT.601, MATLAB's `rgb2ycbcr`)."""
    return pixels.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def measured(pixels: np.ndarray, channel: str, border: int) -> np.ndarray:
    """What figures are computed of: (H', W', C) float64 without the border; of colours, Y alone if `channel` is "y".

    Args:
        pixels: (H, W, C) levels from 0 to 255, C = 1 or 3.
        channel: one of `CHANNELS`.
        border: pixels that are left out at every side, as far as any would be left.
    """
    found = luma(pixels)[..., None] if channel == "y" and pixels.shape[2] == 3 else pixels.astype(np.float64)
    border = min(border, (min(pixels.shape[:2]) - 1) // 2)
    return found[border : found.shape[0] - border, border : found.shape[1] - border]


def psnr(found: np.ndarray, true: np.ndarray) -> float:
    """10·log₁₀(255² / mean squared error) in dB; infinite where both are equal.

    Raises:
        ValueError: the shapes differ.
    """
    _check(found, true)
    error = float(np.mean((found.astype(np.float64) - true.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def ssim(found: np.ndarray, true: np.ndarray) -> float:
    """Mean structural similarity (Wang et al. 2004) of (H, W, C) levels, and over channels; NaN below 11×11 pixels.

    Windows are Gaussian, 11×11 with σ = 1.5, and lie inside the image; variances are those of the population.

    Raises:
        ValueError: the shapes differ.
    """
    _check(found, true)
    if min(found.shape[:2]) < 2 * _RADIUS + 1:
        return math.nan
    x, y = (torch.from_numpy(np.ascontiguousarray(z, np.float64)).movedim(-1, 0)[:, None] for z in (found, true))
    steps = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    window = torch.exp(-(steps**2) / (2 * _SIGMA**2))
    window = window / window.sum()

    def mean(z: torch.Tensor) -> torch.Tensor:
        return F.conv2d(F.conv2d(z, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    similarity = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(similarity.mean())


def _check(found: np.ndarray, true: np.ndarray) -> None:
    if found.shape != true.shape:
        raise ValueError(f"images of shapes {found.shape} and {true.shape} cannot be compared")
