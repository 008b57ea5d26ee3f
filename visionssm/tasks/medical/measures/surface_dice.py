"""The share of two surfaces that lies near the other one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from visionssm.extras import needs_extra


def nsd(predicted: np.ndarray, true: np.ndarray, tolerance: float, spacing: Sequence[float] | None = None) -> float:
    """Normalised surface Dice: the share of both surfaces' voxels that are at most `tolerance` from the other surface.

    It is MONAI's `compute_surface_dice`, which counts voxels of the surface; DeepMind's program, which challenges use,
    weighs them by the area that they stand for, so its figures differ a little.

    Args:
        predicted: (H, W) or (D, H, W) bool.
        true: likewise.
        tolerance: in units of `spacing`.
        spacing: of neighbours along every axis, millimetres as a rule; None for 1.
    Returns:
        between 0 and 1; NaN if both regions are empty, 0 if one is.
    Raises:
        MissingExtraError: (an ImportError) MONAI is not installed.

    Examples:
        >>> import numpy as np
        >>> a, b = np.zeros((2, 9, 9), bool)
        >>> a[2:5, 2:5], b[2:5, 3:6] = True, True
        >>> nsd(a, b, 1.0), round(nsd(a, b, 0.5), 4)
        (1.0, 0.5)
    """
    if not predicted.any() and not true.any():
        return math.nan
    if not predicted.any() or not true.any():
        return 0.0
    with needs_extra("medical", "measuring distances between surfaces"):
        from monai.metrics import compute_surface_dice
    a, b = (torch.from_numpy(np.stack([~x, x])[None].astype(np.float32)) for x in (predicted, true))
    sampling = None if spacing is None else list(spacing)
    return float(compute_surface_dice(a, b, [tolerance], include_background=False, spacing=sampling).item())
