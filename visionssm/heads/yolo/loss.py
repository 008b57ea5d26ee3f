"""The loss of Mamba-YOLO: classes, overlap of the boxes, and the distributions of the distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from visionssm.heads.yolo.assign import Assignment, assign
from visionssm.heads.yolo.boxes import complete_iou
from visionssm.heads.yolo.head import (
    SIDES,
    STRIDES,
    boxes_to_distances,
    distances_to_boxes,
    distribution_to_distances,
    flatten_maps,
    grid_points,
)

_BELOW_THE_LAST_BIN = 0.01


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy of the distributions of distances to the two bins around the true one (arXiv 2006.04388, eq. 6).

    It is 0 for a whole distance whose bin is certain, and at least the entropy of the two bins' shares in between.

    Args:
        logits: (…, 4·bins).
        distances: (…, 4) true distances in strides; those beyond the bins are taken as the outermost.
    Returns:
        (…) mean of the four sides.

    Examples:
        >>> distribution_focal_loss(torch.zeros(64), torch.full((4,), 5.5)).item()  # log 16, as every bin is as likely
        2.7725887298583984
    """
    parts = logits.unflatten(-1, (SIDES, -1)).log_softmax(-1)
    target = distances.clamp(0, parts.shape[-1] - 1 - _BELOW_THE_LAST_BIN)
    below = target.floor()
    share = target - below
    bins = below.long()[..., None]
    lower, upper = parts.gather(-1, bins)[..., 0], parts.gather(-1, bins + 1)[..., 0]
    return -(lower * (1 - share) + upper * share).mean(-1)


@dataclass(frozen=True)
class YoloLoss:
    """The weighted losses of a batch, times the number of its images.

    Every sum is divided by that of the soft targets, at least 1, of all processes, so that several processes train as
    one does with the whole batch.

    Attributes:
        box, classes, distribution: weights of the three parts.
    """

    box: float = 7.5
    classes: float = 0.5
    distribution: float = 1.5

    def __call__(
        self,
        maps: Sequence[Tensor],
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        strides: Sequence[int] = STRIDES,
    ) -> dict[str, Tensor]:
        """Losses of one batch, in float32 or better.

        Args:
            maps: (B, 64 + K, H, W) logits of every level, as the network gives them.
            boxes: of every image (n, 4) left, top, right, bottom in pixels; n may be 0.
            labels: of every image (n,) classes, from 0.
            strides: of the levels.
        Returns:
            `loss_class`, `loss_box` and `loss_dfl`.
        Raises:
            ValueError: a label is no class, or images, boxes and labels are not as many.
        """
        maps = [level.to(torch.promote_types(level.dtype, torch.float32)) for level in maps]
        logits, scores = flatten_maps(maps)
        points, sizes = grid_points(
            [level.shape[2:] for level in maps], strides, device=logits.device, dtype=logits.dtype
        )
        centres = points / sizes
        found = distances_to_boxes(centres, distribution_to_distances(logits))  # in strides
        truth, classes, valid = padded_targets(boxes, labels, scores)
        given = assign(scores.detach().sigmoid(), found.detach() * sizes, points, truth, classes, valid)

        targets = class_targets(given, classes, scores.shape[-1])
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        total = targets.sum()
        if processes > 1:
            dist.all_reduce(total)
        scale = len(scores) * processes / total.clamp(min=1)

        image, point = (given.box >= 0).nonzero(as_tuple=True)
        weight = given.weight[image, point]
        true_boxes = truth[image, given.box[image, point]] / sizes[point]
        overlap = complete_iou(found[image, point], true_boxes)
        distances = boxes_to_distances(centres[point], true_boxes)
        distribution = distribution_focal_loss(logits[image, point], distances)
        return {
            "loss_class": self.classes * scale * F.binary_cross_entropy_with_logits(scores, targets, reduction="sum"),
            "loss_box": self.box * scale * ((1 - overlap) * weight).sum(),
            "loss_dfl": self.distribution * scale * (distribution * weight).sum(),
        }


def padded_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor], scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes and labels of images as tensors of all: (B, M, 4), (B, M) and which are there, (B, M) bool.

    Raises:
        ValueError: a label is no class of `scores` (B, N, K), or images, boxes and labels are not as many.
    """
    batch, _, count = scores.shape
    if not len(boxes) == len(labels) == batch or any(len(x) != len(y) for x, y in zip(boxes, labels, strict=True)):
        raise ValueError(
            f"{batch} images need as many tensors of boxes and labels, of the same lengths; got "
            f"{[len(x) for x in boxes]} boxes and {[len(x) for x in labels]} labels"
        )
    most = max(map(len, boxes), default=0)
    truth = scores.new_zeros(batch, most, 4)
    classes = torch.zeros(batch, most, dtype=torch.int64, device=scores.device)
    valid = torch.zeros(batch, most, dtype=torch.bool, device=scores.device)
    for number, (own, names) in enumerate(zip(boxes, labels, strict=True)):
        truth[number, : len(own)] = own.to(truth)
        classes[number, : len(own)] = names.to(classes)
        valid[number, : len(own)] = True
    if most and not ((classes >= 0) & (classes < count)).all():
        raise ValueError(f"labels must be from 0 to {count - 1}, got {sorted(set(classes[valid].tolist()))}")
    return truth, classes, valid


def class_targets(given: Assignment, classes: Tensor, count: int) -> Tensor:
    """(B, N, K) soft targets: the weight of a point's box at its class, 0 elsewhere."""
    targets = given.weight.new_zeros(*given.box.shape, count)
    image, point = (given.box >= 0).nonzero(as_tuple=True)
    targets[image, point, classes[image, given.box[image, point]]] = given.weight[image, point]
    return targets
