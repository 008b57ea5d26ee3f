"""Queries at the peaks of a heat map, each of which looks at the map around it (TransFusion, arXiv 2203.11496), as
nuScenes' models have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels import rotated_iou_3d
from visionssm.pointcloud.boxes import BOX, VELOCITY, Detections, Truth, precise, suppressed
from visionssm.pointcloud.heads.anchor import focal_loss
from visionssm.pointcloud.heads.assignment import least_cost
from visionssm.pointcloud.heads.center import LEAST_OVERLAP, LEAST_RADIUS, draw_peak, heat_loss, peak_radius
from visionssm.pointcloud.voxels import Grid

REACH = 20
"""Cells around a query that it looks at, along x and y, in both directions."""

CODES = {"center": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
"""Numbers of a box: cells along x and y, z of its top, logarithms of the sizes, sine and cosine, metres per second."""

CODE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2)
COST_WEIGHTS = {"class": 0.15, "place": 0.25, "overlap": 0.25}


class QueryPredictions(NamedTuple):
    """What the head says of a map and of the queries at its peaks.

    Attributes:
        heat: (B, K, X, Y) before the sigmoid; x comes first.
        labels: (B, P) class of which each query is a peak.
        peaks: (B, K, P) heat at the queries, after the sigmoid, 0 where it is no peak.
        branches: (B, c, P) numbers of `CODES`, `iou`, and `heatmap` (K scores before the sigmoid).
    """

    heat: Tensor
    labels: Tensor
    peaks: Tensor
    branches: dict[str, Tensor]

    @property
    def codes(self) -> Tensor:
        """(B, P, 10) numbers of boxes."""
        return torch.cat([self.branches[name] for name in CODES], 1).mT


class QueryTargets(NamedTuple):
    """What the queries of a sample should be: those that are not named are background.

    Attributes:
        queries: (M,) of the boxes.
        boxes: (M,) numbers of the sample's boxes.
        overlaps: (M,) what query and box have in common, in space.
    """

    queries: Tensor
    boxes: Tensor
    overlaps: Tensor


class TransFusionHead(nn.Module):
    """A heat map of each class, and a box of each of its highest peaks.

    Args:
        in_channels: of the map.
        grid: that the map covers.
        classes: K.
        queries: P, peaks that are looked at.
        channels, heads, hidden: of the decoder, its attention and its feed-forward network.
        stride: cells of the grid per place of the map.
        small: numbers of the classes of objects so small that all their cells count as peaks.
        limits: x, y, z of two corners, between which centres of results lie.
        least_score: that scores of results are above, before they are rectified.
        rectify: exponent of the predicted overlap in the score.
        overlap: of found boxes of one small class, from which the worse one is left out.
        weights: of the losses of heat, classes, boxes and overlaps.
    Raises:
        ValueError: a small class is none of the classes, or the queries are not positive.
    """

    box: ClassVar[tuple[str, ...]] = (*BOX, *VELOCITY)

    def __init__(
        self,
        in_channels: int,
        grid: Grid,
        classes: int,
        *,
        queries: int = 200,
        channels: int = 128,
        heads: int = 8,
        hidden: int = 256,
        stride: int = 2,
        small: Sequence[int] = (8, 9),
        limits: Sequence[float] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0),
        least_score: float = 0.0,
        rectify: float = 0.5,
        overlap: float = 0.175,
        weights: Sequence[float] = (1.0, 1.0, 0.25, 0.5),
    ) -> None:
        super().__init__()
        if not all(0 <= label < classes for label in small):
            raise ValueError(f"head.small={tuple(small)} must be numbers of classes, 0 to {classes - 1}")
        if queries < 1:
            raise ValueError(f"head.queries={queries} must be at least 1")
        self.grid, self.classes, self.queries, self.stride = grid, classes, queries, stride
        self.small, self.limits, self.least_score = tuple(small), list(limits), least_score
        self.rectify, self.overlap, self.weights = rectify, overlap, tuple(weights)
        self.shared_conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.heatmap_head = nn.Sequential(ConvLayer(channels), nn.Conv2d(channels, classes, 3, padding=1))
        self.class_encoding = nn.Conv1d(classes, channels, 1)
        self.decoder = DecoderLayer(channels, heads, hidden)

        def branch(count: int) -> nn.Sequential:
            layer = nn.Sequential(nn.Conv1d(channels, 64, 1), nn.BatchNorm1d(64), nn.ReLU())
            return nn.Sequential(layer, nn.Conv1d(64, count, 1))

        counts = {**CODES, "iou": 1, "heatmap": classes}
        self.prediction_head = nn.ModuleDict({name: branch(count) for name, count in counts.items()})
        for last in (self.heatmap_head[1], self.prediction_head["heatmap"][1]):  # type: ignore[index]
            nn.init.constant_(last.bias, -2.19)  # type: ignore[arg-type,union-attr]  # scores start at 0.1

    def forward(self, x: Tensor) -> QueryPredictions:
        """(B, in_channels, Y, X) map to predictions."""
        features = self.shared_conv(x.mT)  # x first, as in the published weights
        heat = precise(self.heatmap_head(features))
        peaks = self.peaks(heat.detach()).flatten(2)
        cells = peaks.shape[2]
        best = peaks.flatten(1).argsort(descending=True, stable=True)[:, : self.queries]
        labels, cell = best // cells, best % cells
        flat = features.flatten(2)
        query = flat.gather(2, cell[:, None].expand(-1, flat.shape[1], -1))
        query = query + self.class_encoding(F.one_hot(labels, self.classes).mT.to(query.dtype))
        places = _places(features)
        at = places[:, cell].movedim(0, 1)  # (B, 2, P)
        query = self.decoder(
            query, at.to(flat.dtype), flat, places[None].to(flat.dtype), _around(cell, *features.shape[2:])
        )
        branches = {name: precise(branch(query)) for name, branch in self.prediction_head.items()}
        branches["center"] = branches["center"] + at
        return QueryPredictions(heat, labels, peaks.gather(2, cell[:, None].expand(-1, self.classes, -1)), branches)

    def peaks(self, heat: Tensor) -> Tensor:
        """(B, K, X, Y) heat after the sigmoid where no cell around is hotter, else 0.

        Cells on the border are no peaks; but all cells are of the small classes.
        """
        heat = heat.sigmoid()
        highest = F.pad(F.max_pool2d(heat, 3, stride=1), (1, 1, 1, 1))
        there = heat == highest
        there[:, list(self.small)] = True
        return heat * there

    # -- training ------------------------------------------------------------------------------------------------------

    def losses(self, predictions: QueryPredictions, truths: Sequence[Truth]) -> dict[str, Tensor]:
        """`loss_heat` (focal), `loss_class` (focal, of all queries), `loss_box` (L1) and `loss_iou` of a batch.

        Queries and boxes are paired at the least cost. Velocities that are missing or not finite count nothing.
        """
        truths = [_usable(truth) for truth in truths]
        heat = torch.stack([self.heat(truth, predictions.heat.shape[2:]) for truth in truths])
        targets = [self.targets(predictions, number, truth) for number, truth in enumerate(truths)]
        sample = torch.cat([torch.full_like(x.queries, number) for number, x in enumerate(targets)])
        query = torch.cat([x.queries for x in targets])
        labels = torch.cat([truth.labels[x.boxes] for truth, x in zip(truths, targets, strict=True)])
        boxes = torch.cat([truth.boxes[x.boxes] for truth, x in zip(truths, targets, strict=True)])
        count = max(1, len(query))
        scores = predictions.branches["heatmap"].mT
        wanted = torch.zeros_like(scores)
        wanted[sample, query, labels] = 1
        codes = self.encoded(boxes)
        known = codes.isfinite()
        apart = (predictions.codes[sample, query] - codes.where(known, 0)).abs() * codes.new_tensor(CODE_WEIGHTS)
        losses = (
            heat_loss(predictions.heat, heat),
            focal_loss(scores, wanted).sum() / count,
            apart.where(known, 0).sum() / count,
            self._overlap_loss(predictions.branches["iou"][sample, 0, query], targets),
        )
        names = ("loss_heat", "loss_class", "loss_box", "loss_iou")
        return {name: weight * loss for name, weight, loss in zip(names, self.weights, losses, strict=True)}

    def heat(self, truth: Truth, size: Sequence[int]) -> Tensor:
        """(K, X, Y) what the heat map of a sample should be: 1 at centres and falling around them.

        Args:
            truth: boxes of the sample.
            size: cells along x and y.
        """
        boxes = truth.boxes
        cell, low = self._cells(boxes)
        limit = boxes.new_tensor(list(size)) - 0.5
        places = torch.minimum(((boxes[:, :2] - low) / cell).clamp(min=0), limit).long()
        heat = boxes.new_zeros(self.classes, *size)
        for (column, row), (length, width), label in zip(
            places.tolist(), (boxes[:, 3:5] / cell).tolist(), truth.labels.tolist(), strict=True
        ):
            radius = max(LEAST_RADIUS, int(peak_radius(length, width, LEAST_OVERLAP)))
            draw_peak(heat[label], column, row, radius)
        return heat

    @torch.no_grad()
    def targets(self, predictions: QueryPredictions, number: int, truth: Truth) -> QueryTargets:
        """Which query of a sample should be which box: the pairs of the least cost.

        The cost is that of the class, of the distance of the centres, and of what the boxes do not have in common.

        Args:
            predictions: of a batch.
            number: of the sample in it.
            truth: its boxes; where they are more than the queries, the first ones count.
        """
        found = self.decoded(predictions.codes[number])
        boxes, labels = truth.boxes[: len(found)], truth.labels[: len(found)]
        p = predictions.branches["heatmap"][number].mT.sigmoid()
        right = -0.25 * (p + 1e-12).log() * (1 - p) ** 2
        wrong = -0.75 * (1 - p + 1e-12).log() * p**2
        extent = found.new_tensor([b - a for a, b in zip(self.grid.low, self.grid.high, strict=True)][:2])
        apart = torch.cdist(found[:, :2] / extent, boxes[:, :2].to(found.dtype) / extent, p=1)
        overlaps = rotated_iou_3d(_raised(found)[:, None], _raised(boxes.to(found.dtype)))
        cost = COST_WEIGHTS["class"] * (right - wrong)[:, labels]
        cost = cost + COST_WEIGHTS["place"] * apart - COST_WEIGHTS["overlap"] * overlaps
        column = torch.from_numpy(least_cost(cost.mT.cpu().double().numpy())).to(labels.device)
        order = torch.arange(len(boxes), device=labels.device)
        return QueryTargets(column, order, overlaps[column, order])

    def encoded(self, boxes: Tensor) -> Tensor:
        """(M, 10) numbers of `CODES` of (M, 7) boxes, or (M, 9) with velocities; NaN for velocities that are not."""
        cell, low = self._cells(boxes)
        top = boxes[:, 2:3] + boxes[:, 5:6] / 2
        heading = torch.stack([boxes[:, 6].sin(), boxes[:, 6].cos()], 1)
        speed = F.pad(boxes[:, 7:9], (0, 9 - min(boxes.shape[1], 9)), value=torch.nan)
        return torch.cat([(boxes[:, :2] - low) / cell, top, boxes[:, 3:6].log(), heading, speed], 1)

    def _overlap_loss(self, said: Tensor, targets: Sequence[QueryTargets]) -> Tensor:
        """Of pairs that have something in common."""
        overlaps = torch.cat([x.overlaps for x in targets])
        common = overlaps != 0
        apart = (said - (2 * overlaps - 1)).abs()[common]
        return apart.sum() / max(1, len(apart))

    def _cells(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(2,) size of a cell and (2,) lowest corner along x and y, in metres."""
        cell = like.new_tensor(list(self.grid.voxel_size[:2])) * self.stride
        return cell, like.new_tensor(list(self.grid.low[:2]))

    # -- results -------------------------------------------------------------------------------------------------------

    def decoded(self, codes: Tensor) -> Tensor:
        """(…, 9) boxes with velocities of (…, 10) numbers: undoes `encoded`."""
        cell, low = self._cells(codes)
        size = codes[..., 3:6].exp()
        bottom_to_middle = codes[..., 2:3] - size[..., 2:] / 2
        heading = torch.atan2(codes[..., 6:7], codes[..., 7:8])
        return torch.cat([codes[..., :2] * cell + low, bottom_to_middle, size, heading, codes[..., 8:]], -1)

    def found(self, predictions: QueryPredictions) -> list[Detections]:
        """A box of every query, in the order of the queries."""
        boxes = self.decoded(predictions.codes)
        chosen = predictions.labels[:, None]
        scores = predictions.branches["heatmap"].sigmoid().gather(1, chosen) * predictions.peaks.gather(1, chosen)
        return [Detections(*x) for x in zip(boxes, scores[:, 0], predictions.labels, strict=True)]

    def detections(self, predictions: QueryPredictions) -> list[Detections]:
        """What is found in every sample of a batch, best first."""
        low, high = (predictions.heat.new_tensor(self.limits[part]) for part in (slice(3), slice(3, 6)))
        results = []
        for found, overlap in zip(self.found(predictions), predictions.branches["iou"][:, 0], strict=True):
            centre = found.boxes[:, :3]
            good = ((centre >= low) & (centre <= high)).all(1) & (found.scores > self.least_score)
            good &= found.boxes.isfinite().all(1)
            share = ((overlap + 1) / 2).clamp(0, 1)
            scores = found.scores ** (1 - self.rectify) * share**self.rectify
            found = Detections(found.boxes[good], scores[good], found.labels[good])
            results.append(self._suppressed(found))
        return results

    def _suppressed(self, found: Detections) -> Detections:
        """Of small classes, each of its own, what does not lie on a better one; all of the others."""
        large = torch.ones_like(found.labels, dtype=torch.bool)
        parts = []
        for label in self.small:
            own = found.labels == label
            large &= ~own
            parts.append(suppressed(Detections(*(x[own] for x in found)), self.overlap, len(own), len(own)))
        parts.append(Detections(*(x[large] for x in found)))
        boxes, scores, labels = (torch.cat(columns) for columns in zip(*parts, strict=True))
        order = scores.argsort(descending=True, stable=True)
        return Detections(boxes[order], scores[order], labels[order])


class ConvLayer(nn.Module):
    """3×3 convolution, norm, ReLU.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, Y, X) to the same shape."""
        return F.relu(self.bn(self.conv(x)))


class DecoderLayer(nn.Module):
    """Queries look at themselves, at the cells around them, and go through a feed-forward network; norms come last.

    Args:
        channels, heads, hidden: of queries, of attention, of the feed-forward network.
    """

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.multihead_attn = Attention(channels, heads)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.self_posembed, self.cross_posembed = PlaceEmbedding(channels), PlaceEmbedding(channels)

    def forward(self, query: Tensor, at: Tensor, features: Tensor, places: Tensor, around: Tensor) -> Tensor:
        """(B, C, P) queries to the same shape.

        Args:
            query: of the peaks.
            at: (B, 2, P) x and y of the queries, in cells.
            features: (B, C, M) of the cells.
            places: (1, 2, M) x and y of the cells.
            around: (B, P, M) whether a query looks at a cell.
        """
        x, where = query.mT, self.self_posembed(at).mT
        # A query is a sequence of its own, whose attention is all on itself.
        x = self.norm1(x + self.self_attn.alone(x + where))
        cells = (features + self.cross_posembed(places)).mT
        x = self.norm2(x + self.multihead_attn(x + where, cells, around))
        x = self.norm3(x + self.linear2(F.relu(self.linear1(x))))
        return x.mT


class PlaceEmbedding(nn.Module):
    """A feature of where on the map something is.

    Args:
        channels: of the feature.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Conv1d(2, channels, 1), nn.BatchNorm1d(channels), nn.ReLU(), nn.Conv1d(channels, channels, 1)
        )

    def forward(self, places: Tensor) -> Tensor:
        """(B, 2, P) x and y to (B, channels, P)."""
        return self.position_embedding_head(places)


class Attention(nn.Module):
    """Attention of several heads, the parameters under PyTorch's names.

    Args:
        channels, heads: the first a multiple of the second.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, keys: Tensor, seen: Tensor) -> Tensor:
        """(B, P, C) of queries.

        Args:
            query: (B, P, C).
            keys: (B, M, C), which are the values, too.
            seen: (B, P, M) whether a query looks at a key.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, keys, keys), weights, biases, strict=True)
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None])
        return self.out_proj(x.transpose(1, 2).flatten(2))

    def alone(self, x: Tensor) -> Tensor:
        """(B, P, C) of queries each of which sees itself and nothing else."""
        value = F.linear(x, self.in_proj_weight.chunk(3)[2], self.in_proj_bias.chunk(3)[2])
        return self.out_proj(value)


def _places(features: Tensor) -> Tensor:
    """(2, X·Y) x and y of the middles of the cells of (B, C, X, Y) features."""
    columns, rows = features.shape[2:]
    dtype = torch.promote_types(features.dtype, torch.float32)
    x = torch.arange(columns, device=features.device, dtype=dtype) + 0.5
    y = torch.arange(rows, device=features.device, dtype=dtype) + 0.5
    return torch.stack([x[:, None].expand(columns, rows), y.expand(columns, rows)]).flatten(1)


def _around(cell: Tensor, columns: int, rows: int) -> Tensor:
    """(B, P, X·Y) whether a cell lies within `REACH` of each of (B, P) cells x·Y + y.

    At the ends of y the window goes on at the other end of the next x, which is how the published weights know it.
    """
    steps = torch.arange(columns * rows, device=cell.device) - cell[..., None] + REACH
    return (steps % rows <= 2 * REACH) & ((steps // rows).abs() <= REACH)


def _usable(truth: Truth) -> Truth:
    good = (truth.boxes[:, 3:6] > 0).all(1)
    return Truth(truth.boxes[good], truth.labels[good])


def _raised(boxes: Tensor) -> Tensor:
    """(M, 7) boxes moved up by half their height, as which the published weights compare them.

    Those whose sizes are beyond all numbers, as of a head that is far from trained, become empty.
    """
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:3] + boxes[:, 5:6] / 2, boxes[:, 3:7]], 1)
    return boxes.where(boxes.isfinite().all(1, keepdim=True), 0)
