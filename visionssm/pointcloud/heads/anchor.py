"""Anchor boxes at every place of a map: SECOND's head (Yan et al. 2018), as KITTI's models have it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.data.arguments import checked
from visionssm.pointcloud.boxes import Detections, Truth, decode, encode, nearest_bev_iou, precise, suppressed, wrapped
from visionssm.pointcloud.voxels import Grid

DIRECTION_OFFSET = 0.78539
"""Headings are told apart at this angle and at the opposite one."""

IGNORED = -1
"""Of an anchor that counts neither as a box nor as background."""

NO_BOX = 0


@dataclass(frozen=True)
class AnchorClass:
    """The anchors of one class.

    Attributes:
        size: length, width, height in metres.
        bottom: z of the lower face.
        matched: overlap from which an anchor is a box of the class.
        unmatched: overlap under which it is background.
    """

    size: Sequence[float]
    bottom: float
    matched: float
    unmatched: float


class AnchorPredictions(NamedTuple):
    """What the head says of every place of a map.

    Attributes:
        scores: (B, Y, X, A·K) of A anchors, the first class's first, and K classes, before the sigmoid.
        codes: (B, Y, X, A·7) offsets from the anchors.
        directions: (B, Y, X, A·2) of the two headings.
    """

    scores: Tensor
    codes: Tensor
    directions: Tensor


class AnchorTargets(NamedTuple):
    """What the head should say of a sample.

    Attributes:
        labels: (anchors,) class numbers from 1, `NO_BOX` for background, or `IGNORED`.
        positives: (P,) anchors that are boxes.
        boxes: (P, 7) which.
    """

    labels: Tensor
    positives: Tensor
    boxes: Tensor


class AnchorHead(nn.Module):
    """Scores, offsets and directions of two anchors per class and place.

    Args:
        in_channels: of the map.
        grid: whose range the anchors span, from edge to edge.
        classes: K.
        anchors: fields of an `AnchorClass` for every class; each anchor stands along x and along y.
        least_score: of what is found.
        overlap: of found boxes, from which the worse one is left out.
        before, after: found boxes before and after that, at most.
        weights: of the losses of classes, offsets and directions.
    Raises:
        ValueError: the anchors are not as many as the classes, or one has other fields.
    """

    rotations = (0.0, 1.57)

    def __init__(
        self,
        in_channels: int,
        grid: Grid,
        classes: int,
        *,
        anchors: Sequence[Mapping[str, Any]],
        least_score: float = 0.1,
        overlap: float = 0.01,
        before: int = 4096,
        after: int = 500,
        weights: Sequence[float] = (1.0, 2.0, 0.2),
    ) -> None:
        super().__init__()
        self.grid = grid
        if len(anchors) != classes:
            raise ValueError(f"head.anchors must be {classes}, one for each class, got {len(anchors)}")
        self.classes = [checked(AnchorClass, f"head.anchors[{i}]", x, ValueError) for i, x in enumerate(anchors)]
        self.least_score, self.overlap, self.before, self.after = least_score, overlap, before, after
        self.weights = tuple(weights)
        per_place = classes * len(self.rotations)
        self.conv_cls = nn.Conv2d(in_channels, per_place * classes, 1)
        self.conv_box = nn.Conv2d(in_channels, per_place * 7, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, per_place * 2, 1)
        nn.init.constant_(self.conv_cls.bias, -math.log(99))  # type: ignore[arg-type]  # scores start at 0.01
        nn.init.normal_(self.conv_box.weight, std=1e-3)
        self._kept: dict[tuple[int, int, torch.device, torch.dtype], Tensor] = {}

    def forward(self, x: Tensor) -> AnchorPredictions:
        """(B, in_channels, Y, X) map to predictions."""
        return AnchorPredictions(
            *(precise(conv(x)).permute(0, 2, 3, 1) for conv in (self.conv_cls, self.conv_box, self.conv_dir_cls))
        )

    def anchors(self, predictions: AnchorPredictions) -> Tensor:
        """(Y·X·A, 7) anchors of a map: by row, column, class and rotation."""
        codes = predictions.codes
        key = codes.shape[1], codes.shape[2], codes.device, codes.dtype
        if key not in self._kept:
            self._kept = {key: self._anchors(*codes.shape[1:3]).to(codes.device, codes.dtype)}
        return self._kept[key]

    def _anchors(self, height: int, width: int) -> Tensor:
        x = torch.linspace(self.grid.low[0], self.grid.high[0], width, dtype=torch.float64)
        y = torch.linspace(self.grid.low[1], self.grid.high[1], height, dtype=torch.float64)
        kinds = torch.tensor(
            [
                [kind.bottom + kind.size[2] / 2, *kind.size, rotation]
                for kind in self.classes
                for rotation in self.rotations
            ],
            dtype=torch.float64,
        )
        shape = height, width, len(kinds)
        columns = x[None, :, None].expand(shape), y[:, None, None].expand(shape)
        rest = kinds.expand(height, width, *kinds.shape)
        return torch.cat([torch.stack(columns, -1), rest], -1).flatten(0, 2)

    # -- training ------------------------------------------------------------------------------------------------------

    def targets(self, truth: Truth, anchors: Tensor) -> AnchorTargets:
        """What the anchors of a sample should be.

        An anchor is a box where it overlaps one of its class enough, or more than any other anchor does; it is
        background where it overlaps none.

        Args:
            truth: boxes of the sample.
            anchors: (anchors, 7) of `anchors`.
        """
        count = len(self.classes)
        by_class = anchors.view(-1, count, len(self.rotations), anchors.shape[1])
        labels = anchors.new_full(by_class.shape[:3], IGNORED, dtype=torch.long)
        matches = torch.zeros_like(labels)
        for number, kind in enumerate(self.classes):
            chosen = (truth.labels == number).nonzero().flatten()
            if not len(chosen):
                labels[:, number] = NO_BOX
                continue
            own = by_class[:, number].flatten(0, 1)
            marks, match = _matched(nearest_bev_iou(own, truth.boxes[chosen, :7]), kind, number + 1)
            labels[:, number] = marks.view(-1, len(self.rotations))
            matches[:, number] = chosen[match].view(-1, len(self.rotations))
        flat = labels.flatten()
        positives = (flat > NO_BOX).nonzero().flatten()
        return AnchorTargets(flat, positives, truth.boxes[matches.flatten()[positives], :7])

    def losses(self, predictions: AnchorPredictions, truths: Sequence[Truth]) -> dict[str, Tensor]:
        """`loss_class`, `loss_box` and `loss_direction` of a batch: focal, smooth L1 and cross-entropy.

        Each is the mean over the batch of a sum over a sample's anchors, divided by the number of those that are boxes.
        """
        anchors = self.anchors(predictions)
        batch, classes = len(truths), len(self.classes)
        scores = predictions.scores.reshape(batch, -1, classes)
        codes = predictions.codes.reshape(batch, -1, 7)
        directions = predictions.directions.reshape(batch, -1, 2)
        total = [scores.new_zeros(()) for _ in self.weights]
        for number, truth in enumerate(truths):
            labels, positives, boxes = self.targets(truth, anchors)
            scale = 1 / (batch * max(1, len(positives)))
            wanted = F.one_hot(labels.clamp(min=0), classes + 1)[:, 1:].to(scores.dtype)
            focal = focal_loss(scores[number], wanted).sum(1)
            total[0] = total[0] + scale * focal[labels != IGNORED].sum()
            chosen = anchors[positives]
            total[1] = total[1] + scale * box_loss(codes[number, positives], encode(boxes, chosen)).sum()
            heading = torch.floor(wrapped(boxes[:, 6] - DIRECTION_OFFSET, 0.0) / math.pi).long().clamp(0, 1)
            entropy = F.cross_entropy(directions[number, positives], heading, reduction="sum")
            total[2] = total[2] + scale * entropy
        names = ("loss_class", "loss_box", "loss_direction")
        return {name: w * x for name, w, x in zip(names, self.weights, total, strict=True)}

    # -- results -------------------------------------------------------------------------------------------------------

    def boxes(self, predictions: AnchorPredictions) -> Tensor:
        """(B, anchors, 7) boxes of all anchors."""
        batch = len(predictions.codes)
        boxes = decode(predictions.codes.reshape(batch, -1, 7), self.anchors(predictions))
        ahead = predictions.directions.reshape(batch, -1, 2).argmax(-1)
        turn = wrapped(boxes[..., 6] - DIRECTION_OFFSET, 0.0, math.pi) + DIRECTION_OFFSET + math.pi * ahead
        return torch.cat([boxes[..., :6], turn[..., None]], -1)

    def everywhere(self, predictions: AnchorPredictions) -> tuple[Tensor, Tensor]:
        """(B, anchors, 7) boxes of all anchors and (B, anchors, K) scores, before the worse of two are left out."""
        return self.boxes(predictions), predictions.scores.reshape(
            len(predictions.scores), -1, len(self.classes)
        ).sigmoid()

    def detections(self, predictions: AnchorPredictions) -> list[Detections]:
        """What is found in every sample of a batch, best first."""
        batch = len(predictions.scores)
        scores, labels = predictions.scores.reshape(batch, -1, len(self.classes)).sigmoid().max(-1)
        found = []
        for boxes, score, label in zip(self.boxes(predictions), scores, labels, strict=True):
            good = score >= self.least_score
            some = Detections(boxes[good], score[good], label[good])
            found.append(suppressed(some, self.overlap, self.before, self.after))
        return found


def _matched(iou: Tensor, kind: AnchorClass, label: int) -> tuple[Tensor, Tensor]:
    """(anchors,) labels, and the box that each overlaps most, of (anchors, boxes) overlaps within a class."""
    best, match = iou.max(1)
    labels = torch.full_like(match, IGNORED)
    labels[best < kind.unmatched] = NO_BOX
    labels[best >= kind.matched] = label
    most = iou.max(0).values
    forced = ((iou == most) & (most > 0)).any(1)
    labels[forced] = label
    return labels, match


def focal_loss(scores: Tensor, wanted: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of every score before the sigmoid (Lin et al. 2017); `wanted` is 0 or 1."""
    p = scores.sigmoid()
    wrong = wanted * (1 - p) + (1 - wanted) * p
    weight = (wanted * alpha + (1 - wanted) * (1 - alpha)) * wrong**gamma
    return weight * F.binary_cross_entropy_with_logits(scores, wanted, reduction="none")


def box_loss(codes: Tensor, wanted: Tensor, beta: float = 1 / 9) -> Tensor:
    """(P, 7) smooth L1 of offsets; of headings, that of the sine of their difference."""
    p, t = codes[:, 6:], wanted[:, 6:]
    codes = torch.cat([codes[:, :6], p.sin() * t.cos()], 1)
    wanted = torch.cat([wanted[:, :6], p.cos() * t.sin()], 1)
    return F.smooth_l1_loss(codes, wanted, beta=beta, reduction="none")
