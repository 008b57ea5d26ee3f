"""Sparse convolution: each voxel's output is a sum over the voxels around it that there are."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import reference_requested
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.sparse_conv.neighbours import neighbour_table
from visionssm.kernels.sparse_conv.op import sparse_conv_op
from visionssm.kernels.sparse_conv.reference import sparse_conv_reference
from visionssm.kernels.transforms import forward_mode

__all__ = ["neighbour_table", "sparse_conv"]


def sparse_conv(features: Tensor, weight: Tensor, neighbours: Tensor, bias: Tensor | None = None) -> Tensor:
    """Sub-manifold convolution: outputs where there are inputs, from the neighbours that there are.

    y_i = bias + Σ_k W_kᵀ x_{neighbours[i, k]}, where −1 adds nothing (Graham et al. 2018, arXiv 1711.10275). On a grid
    of which every cell is occupied it is `torch.nn.functional.conv3d` with zero padding.

    Rows are gathered and multiplied, tap by tap, and summed row by row, in blocks of rows; it runs in PyTorch's own
    operations on every device, so there is no kernel of ours. Backward it is the same operator with mirrored taps, and
    on CPUs it gives the same bits each time.

    Args:
        features: (N, Cin) features of N voxels, any float dtype.
        weight: (taps, Cin, Cout), taps in the order of `neighbour_table`.
        neighbours: (N, taps) int32, the row of the voxel at each tap, −1 for none: a table of `neighbour_table`. It
            must be its own mirror image (where tap k of row i is j, tap −1 − k of row j is i).
        bias: (Cout,), or None.

    Returns:
        (N, Cout) in `features`' dtype; products and sums are computed in float32 (float64 for float64), also under
        autocast.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or the table names rows that are not there or is no mirror
            image of itself.

    Examples:
        >>> import torch, visionssm
        >>> voxels = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2], [1, 0, 3, 0]])  # (sample, z, y, x)
        >>> neighbours = visionssm.neighbour_table(voxels, (2, 4, 3))
        >>> visionssm.sparse_conv(torch.ones(3, 8), torch.ones(27, 8, 16), neighbours)[:, 0]
        tensor([16., 16.,  8.])
    """
    _check_inputs(features, weight, neighbours, bias)
    with without_autocast(features.device.type):
        if reference_requested() or forward_mode():
            y = sparse_conv_reference(features, weight, neighbours)
        else:
            compute = torch.promote_types(features.dtype, torch.float32)
            y = sparse_conv_op(features.to(compute), weight.to(compute), neighbours)
        if bias is not None:
            y = y + bias
        return y.to(features.dtype)


def _check_inputs(features: Tensor, weight: Tensor, neighbours: Tensor, bias: Tensor | None) -> None:
    floating = {"features": features, "weight": weight} | ({} if bias is None else {"bias": bias})
    check_floating(floating)
    check_same_device({**floating, "neighbours": neighbours})
    check_shape("features", features, ("N", "Cin"))
    check_shape("weight", weight, ("taps", "Cin", "Cout"), {"Cin": features.shape[1]})
    sizes = {"N": features.shape[0], "taps": weight.shape[0], "Cout": weight.shape[2]}
    check_shape("neighbours", neighbours, ("N", "taps"), sizes)
    if bias is not None:
        check_shape("bias", bias, ("Cout",), sizes)
    if neighbours.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"neighbours has dtype {neighbours.dtype}; expected int32")
    _check_table(neighbours)


def _check_table(neighbours: Tensor) -> None:
    """Raise ValueError unless rows exist and pairs are mutual; a table that was found right is not read again."""
    holds_values = type(neighbours) is Tensor and neighbours.device.type != "meta"
    if torch.compiler.is_compiling() or not holds_values or neighbours.numel() == 0:
        return
    version = None if neighbours.is_inference() else neighbours._version
    if version is not None and getattr(neighbours, "_visionssm_mirrored", None) == version:
        return
    rows, taps = neighbours.shape
    low, high = int(neighbours.min()), int(neighbours.max())
    if low < -1 or high >= rows:
        raise ValueError(f"neighbours names rows {low} to {high}, but there are rows 0 to {rows - 1} (−1 for none)")
    for tap in range((taps + 1) // 2):
        there, back = neighbours[:, tap].long(), neighbours[:, taps - 1 - tap]
        here = (there >= 0).nonzero()[:, 0]
        mutual = back[there[here]] == here
        if int((back >= 0).sum()) != len(here) or not bool(mutual.all()):
            raise ValueError(
                f"neighbours is no mirror image of itself: taps {tap} and {taps - 1 - tap} disagree; make the"
                " table with neighbour_table"
            )
    if version is not None:
        neighbours._visionssm_mirrored = version  # type: ignore[attr-defined]
