"""The 95th percentile of the distances between two surfaces, as medpy measures it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from visionssm.extras import needs_extra


def hd95(predicted: np.ndarray, true: np.ndarray, spacing: Sequence[float] | None = None) -> float:
    """HD95: the 95th percentile of all distances from either surface to the other, both directions in one list.

    That is what medpy's `hd95` gives, and published tables of Synapse. MONAI's `HausdorffDistanceMetric(percentile=95)`
    takes the larger one of two directed percentiles instead, which is another number. A surface is the voxels of a
    region with a neighbour across a face outside of it, or outside of the array.

    Args:
        predicted: (H, W) or (D, H, W) bool.
        true: likewise.
        spacing: of neighbours along every axis; None for distances in voxels, as published.
    Returns:
        the distance; NaN if one of the regions is empty.
    Raises:
        MissingExtraError: (an ImportError) MONAI is not installed.

    Examples:
        >>> import numpy as np
        >>> a, b = np.zeros((2, 9, 9), bool)
        >>> a[2:5, 2:5], b[2:5, 4:7] = True, True
        >>> hd95(a, b)
        2.0
    """
    if not predicted.any() or not true.any():
        return math.nan
    with needs_extra("medical", "measuring distances between surfaces"):
        from monai.metrics.utils import get_surface_distance
    edges = _surface(predicted), _surface(true)
    sampling = None if spacing is None else list(spacing)
    distances = [np.asarray(get_surface_distance(a, b, "euclidean", sampling)) for a, b in (edges, edges[::-1])]
    return float(np.percentile(np.concatenate(distances), 95))


def _surface(region: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return region & ~binary_erosion(region)
