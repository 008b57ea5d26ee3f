"""Similarity of sets of key points, and what it is for: leaving out duplicates (NumPy).

Object key-point similarity is COCO's (https://cocodataset.org/#keypoints-eval).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from visionssm.data.keypoints import COCO_SIGMAS

Array = npt.NDArray[np.float64]


def oks(
    points: npt.ArrayLike,
    truth: npt.ArrayLike,
    area: npt.ArrayLike,
    sigmas: npt.ArrayLike = COCO_SIGMAS,
    visibility: npt.ArrayLike | None = None,
) -> Array:
    """Object key-point similarity: the mean over the labelled points of exp(−d² / (8·area·sigma²)).

    d is the distance of a point to the true one. Leading axes are broadcast.

    Args:
        points, truth: (..., K, 2), in pixels.
        area: (...,) of the person, in pixels.
        sigmas: (K,).
        visibility: (..., K) of the true points, 0 for those that are not labelled; None if all are.

    Returns:
        (...,) between 0 and 1; 0 where no point is labelled.

    Raises:
        ValueError: shapes disagree, or an area or a sigma is not positive.

    Examples:
        >>> truth = np.zeros((17, 2))
        >>> float(oks(truth, truth, area=900.0))
        1.0
        >>> bool(oks(truth + 3, truth, area=900.0) < oks(truth + 1, truth, area=900.0))
        True
    """
    points, truth = np.asarray(points, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    area, sigmas = np.asarray(area, dtype=np.float64), np.asarray(sigmas, dtype=np.float64)
    count = len(sigmas)
    if points.shape[-2:] != (count, 2) or truth.shape[-2:] != (count, 2):
        raise ValueError(f"points {points.shape} and truth {truth.shape} must be (..., {count}, 2), as {count} sigmas")
    if not ((area > 0).all() and (sigmas > 0).all()):
        raise ValueError("area and sigmas must be positive")
    squares = ((points - truth) ** 2).sum(-1)
    similar = np.exp(-squares / (8 * area[..., None] * sigmas**2))
    if visibility is None:
        mean: Array = similar.mean(-1)
        return mean
    labelled = np.broadcast_to(np.asarray(visibility) > 0, similar.shape)
    return np.where(labelled, similar, 0).sum(-1) / np.maximum(labelled.sum(-1), 1)


def oks_nms(
    points: npt.ArrayLike,
    scores: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike = COCO_SIGMAS,
    threshold: float = 0.9,
) -> npt.NDArray[np.intp]:
    """Leave out people that are too similar to one of a higher score, as non-maximum suppression of boxes does.

    The area of a pair is the mean of its two.

    Args:
        points: (N, K, 2).
        scores, areas: (N,).
        sigmas: (K,).
        threshold: greatest similarity of two people who both stay.

    Returns:
        Numbers of those that stay, the highest score first; of equal scores the first one.

    Raises:
        ValueError: shapes disagree, or the threshold is not within 0 and 1.

    Examples:
        >>> people = np.stack([np.zeros((17, 2)), np.ones((17, 2)), np.full((17, 2), 90.0)])
        >>> oks_nms(people, [0.5, 0.9, 0.7], [900, 900, 900], threshold=0.5).tolist()
        [1, 2]
    """
    points, scores = np.asarray(points, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    areas = np.asarray(areas, dtype=np.float64)
    if not len(points) == len(scores) == len(areas):
        raise ValueError(f"there are {len(points)} people, {len(scores)} scores and {len(areas)} areas")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} must be within 0 and 1")
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        similar = oks(points[left], points[best], (areas[left] + areas[best]) / 2, sigmas)
        left = left[similar <= threshold]
    return np.array(kept, dtype=np.intp)
