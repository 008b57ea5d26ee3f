"""Of overlapping boxes of one class the best is kept: how many, and by how much, and that in NumPy."""

from __future__ import annotations

import numpy as np

CANDIDATES = 30_000
"""Boxes at most that are compared, the best of them."""

MOST = 300
"""Objects of an image at most."""

THRESHOLD = 0.25
"""What a score must exceed, in a prediction; the evaluation uses .001."""

OVERLAP = 0.7
"""IoU of two boxes of one class above which the worse is left out."""


def kept_boxes(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, overlap: float = OVERLAP) -> np.ndarray:
    """Numbers of the boxes that are left, best first, at most `MOST`; as torchvision's `batched_nms` finds them.

    Args:
        boxes: (n, 4) left, top, right, bottom.
        scores: (n,).
        labels: (n,) classes; boxes of different ones do not hide each other.
        overlap: IoU above which the worse of two is left out.

    Examples:
        >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [0, 0, 10, 10]])
        >>> kept_boxes(boxes, np.array([0.5, 0.9, 0.4]), np.array([0, 0, 1])).tolist()
        [1, 2]
    """
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    left, top, right, bottom = boxes[order].astype(np.float32).T
    areas, kinds = (right - left) * (bottom - top), labels[order]
    alive, kept = np.ones(len(order), bool), []
    for place in range(len(order)):
        if not alive[place]:
            continue
        kept.append(order[place])
        if len(kept) == MOST:
            break
        rest = np.flatnonzero(alive[place + 1 :] & (kinds[place + 1 :] == kinds[place])) + place + 1
        across = (np.minimum(right[place], right[rest]) - np.maximum(left[place], left[rest])).clip(0)
        down = (np.minimum(bottom[place], bottom[rest]) - np.maximum(top[place], top[rest])).clip(0)
        common = across * down
        alive[rest[common > np.float32(overlap) * (areas[place] + areas[rest] - common)]] = False
    return np.array(kept, np.int64)
