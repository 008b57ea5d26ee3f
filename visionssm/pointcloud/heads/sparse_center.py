"""Centres of boxes among occupied cells, without a dense map, as Argoverse 2's models have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels import neighbour_table, sparse_conv
from visionssm.pointcloud.boxes import Detections, Truth, precise, suppressed
from visionssm.pointcloud.heads.center import (
    LEAST_OVERLAP,
    LEAST_RADIUS,
    MOST_BOXES,
    boxes_of,
    codes_of,
    heat_loss,
    peak_radius,
)
from visionssm.pointcloud.voxels import Grid, RowNorm, Sites

BRANCHES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}


class SparsePredictions(NamedTuple):
    """What the head says of every occupied cell.

    Attributes:
        sites: the cells, in a grid of height 1.
        groups: of every group of classes, (N, c) `center`, `center_z`, `dim` (logarithms), `rot` (cosine, sine), and
            `heatmap` (before the sigmoid).
    """

    sites: Sites
    groups: list[dict[str, Tensor]]


class SparseTargets(NamedTuple):
    """What a group of classes should say of a sample.

    Attributes:
        heat: (N, K) 1 at the cells nearest to centres and falling around them.
        cells: (M,) cell nearest to each box.
        codes: (M, 8) cells from there to the centre, z, logarithms of the sizes, cosine and sine of the heading.
    """

    heat: Tensor
    cells: Tensor
    codes: Tensor


class SparseCenterHead(nn.Module):
    """A heat map of each class and a box at every occupied cell; groups of classes have branches of their own.

    Args:
        in_channels: of the cells.
        grid: that they are in.
        classes: K.
        groups: classes of every group, which follow each other; None for all in one.
        box_weight: of the loss of boxes.
        limits: x, y, z of two corners, between which centres of results lie.
        least_score: of what is found.
        overlap: of found boxes of a group, from which the worse one is left out.
        before, after: found boxes of a group before and after that, at most.
    Raises:
        ValueError: the groups are not of all classes together.
    """

    def __init__(
        self,
        in_channels: int,
        grid: Grid,
        classes: int,
        *,
        groups: Sequence[int] | None = None,
        box_weight: float = 0.25,
        limits: Sequence[float] = (-200.0, -200.0, -20.0, 200.0, 200.0, 20.0),
        least_score: float = 0.1,
        overlap: float = 0.2,
        before: int = 1000,
        after: int = 83,
    ) -> None:
        super().__init__()
        self.groups = (classes,) if groups is None else tuple(groups)
        if sum(self.groups) != classes or min(self.groups) < 1:
            raise ValueError(f"head.groups={self.groups} must be positive and {classes} classes together")
        self.grid, self.box_weight, self.limits = grid, box_weight, list(limits)
        self.least_score, self.overlap, self.before, self.after = least_score, overlap, before, after
        self.heads_list = nn.ModuleList(
            nn.ModuleDict(
                {name: SparseBranch(in_channels, count) for name, count in {**BRANCHES, "heatmap": group}.items()}
            )
            for group in self.groups
        )
        for branches in self.heads_list:
            nn.init.constant_(branches["heatmap"][1].bias, -2.19)  # type: ignore[index]  # scores start at 0.1

    def forward(self, x: Tensor, sites: Sites) -> SparsePredictions:
        """(N, in_channels) features of cells to predictions.

        Raises:
            ValueError: the cells are in a grid of more than one layer.
        """
        if sites.shape[0] != 1:
            raise ValueError(
                f"a sparse_center head takes voxels of one layer, got {sites.shape[0]} layers; the backbone must be of "
                "kind flat, on a grid that it makes flat"
            )
        groups = [
            {name: precise(branch(x, sites)) for name, branch in branches.items()}  # type: ignore[operator]
            for branches in self.heads_list
        ]
        return SparsePredictions(sites, groups)

    # -- training ------------------------------------------------------------------------------------------------------

    def targets(self, truth: Truth, cells: Tensor, classes: int) -> SparseTargets:
        """What the occupied cells of a sample should be.

        Args:
            truth: boxes of a group; labels count from its first class. The first `MOST_BOXES` count.
            cells: (N, 2) columns and rows.
            classes: K of the group.
        """
        boxes, labels = truth.boxes[:MOST_BOXES, :7], truth.labels[:MOST_BOXES]
        good = (boxes[:, 3:6] > 0).all(1) & (len(cells) > 0)
        boxes, labels = boxes[good], labels[good]
        cell = boxes.new_tensor(list(self.grid.voxel_size[:2]))
        limit = boxes.new_tensor(self.grid.shape[:0:-1]) - 0.5
        places = torch.minimum(((boxes[:, :2] - boxes.new_tensor(list(self.grid.low[:2]))) / cell).clamp(min=0), limit)
        heat = boxes.new_zeros(len(cells), classes)
        nearest = []
        for place, (length, width), label in zip(places, (boxes[:, 3:5] / cell).tolist(), labels.tolist(), strict=True):
            radius = max(LEAST_RADIUS, int(peak_radius(length, width, LEAST_OVERLAP)))
            distance = ((cells - place) ** 2).sum(1)
            least, number = distance.min(0)
            nearest.append(number)
            # Divided by the largest value, which is that of the nearest cell.
            peak = torch.exp((least - distance) / (2 * ((2 * radius + 1) / 6) ** 2))
            peak = peak.where(distance <= 2 * radius**2, 0)
            heat[:, label] = torch.maximum(heat[:, label], peak)
        numbers = torch.stack(nearest) if nearest else labels.new_zeros(0)
        return SparseTargets(heat, numbers, codes_of(boxes, places - cells[numbers]))

    def losses(self, predictions: SparsePredictions, truths: Sequence[Truth]) -> dict[str, Tensor]:
        """`loss_heat` (penalty-reduced focal) and `loss_box` (L1 at the nearest cells), summed over the groups."""
        counts = predictions.sites.counts
        cells = self._cells(predictions.sites).split(counts)
        starts = [sum(counts[:number]) for number in range(len(counts))]
        heat_total, box_total = [], []
        first = 0
        for classes, branches in zip(self.groups, predictions.groups, strict=True):
            chosen = [(x.labels >= first) & (x.labels < first + classes) for x in truths]
            own = [Truth(x.boxes[good], x.labels[good] - first) for x, good in zip(truths, chosen, strict=True)]
            targets = [self.targets(truth, part, classes) for truth, part in zip(own, cells, strict=True)]
            heat_total.append(heat_loss(branches["heatmap"], torch.cat([x.heat for x in targets])))
            rows = torch.cat([start + x.cells for start, x in zip(starts, targets, strict=True)])
            apart = (self._codes(branches)[rows] - torch.cat([x.codes for x in targets])).abs().sum()
            box_total.append(apart / max(1, len(rows)))
            first += classes
        return {
            "loss_heat": torch.stack(heat_total).sum(),
            "loss_box": self.box_weight * torch.stack(box_total).sum(),
        }

    # -- results -------------------------------------------------------------------------------------------------------

    def detections(self, predictions: SparsePredictions) -> list[Detections]:
        """What is found in every sample of a batch, best first."""
        sites = predictions.sites
        parts: list[list[Detections]] = [[] for _ in sites.counts]
        first = 0
        for classes, branches in zip(self.groups, predictions.groups, strict=True):
            heat, codes = branches["heatmap"].sigmoid(), self._codes(branches)
            rows = zip(*(x.split(sites.counts) for x in (heat, codes, self._cells(sites))), strict=True)
            for number, (own_heat, own_codes, cells) in enumerate(rows):
                order = own_heat.mT.flatten().argsort(descending=True, stable=True)[:MOST_BOXES]
                label, row = order // max(len(cells), 1), order % max(len(cells), 1)
                boxes = boxes_of(own_codes[row], cells[row], self.grid, stride=1)
                found = Detections(boxes, own_heat[row, label], first + label)
                parts[number].append(self._suppressed(found))
            first += classes
        return [_sorted(found) for found in parts]

    def _suppressed(self, found: Detections) -> Detections:
        low, high = (found.boxes.new_tensor(self.limits[part]) for part in (slice(3), slice(3, 6)))
        centre = found.boxes[:, :3]
        good = ((centre >= low) & (centre <= high)).all(1) & (found.scores > self.least_score)
        return suppressed(Detections(*(x[good] for x in found)), self.overlap, self.before, self.after)

    def _cells(self, sites: Sites) -> Tensor:
        """(N, 2) columns and rows."""
        return sites.coords[:, [3, 2]]

    def _codes(self, branches: dict[str, Tensor]) -> Tensor:
        return torch.cat([branches[name] for name in BRANCHES], 1)


def _sorted(parts: Sequence[Detections]) -> Detections:
    boxes, scores, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
    order = scores.argsort(descending=True, stable=True)
    return Detections(boxes[order], scores[order], labels[order])


class SparseBranch(nn.ModuleList):
    """3×3 convolution of occupied cells with norm and ReLU, and a linear map.

    Args:
        channels, out_channels: numbers of a cell.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        first = nn.ModuleList([CellConv(channels, channels, 3), RowNorm(channels, eps=1e-3, momentum=0.01)])
        super().__init__([first, CellConv(channels, out_channels, 1, bias=True)])

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, channels) to (N, out_channels)."""
        first, last = self
        conv, norm = first.children()
        return last(F.relu(norm(conv(x, sites))), sites)


class CellConv(nn.Module):
    """Convolution of the occupied cells of a grid of height 1 that gives results for these and no others.

    Args:
        channels, out_channels: numbers of a cell.
        width: of the kernel, 1 or 3.
        bias: whether it has one.
    """

    def __init__(self, channels: int, out_channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.empty(out_channels, width, width, channels))  # out, y, x, in
        nn.init.kaiming_normal_(self.weight.data.view(out_channels, -1))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, channels) to (N, out_channels)."""
        if self.width == 1:
            return F.linear(x, self.weight.flatten(1), self.bias)
        taps = self.weight.flatten(1, 2).permute(1, 2, 0)  # (9, in, out)
        return sparse_conv(x, taps, sites.once("cells around", lambda: _around(sites, self.width)), self.bias)


def _around(sites: Sites, width: int) -> Tensor:
    """(N, width²) numbers of the cells around each."""
    return neighbour_table(sites.coords[:, [0, 2, 3]], sites.shape[1:], width)
