"""Non-causal state-space duality: every pixel reads one state, so it is two matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import reference_requested
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.ssd.reference import non_causal_ssd_reference


def non_causal_ssd(x: Tensor, m: Tensor, b: Tensor, c: Tensor, *, d: Tensor | None = None) -> Tensor:
    """Non-causal state-space duality: every pixel reads one state to which all pixels contribute.

    S = Σ_l b_l (m_l x_l)ᵀ,   y_l = c_lᵀ S + d x_l   for every head; b and c are shared by the heads
    (Shi et al. 2024, VSSD, arXiv 2407.18559, section 3.2).

    These are two matrix products, which PyTorch runs at full speed on every device and differentiates, so there is no
    kernel of our own.

    Args:
        x: (B, L, heads, P) map of P channels per head, any float dtype; the order of the pixels does not matter.
        m: (B, L, heads) weight of every pixel's contribution.
        b, c: (B, L, N) input and output vectors.
        d: (heads,) skip, or None.

    Returns:
        (B, L, heads, P) in float32 (float64 for float64 maps), also under autocast: the sum over all pixels is not
        normalised, so that with large maps it is beyond float16's range until the caller normalises it.

    Raises:
        ValueError: shapes, dtypes or devices disagree.

    Examples:
        >>> import torch, visionssm
        >>> x, m = torch.randn(1, 35, 3, 8), torch.rand(1, 35, 3)  # 35 pixels, 3 heads of 8 channels
        >>> b, c = torch.randn(2, 1, 35, 4)
        >>> visionssm.non_causal_ssd(x, m, b, c).shape
        torch.Size([1, 35, 3, 8])
    """
    _check_inputs(x, m, b, c, d)
    with without_autocast(x.device.type):
        if reference_requested():
            return non_causal_ssd_reference(x, m, b, c, d)
        return _two_products(x, m, b, c, d)


def _two_products(x: Tensor, m: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> Tensor:
    compute = torch.promote_types(x.dtype, torch.float32)
    x, m, b, c = (tensor.to(compute) for tensor in (x, m, b, c))
    weighted = (x * m[..., None]).flatten(2)  # (B, L, heads·P)
    state = b.transpose(1, 2) @ weighted  # (B, N, heads·P)
    y = (c @ state).view(x.shape)
    return y if d is None else torch.addcmul(y, x, d.to(compute)[:, None])


def _check_inputs(x: Tensor, m: Tensor, b: Tensor, c: Tensor, d: Tensor | None) -> None:
    given = {"x": x, "m": m, "b": b, "c": c} | ({} if d is None else {"d": d})
    check_floating(given)
    check_same_device(given)
    check_shape("x", x, ("B", "L", "heads", "P"))
    check_shape("b", b, ("B", "L", "N"), {"B": x.shape[0], "L": x.shape[1]})
    sizes = {"B": x.shape[0], "L": x.shape[1], "heads": x.shape[2], "N": b.shape[2]}
    check_shape("m", m, ("B", "L", "heads"), sizes)
    check_shape("c", c, ("B", "L", "N"), sizes)
    if d is not None:
        check_shape("d", d, ("heads",), sizes)
