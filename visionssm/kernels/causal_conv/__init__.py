"""Causal depth-wise convolution of tokens with SiLU, as Mamba has it before its scan (arXiv 2312.00752)."""

from __future__ import annotations

from torch import Tensor

from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.causal_conv.reference import causal_conv, causal_conv_silu_reference
from visionssm.kernels.checks import check_same_device, check_shape
from visionssm.kernels.transforms import may_need_gradients

__all__ = ["causal_conv", "causal_conv_silu"]

LANES = 16
"""Channels that the compiled passes take together (`cpu.math`)."""


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor, *, backwards: bool = False) -> Tensor:
    """SiLU of a depth-wise convolution in which a token sees itself and the tokens before it.

    y_t = SiLU(bias + Σ_j weight[:, j] ⊙ x_{t + j − taps + 1}), with zeros before the first token (Gu & Dao 2023, arXiv
    2312.00752, section 3.4). Backwards a token sees those after it: the same as reversing, convolving, reversing back.

    On CPUs compiled passes run it in float32, with gradients, where the channels fill whole vectors of 16 and nobody
    looks on: convolution and SiLU at once, on views too, and nothing but the inputs is kept for the backward pass. All
    else runs PyTorch's convolution.

    Args:
        x: (B, T, D) tokens, any float dtype.
        weight: (D, taps).
        bias: (D,).
        backwards: whether a token sees those after it.

    Returns:
        (B, T, D).

    Raises:
        ValueError: shapes or devices disagree.

    Examples:
        >>> import torch
        >>> from visionssm.kernels.causal_conv import causal_conv_silu
        >>> y = causal_conv_silu(torch.ones(1, 3, 16), torch.ones(16, 2), torch.zeros(16))
        >>> torch.testing.assert_close(y[0, :, 0], torch.nn.functional.silu(torch.tensor([1.0, 2, 2])))
    """
    check_same_device({"x": x, "weight": weight, "bias": bias})
    check_shape("x", x, ("B", "T", "D"))
    check_shape("weight", weight, ("D", "taps"), {"D": x.shape[2]})
    check_shape("bias", bias, ("D",), {"D": x.shape[2]})
    inputs = (x, weight, bias)
    if not runs_compiled(*inputs) or x.shape[2] % LANES or not x.numel():
        return causal_conv_silu_reference(x.contiguous(), weight, bias, backwards=backwards)
    from visionssm.kernels.causal_conv import cpu

    if may_need_gradients(inputs):
        y: Tensor = cpu.Differentiable.apply(*inputs, backwards)  # type: ignore[no-untyped-call]
        return y
    return cpu.forward(*inputs, backwards)
