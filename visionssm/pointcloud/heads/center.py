"""Centres of boxes as peaks of heat maps (CenterPoint, arXiv 2006.11275), as Waymo's and ONCE's models have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from visionssm.kernels import rotated_iou_3d
from visionssm.pointcloud.boxes import Detections, Truth, precise, suppressed
from visionssm.pointcloud.voxels import Grid

MOST_BOXES = 500
LEAST_OVERLAP, LEAST_RADIUS = 0.1, 2
_LEAST = 1e-4
_BRANCHES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}

CenterPredictions = dict[str, Tensor]
"""(B, c, Y, X) `center`, `center_z`, `dim` (logarithms), `rot` (cosine, sine), `iou`, `hm` (before the sigmoid)."""


class CenterTargets(NamedTuple):
    """What the head should say of a sample.

    Attributes:
        heat: (K, Y, X), 1 at centres and falling around them.
        cells: (M,) places of the centres, row·X + column.
        codes: (M, 8) place within the cell, z, logarithms of the sizes, cosine and sine of the heading.
        boxes: (M, 7).
    """

    heat: Tensor
    cells: Tensor
    codes: Tensor
    boxes: Tensor


class CenterHead(nn.Module):
    """A heat map of each class, and at each place a box.

    Args:
        in_channels: of the map.
        grid: that the map covers.
        classes: K.
        channels: within the head.
        stride: cells of the grid per place of the map.
        bias: whether convolutions before a norm have one.
        norm: epsilon and momentum of the norms.
        box_weight: of the loss of boxes.
        rectify: exponents of a predicted overlap in the score, one per class; None for a head without one.
        limits: x, y, z of two corners, between which centres of results lie; None for the grid's.
        least_score: of what is found, before it is rectified.
        overlaps: of found boxes, from which the worse one is left out: one for all classes together, or one per class.
        before, after: found boxes before and after that, at most.
    Raises:
        ValueError: overlaps are neither one nor one per class, or there is not one exponent per class.
    """

    def __init__(
        self,
        in_channels: int,
        grid: Grid,
        classes: int,
        *,
        channels: int = 64,
        stride: int = 1,
        bias: bool = False,
        norm: Sequence[float] = (1e-3, 0.01),
        box_weight: float = 2.0,
        rectify: Sequence[float] | None = None,
        limits: Sequence[float] | None = None,
        least_score: float = 0.1,
        overlaps: Sequence[float] = (0.01,),
        before: int = 4096,
        after: int = 500,
    ) -> None:
        super().__init__()
        if len(overlaps) not in (1, classes):
            raise ValueError(f"head.overlaps must be one number, or {classes}, one per class; got {len(overlaps)}")
        if rectify is not None and len(rectify) != classes:
            raise ValueError(f"head.rectify must be {classes} numbers, one per class, got {len(rectify)}")
        self.grid, self.stride, self.box_weight = grid, stride, box_weight
        self.rectify, self.limits = rectify, list(grid.point_range if limits is None else limits)
        self.least_score, self.overlaps, self.before, self.after = least_score, list(overlaps), before, after

        def layer(inside: int, outside: int) -> nn.Sequential:
            convolution = nn.Conv2d(inside, outside, 3, padding=1, bias=bias)
            return nn.Sequential(convolution, nn.BatchNorm2d(outside, eps=norm[0], momentum=norm[1]), nn.ReLU())

        self.shared_conv = layer(in_channels, channels)
        branches = {**_BRANCHES, **({} if rectify is None else {"iou": 1}), "hm": classes}
        self.heads_list = nn.ModuleList(
            [
                nn.ModuleDict(
                    {
                        name: nn.Sequential(layer(channels, channels), nn.Conv2d(channels, count, 3, padding=1))
                        for name, count in branches.items()
                    }
                )
            ]
        )
        nn.init.constant_(self.heads_list[0]["hm"][1].bias, -2.19)  # type: ignore[index]  # scores start at 0.1

    def forward(self, x: Tensor) -> CenterPredictions:
        """(B, in_channels, Y, X) map to predictions."""
        x = self.shared_conv(x)
        return {name: precise(branch(x)) for name, branch in self.heads_list[0].items()}  # type: ignore[operator]

    # -- training ------------------------------------------------------------------------------------------------------

    def targets(self, truth: Truth, size: Sequence[int], classes: int) -> CenterTargets:
        """What the map of a sample should be.

        Args:
            truth: boxes of the sample; the first `MOST_BOXES` count.
            size: rows and columns of the map.
            classes: K.
        """
        boxes, labels = truth.boxes[:MOST_BOXES, :7], truth.labels[:MOST_BOXES]
        good = (boxes[:, 3:6] > 0).all(1)
        boxes, labels = boxes[good], labels[good]
        cell = boxes.new_tensor(list(self.grid.voxel_size[:2])) * self.stride
        low = boxes.new_tensor(list(self.grid.low[:2]))
        limit = boxes.new_tensor([size[1], size[0]]) - 0.5
        place = torch.minimum(((boxes[:, :2] - low) / cell).clamp(min=0), limit)
        whole = place.long()
        heat = boxes.new_zeros(classes, *size)
        for (column, row), (length, width), label in zip(
            whole.tolist(), (boxes[:, 3:5] / cell).tolist(), labels.tolist(), strict=True
        ):
            draw_peak(heat[label], row, column, max(LEAST_RADIUS, int(peak_radius(length, width, LEAST_OVERLAP))))
        codes = codes_of(boxes, place - whole)
        return CenterTargets(heat, whole[:, 1] * size[1] + whole[:, 0], codes, boxes)

    def losses(self, predictions: CenterPredictions, truths: Sequence[Truth]) -> dict[str, Tensor]:
        """`loss_heat` (penalty-reduced focal), `loss_box` (L1 at centres), and `loss_iou` of a head with overlaps."""
        heat = predictions["hm"]
        targets = [self.targets(truth, heat.shape[2:], heat.shape[1]) for truth in truths]
        losses = {"loss_heat": heat_loss(heat, torch.stack([x.heat for x in targets]))}
        found = torch.cat([self._codes(predictions)[i][x.cells] for i, x in enumerate(targets)])
        count = max(1, len(found))
        codes = torch.cat([x.codes for x in targets])
        losses["loss_box"] = self.box_weight * (found - codes).abs().sum() / count
        if self.rectify is not None:
            cells = torch.cat([x.cells for x in targets])
            boxes = self._boxes(found.detach(), cells, heat.shape[3])
            wanted = 2 * rotated_iou_3d(boxes, torch.cat([x.boxes for x in targets]).to(boxes.dtype)) - 1
            said = torch.cat([predictions["iou"][i].flatten()[x.cells] for i, x in enumerate(targets)])
            losses["loss_iou"] = (said - wanted).abs().sum() / count
        return losses

    # -- results -------------------------------------------------------------------------------------------------------

    def best(self, predictions: CenterPredictions, count: int = MOST_BOXES) -> list[tuple[Detections, Tensor]]:
        """Of every sample the boxes of highest heat, of all classes together, and the (M,) overlaps that are expected
        of them (all 1 for a head that does not say)."""
        heat = predictions["hm"].sigmoid().flatten(1)
        cells = predictions["hm"][0, 0].numel()
        found = []
        for number, codes in enumerate(self._codes(predictions)):
            order = heat[number].argsort(descending=True, stable=True)[:count]
            cell, label = order % cells, order // cells
            boxes = self._boxes(codes[cell], cell, predictions["hm"].shape[3])
            overlap = torch.ones_like(heat[number][order])
            if self.rectify is not None:
                overlap = (predictions["iou"][number].flatten()[cell] + 1) / 2
            found.append((Detections(boxes, heat[number][order], label), overlap))
        return found

    def everywhere(self, predictions: CenterPredictions) -> tuple[Tensor, Tensor]:
        """(B, Y·X, 7) boxes of all places and (B, Y·X, K) scores, rectified, before the worse of two are left out."""
        scores = predictions["hm"].flatten(2).mT.sigmoid()
        width = predictions["hm"].shape[3]
        place = torch.arange(scores.shape[1], device=scores.device)
        cells = torch.stack([place % width, place // width], 1)
        boxes = torch.stack([boxes_of(codes, cells, self.grid, self.stride) for codes in self._codes(predictions)])
        if self.rectify is not None:
            share = scores.new_tensor(list(self.rectify))
            overlap = ((predictions["iou"].flatten(2).mT + 1) / 2).clamp(0, 1)
            scores = scores ** (1 - share) * overlap**share
        return boxes, scores

    def detections(self, predictions: CenterPredictions) -> list[Detections]:
        """What is found in every sample of a batch, best first."""
        low, high = (predictions["hm"].new_tensor(self.limits[part]) for part in (slice(3), slice(3, 6)))
        results = []
        for found, overlap in self.best(predictions):
            centre = found.boxes[:, :3]
            good = ((centre >= low) & (centre <= high)).all(1) & (found.scores > self.least_score)
            found, overlap = Detections(*(x[good] for x in found)), overlap[good]
            if self.rectify is not None:
                share = found.scores.new_tensor(list(self.rectify))[found.labels]
                found = found._replace(scores=found.scores ** (1 - share) * overlap.clamp(0, 1) ** share)
            results.append(self._suppressed(found))
        return results

    def _suppressed(self, found: Detections) -> Detections:
        if len(self.overlaps) == 1:
            return suppressed(found, self.overlaps[0], self.before, self.after)
        parts = []
        for label, overlap in enumerate(self.overlaps):
            own = Detections(*(x[found.labels == label] for x in found))
            parts.append(suppressed(own, overlap, self.before, self.after))
        boxes, scores, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
        order = scores.argsort(descending=True, stable=True)[: self.after]
        return Detections(boxes[order], scores[order], labels[order])

    def _codes(self, predictions: CenterPredictions) -> Tensor:
        """(B, Y·X, 8) of every place."""
        return torch.cat([predictions[name] for name in _BRANCHES], 1).flatten(2).transpose(1, 2)

    def _boxes(self, codes: Tensor, cells: Tensor, width: int) -> Tensor:
        """(M, 7) boxes of (M, 8) codes at (M,) places of a map with so many columns."""
        return boxes_of(codes, torch.stack([cells % width, cells // width], 1), self.grid, self.stride)


def codes_of(boxes: Tensor, places: Tensor) -> Tensor:
    """(M, 8) numbers that a head says of (M, 7) boxes, whose centres are (M, 2) cells away from that place."""
    heading = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin()], 1)
    return torch.cat([places, boxes[:, 2:3], boxes[:, 3:6].log(), heading], 1)


def boxes_of(codes: Tensor, cells: Tensor, grid: Grid, stride: int) -> Tensor:
    """(M, 7) boxes of (M, 8) codes at (M, 2) columns and rows of a map with a cell for `stride` cells of the grid."""
    cell = codes.new_tensor(list(grid.voxel_size[:2])) * stride
    centre = (cells + codes[:, :2]) * cell + codes.new_tensor(list(grid.low[:2]))
    heading = torch.atan2(codes[:, 7], codes[:, 6])
    return torch.cat([centre, codes[:, 2:3], codes[:, 3:6].exp(), heading[:, None]], 1)


def peak_radius(length: float, width: float, overlap: float) -> float:
    """How far a box may be moved, in cells, and still overlap with itself (CornerNet's three cases).

    The roots are not divided by the leading coefficient, which is how CenterPoint has it, and with it the published
    weights.
    """
    total, area = length + width, length * width
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    )
    return min((b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases)


def draw_peak(heat: Tensor, row: int, column: int, radius: int) -> None:
    """Raise a (Y, X) map around a place, in place, to a Gaussian of six standard deviations' width."""
    reach = torch.arange(-radius, radius + 1, device=heat.device, dtype=torch.float64)
    sigma = (2 * radius + 1) / 6
    peak = torch.exp(-(reach[:, None] ** 2 + reach**2) / (2 * sigma**2))
    peak[peak < torch.finfo(peak.dtype).eps] = 0
    height, width = heat.shape
    top, left = max(0, row - radius), max(0, column - radius)
    bottom, right = min(height, row + radius + 1), min(width, column + radius + 1)
    part = peak[top - row + radius : bottom - row + radius, left - column + radius : right - column + radius]
    view = heat[top:bottom, left:right]
    torch.maximum(view, part.to(heat.dtype), out=view)


def heat_loss(scores: Tensor, wanted: Tensor) -> Tensor:
    """Focal loss of heat maps (…, Y, X), lower near peaks (CornerNet), over the number of peaks."""
    p = scores.sigmoid().clamp(_LEAST, 1 - _LEAST)
    peaks = wanted == 1
    right = torch.log(p) * (1 - p) ** 2
    wrong = torch.log(1 - p) * p**2 * (1 - wanted) ** 4
    return -torch.where(peaks, right, wrong).sum() / peaks.sum().clamp(min=1)
