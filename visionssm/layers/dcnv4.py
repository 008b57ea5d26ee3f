"""DCNv4: deformable convolution whose masks are not normalised (Xiong et al. 2024, arXiv 2401.06197)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.kernels.deformable_sum import POINTS, deformable_sum
from visionssm.layers.conv import MapConv2d
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import linear


@leaf_module  # the operator's input checks branch on sizes
class DCNv4(nn.Module):
    """Deformable 3×3 convolution without projections: each group of channels has its own offsets and masks.

    Offsets and masks are a linear function of the input map, which is itself sampled. Keys are those of the published
    operator, whose projection to them has a multiple of eight outputs: the last ones are not used.

    Args:
        dim: C, channels, a multiple of `groups`.
        groups: G.
        offset_conv: pass the input of the offsets through a depth-wise 3×3 convolution.
        offset_scale: length of a step of the nine points and of the offsets, in pixels.

    Raises:
        ValueError: `dim` is no multiple of `groups`.
    """

    def __init__(
        self, dim: int, groups: int, *, offset_conv: bool = False, offset_scale: float = 1.0, **factory: Any
    ) -> None:
        super().__init__()
        if dim % groups:
            raise ValueError(f"dim={dim} channels cannot be divided into groups={groups} equal groups")
        self.groups, self.offset_scale = groups, offset_scale
        self.used = 3 * POINTS * groups  # two offsets and a mask per point
        self.offset_mask = nn.Linear(dim, -(-self.used // 8) * 8, **factory)
        self.offset_mask_dw: nn.Module = nn.Identity()
        if offset_conv:
            self.offset_mask_dw = MapConv2d(dim, dim, kernel_size=3, padding=1, groups=dim, **factory)

    def sample(self, value: Tensor, guide: Tensor) -> Tensor:
        """Sum (B, H, W, C) values at the places that the (B, H, W, C) guide decides on."""
        offset_mask = linear(self.offset_mask, self.offset_mask_dw(guide))[..., : self.used].unflatten(
            -1, (self.groups, -1)
        )
        offset = offset_mask[..., : 2 * POINTS].unflatten(-1, (POINTS, 2))
        values = value.unflatten(-1, (self.groups, -1))
        return deformable_sum(values, offset, offset_mask[..., 2 * POINTS :], scale=self.offset_scale).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return self.sample(x, x)


class ProjectedDCNv4(DCNv4):
    """The published operator's usual form: values are projected before the sampling, the result after it.

    Args:
        output_bias: bias of the last projection; the others are `DCNv4`'s.
    """

    def __init__(
        self,
        dim: int,
        groups: int,
        *,
        output_bias: bool = True,
        offset_conv: bool = False,
        offset_scale: float = 1.0,
        **factory: Any,
    ) -> None:
        super().__init__(dim, groups, offset_conv=offset_conv, offset_scale=offset_scale, **factory)
        self.value_proj = nn.Linear(dim, dim, **factory)
        self.output_proj = nn.Linear(dim, dim, bias=output_bias, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return linear(self.output_proj, self.sample(linear(self.value_proj, x), x))


class CenterScaledDCNv4(DCNv4):
    """y + s·(x − y) with y the deformable convolution and a gate s = sigmoid(linear(y)) per group."""

    def __init__(
        self, dim: int, groups: int, *, offset_conv: bool = False, offset_scale: float = 1.0, **factory: Any
    ) -> None:
        super().__init__(dim, groups, offset_conv=offset_conv, offset_scale=offset_scale, **factory)
        self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(groups, dim, **factory))
        self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(groups, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        y = self.sample(x, x)
        gate = F.linear(y, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias).sigmoid()
        grouped_x, grouped_y = (z.unflatten(-1, (self.groups, -1)) for z in (x, y))
        return torch.lerp(grouped_y, grouped_x, gate[..., None]).flatten(-2)
