"""Of overlapping boxes of one class the best is kept."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms

from visionssm.data.suppression import CANDIDATES, MOST, OVERLAP, THRESHOLD

__all__ = ["CANDIDATES", "MOST", "OVERLAP", "THRESHOLD", "Objects", "suppress", "suppress_batch"]


class Objects(NamedTuple):
    """What is left in one image, best first.

    Attributes:
        boxes: (n, 4) left, top, right, bottom.
        scores: (n,).
        labels: (n,) classes, from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def suppress(
    boxes: Tensor, scores: Tensor, *, threshold: float = THRESHOLD, overlap: float = OVERLAP, most: int = MOST
) -> Objects:
    """The objects of one image: every class of a point above the threshold is a candidate of its own.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N, K) in [0, 1].
        threshold: what a score must exceed; the evaluation uses .001.
        overlap: IoU of two boxes of one class above which the worse is left out.
        most: objects at most.
    """
    point, label = (scores > threshold).nonzero(as_tuple=True)
    score = scores[point, label]
    if len(score) > CANDIDATES:
        best = score.topk(CANDIDATES).indices
        point, label, score = point[best], label[best], score[best]
    candidate = boxes[point]
    kept = batched_nms(candidate.float(), score.float(), label, overlap)[:most]
    return Objects(candidate[kept], score[kept], label[kept])


def suppress_batch(boxes: Tensor, scores: Tensor, **options: float) -> list[Objects]:
    """`suppress` of each image: (B, N, 4) boxes and (B, N, K) scores."""
    return [suppress(*image, **options) for image in zip(boxes, scores, strict=True)]  # type: ignore[arg-type]
