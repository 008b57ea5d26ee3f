"""Deformable sum: masked bilinear samples of a pixel's surroundings (DCNv4, Xiong et al. 2024, arXiv 2401.06197)."""

from __future__ import annotations

from torch import Tensor

from visionssm.kernels.backend import select_backend
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.deformable_sum.op import deformable_sum_op
from visionssm.kernels.deformable_sum.reference import POINTS, deformable_sum_by_corners, deformable_sum_reference
from visionssm.kernels.transforms import forward_mode

__all__ = ["POINTS", "deformable_sum"]


def deformable_sum(value: Tensor, offset: Tensor, mask: Tensor, *, scale: float = 1.0) -> Tensor:
    """At each pixel, the sum of nine masked samples of its surroundings, taken where the offsets point.

    y[h, w] = Σ_p mask[h, w, p] · value((h, w) + scale·(p + offset[h, w, p])) with p in {−1, 0, 1}², numbered column by
    column; samples are bilinear and zero outside the map (Xiong et al. 2024, arXiv 2401.06197, section 3.1).
    `torchvision.ops.deform_conv2d` with identity weights is the same after reordering, but runs one matrix product a
    channel.

    Compiled kernels run it in float32 on CPUs and GPUs, and write no samples. Other dtypes and devices run PyTorch
    operations. Distances from the pixel are rounded, positions on the map are not, so that they keep their digits on
    wide maps. The slope at the centre of a pixel is that of its right and lower side. A position that is not finite
    gives NaN.

    Args:
        value: (B, H, W, G, D) map of G groups of channels, any float dtype.
        offset: (B, H, W, G, 9, 2) in pixels, x before y.
        mask: (B, H, W, G, 9).
        scale: length of a step of p and of the offsets.

    Returns:
        (B, H, W, G, D) in `value`'s dtype; offsets and sums are computed in float32 (float64 for float64). The CPU
        kernels convert half-precision tensors to float32 as a whole.

    Raises:
        ValueError: shapes or devices disagree, or a dtype is not floating.

    Examples:
        >>> import torch, visionssm
        >>> value = torch.randn(1, 7, 5, 2, 16)  # a map of 7 × 5 pixels, two groups of 16 channels
        >>> offset, mask = torch.zeros(1, 7, 5, 2, 9, 2), torch.full((1, 7, 5, 2, 9), 1 / 9)
        >>> mean = visionssm.deformable_sum(value, offset, mask)  # of every pixel and its eight neighbours
        >>> torch.testing.assert_close(mean[0, 3, 2], value[0, 2:5, 1:4].mean((0, 1)))
    """
    given = {"value": value, "offset": offset, "mask": mask}
    check_floating(given)
    check_same_device(given)
    check_shape("value", value, ("B", "H", "W", "G", "D"))
    batch, height, width, groups, _ = value.shape
    sizes = {"B": batch, "H": height, "W": width, "G": groups, "points": POINTS, "x and y": 2}
    check_shape("offset", offset, ("B", "H", "W", "G", "points", "x and y"), sizes)
    check_shape("mask", mask, ("B", "H", "W", "G", "points"), sizes)
    if select_backend(value) in ("cpu", "triton"):
        return deformable_sum_op(value, offset, mask, scale)
    if forward_mode():  # which `grid_sample` does not know
        return deformable_sum_by_corners(value, offset, mask, scale)
    return deformable_sum_reference(value, offset, mask, scale)
