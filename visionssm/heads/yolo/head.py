"""The head of Mamba-YOLO: two branches at each level, and what its maps mean in boxes and scores.

A point is the centre of a cell of one of the maps. For each of the four sides of its box (left, top, right, bottom) the
map has a distribution over whole distances 0 … 15, in strides; the distance is the mean (Li et al. 2020, arXiv
2006.04388, equation 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.backbones.mambayolo import ConvNorm
from visionssm.layers import MapConv2d

STRIDES = (8, 16, 32)
"""Pixels from one point to the next, by level."""

REG_MAX = 16
"""Bins of the distribution of a distance."""

SIDES = 4

_USUAL_SIDE = 640
_USUAL_OBJECTS = 5
_WIDEST_CLASS_BRANCH = 100
_LEAST_BOX_BRANCH = 64


class DetectionHead(nn.Module):
    """At each level a branch for the boxes and one for the classes, each two 3×3 convolutions and a 1×1 one.

    Args:
        dims: channels of the levels.
        num_classes: K.
    """

    def __init__(self, dims: Sequence[int], num_classes: int, **factory: Any) -> None:
        super().__init__()
        of_boxes = max(SIDES * REG_MAX, dims[0] // 4, _LEAST_BOX_BRANCH)
        of_classes = max(dims[0], min(num_classes, _WIDEST_CLASS_BRANCH))
        self.boxes = nn.ModuleList(_branch(dim, of_boxes, SIDES * REG_MAX, **factory) for dim in dims)
        self.classes = nn.ModuleList(_branch(dim, of_classes, num_classes, **factory) for dim in dims)
        self.num_classes = num_classes
        self.init_bias()

    @torch.no_grad()
    def init_bias(self) -> None:
        """As published: every distance starts alike, and a class with the probability of five objects in an image."""
        for boxes, classes, stride in zip(self.boxes, self.classes, STRIDES, strict=True):
            boxes[-1].bias.fill_(1.0)  # type: ignore[index, operator, union-attr]
            prior = _USUAL_OBJECTS / self.num_classes / (_USUAL_SIDE / stride) ** 2
            classes[-1].bias.fill_(math.log(prior))  # type: ignore[index, operator, union-attr]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """(B, H, W, C) per level to (B, 64 + K, H, W) logits per level: 4 sides × 16 bins, then the classes."""
        return tuple(
            torch.cat([boxes(x), classes(x)], dim=-1).permute(0, 3, 1, 2)
            for boxes, classes, x in zip(self.boxes, self.classes, maps, strict=True)
        )


def _branch(dim: int, hidden: int, out_dim: int, **factory: Any) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(dim, hidden, 3, **factory),
        ConvNorm(hidden, hidden, 3, **factory),
        MapConv2d(hidden, out_dim, 1, **factory),
    )


def grid_points(
    shapes: Sequence[Sequence[int]],
    strides: Sequence[int] = STRIDES,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """The centres of all cells, level by level and row by row.

    Args:
        shapes: (rows, columns) of every level.
        strides: pixels from one point to the next, of every level.
        device, dtype: of the result.
    Returns:
        (N, 2) x and y in pixels, and (N, 1) strides.

    Examples:
        >>> points, strides = grid_points([(1, 2)], [8])
        >>> points.tolist(), strides.tolist()
        ([[4.0, 4.0], [12.0, 4.0]], [[8.0], [8.0]])
    """
    points, sizes = [], []
    for (rows, columns), stride in zip(shapes, strides, strict=True):
        x = (torch.arange(columns, device=device).to(dtype) + 0.5) * stride
        y = (torch.arange(rows, device=device).to(dtype) + 0.5) * stride
        level = torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1)
        points.append(level)
        sizes.append(torch.full_like(level[:, :1], stride))
    return torch.cat(points), torch.cat(sizes)


def flatten_maps(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, 64 + K, H, W) maps to (B, N, 64) logits of the distances and (B, N, K) logits of the classes.

    Points are in the order of `grid_points`.
    """
    flat = torch.cat([level.flatten(2).transpose(1, 2) for level in maps], dim=1)
    return flat[..., : SIDES * REG_MAX], flat[..., SIDES * REG_MAX :]


def distribution_to_distances(logits: Tensor) -> Tensor:
    """(…, 4·bins) logits of the four distributions to (…, 4) mean distances in strides: left, top, right, bottom.

    Half precision, in which a distance of 15 is known to 1/16 at best, is computed in float32.

    Examples:
        >>> certain = torch.full((1, 64), -100.0)
        >>> certain[0, [3, 16 + 0, 32 + 15, 48 + 7]] = 100.0
        >>> distribution_to_distances(certain).tolist()
        [[3.0, 0.0, 15.0, 7.0]]
    """
    parts = logits.unflatten(-1, (SIDES, -1)).to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    bins = torch.arange(parts.shape[-1], device=parts.device).to(parts.dtype)
    return (parts * bins).sum(-1)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """(…, 2) points and (…, 4) distances of the four sides in the same unit to (…, 4) left, top, right, bottom."""
    before, after = distances.chunk(2, dim=-1)
    return torch.cat([points - before, points + after], dim=-1)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """The inverse of `distances_to_boxes`; a side on the wrong side of the point has a negative distance."""
    before, after = boxes.chunk(2, dim=-1)
    return torch.cat([points - before, after - points], dim=-1)


def decode(maps: Sequence[Tensor], strides: Sequence[int] = STRIDES) -> tuple[Tensor, Tensor]:
    """Boxes and scores at all points.

    Args:
        maps: (B, 64 + K, H, W) of every level, as the network gives them.
        strides: of the levels.
    Returns:
        (B, N, 4) left, top, right, bottom in pixels of the network's input, and (B, N, K) scores in [0, 1].
    """
    distances, classes = flatten_maps(maps)
    sides = distribution_to_distances(distances)
    points, sizes = grid_points([level.shape[2:] for level in maps], strides, device=sides.device, dtype=sides.dtype)
    return distances_to_boxes(points, sides * sizes), classes.to(sides.dtype).sigmoid()
