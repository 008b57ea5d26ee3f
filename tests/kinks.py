"""Decisions that a network makes by comparing numbers, recorded in one run and followed in another.

A ReLU lets the gradient of an element pass or not; bilinear sampling takes the slope on one side of a pixel's centre.
The outputs are continuous there, but gradients jump. A value that is closer to such a kink than its rounding error is
put on either side by chance, and one element of a million may change gradient norms by a percent. So gradients of two
precisions can be compared to many digits only if both take the same side everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from visionssm.kernels.deformable_sum.reference import KERNEL, POINTS

DEFORMABLE_SUM = torch.ops.visionssm.deformable_sum


class RecordKinks(TorchFunctionMode):
    """Within this context, `decisions` grows by one tensor a ReLU (is it positive?) or sampling (its left upper pixel).

    The compiled `deformable_sum` decides as one sampling, in the order in which its definition calls `grid_sample`.
    `at` holds the values that were compared, where the kinks are at integers (of a ReLU: at zero).
    """

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[Tensor] = []
        self.at: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.relu:
            self._keep(args[0] > 0, args[0])
        elif func is F.grid_sample or func is DEFORMABLE_SUM:
            positions = pixel_positions(*args[:2]) if func is F.grid_sample else deformable_positions(args[1], args[3])
            self._keep(positions.floor().long(), positions)
        return func(*args, **(kwargs or {}))

    def _keep(self, decision: Tensor, value: Tensor) -> None:
        self.decisions.append(decision)
        self.at.append(value.detach())

    def distance(self, number: int) -> Tensor:
        """Of each value of a decision to the nearest kink: in pixels, or of a ReLU relative to its largest input."""
        value = self.at[number]
        if self.decisions[number].dtype == torch.bool:
            return value.abs() / value.abs().max().clamp(min=1e-30)
        return (value - value.round()).abs()

    def disagreement(self, other: RecordKinks) -> float:
        """The largest distance to its kink of a value that another run of the same network decided otherwise."""
        assert len(self.decisions) == len(other.decisions)
        largest = 0.0
        for number, (decision, others) in enumerate(zip(self.decisions, other.decisions, strict=True)):
            differing = decision != others
            if differing.any():
                largest = max(largest, float(self.distance(number)[differing].max()))
        return largest

    def switched(self, elements: Mapping[int, list[list[int]]], *, near: float) -> list[Tensor]:
        """The decisions, with some the other way: number of the decision → indices into its tensor.

        Raises:
            ValueError: a value is farther than `near` from its kink, so that rounding could not have decided otherwise.
        """
        out = list(self.decisions)
        for number, indices in elements.items():
            decision = out[number].clone()
            for index in map(tuple, indices):
                distance = float(self.distance(number)[index])
                if distance > near:
                    raise ValueError(f"decision {number}, {index}: {distance:.1e} from its kink, more than {near:.0e}")
                if decision.dtype == torch.bool:
                    decision[index] = ~decision[index]
                else:
                    value = self.at[number][index]
                    decision[index] += 1 if value.round() > value else -1
            out[number] = decision
        return out


class FollowKinks(TorchFunctionMode):
    """Within this context, every ReLU and sampling takes the side that was decided, in the order of the calls."""

    def __init__(self, decisions: list[Tensor]) -> None:
        super().__init__()
        self._decisions = iter(decisions)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.relu:
            return args[0] * next(self._decisions)
        if func is F.grid_sample:
            return bilinear(args[0], pixel_positions(args[0], args[1]), next(self._decisions))
        if func is DEFORMABLE_SUM:
            decision, own = next(self._decisions), deformable_positions(args[1], args[3]).floor().long()
            y = func(*args)
            if not torch.equal(own, decision):  # the kernel's result and gradients, but for the positions that differ
                y = y + (deformable_sum_between(*args, decision) - deformable_sum_between(*args, own))
            return y
        return func(*args, **(kwargs or {}))


def pixel_positions(maps: Tensor, grid: Tensor) -> Tensor:
    """(…, 2) positions in pixels, x before y, of a grid as `grid_sample` takes it with align_corners=False."""
    height, width = maps.shape[2:]
    return ((grid + 1) * grid.new_tensor([width, height]) - 1) / 2


def bilinear(maps: Tensor, positions: Tensor, corner: Tensor) -> Tensor:
    """`grid_sample` with padding by zeros, between the four pixels right of and below `corner`.

    Args:
        maps: (B, D, H, W).
        positions: (B, h, w, 2) in pixels.
        corner: (B, h, w, 2), the positions rounded down, or, beside a kink, up.

    Returns:
        (B, D, h, w).
    """
    height, width = maps.shape[2:]
    flat = maps.flatten(2)
    share = (positions - corner).to(maps.dtype)
    total = torch.zeros((), dtype=maps.dtype)
    for right in (0, 1):
        for below in (0, 1):
            x, y = corner[..., 0] + right, corner[..., 1] + below
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            pixel = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)  # (B, h, w)
            values = flat.gather(2, pixel.flatten(1)[:, None].expand(-1, flat.shape[1], -1))
            weight_x = share[..., 0] if right else 1 - share[..., 0]
            weight_y = share[..., 1] if below else 1 - share[..., 1]
            total = total + values.unflatten(2, pixel.shape[1:]) * (weight_x * weight_y * inside)[:, None]
    return total


def deformable_positions(offset: Tensor, scale: float) -> Tensor:
    """Where `deformable_sum` samples, in pixels, x before y: (B, H, W, G, 9, 2) offsets to (B·G, 9·H, W, 2) in float64.

    Distances from the pixel are computed in the dtype of the offsets, as kernels do; only they are rounded.
    """
    height, width = offset.shape[1:3]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], -1)  # (H, W, 2)
    points = torch.arange(POINTS)
    base = (torch.stack([points // KERNEL, points % KERNEL], -1) - KERNEL // 2).to(offset)  # (9, 2)
    positions = pixels[:, :, None, None] + (scale * (base + offset)).double()
    return positions.permute(0, 3, 4, 1, 2, 5).flatten(0, 1).flatten(1, 2)


def deformable_sum_between(value: Tensor, offset: Tensor, mask: Tensor, scale: float, corner: Tensor) -> Tensor:
    """`deformable_sum` of samples between the four pixels right of and below `corner`, (B·G, 9·H, W, 2)."""
    batch, height, _, groups, _ = value.shape
    maps, weights = (x.permute(0, 3, 4, 1, 2).flatten(0, 1) for x in (value, mask))
    samples = bilinear(maps, deformable_positions(offset, scale), corner).unflatten(2, (POINTS, height))
    y = (samples * weights[:, None]).sum(2)  # (B·G, D, H, W)
    return y.unflatten(0, (batch, groups)).permute(0, 3, 4, 1, 2)
