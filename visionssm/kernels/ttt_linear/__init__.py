"""TTT-Linear: a recurrent layer whose state is a linear model that learns, step by step, from the sequence itself."""

from __future__ import annotations

from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import select_backend
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.ttt_linear.op import ttt_linear_op
from visionssm.kernels.ttt_linear.reference import ttt_linear_reference

__all__ = ["ttt_linear"]


def ttt_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    *,
    eps: float = 1e-6,
) -> Tensor:
    """Test-time training of a linear model: keys are mapped to values, a mini-batch of tokens after the other.

    With f(x) = x W + b, LN a layer norm over D with `norm_weight` and `norm_bias`, and the loss of token j
    l_j = |LN(f(k_j)) − (v_j − k_j)|² / 2, whose gradients G_j are taken at the start of the mini-batch,

        f_i = f − Σ_{j ≤ i} token_scale_i eta_j G_j,   y_i = q_i + LN(f_i(q_i)),

    and the last f_i of a mini-batch is the f of the next (Sun et al. 2024, arXiv 2407.04620, sections 2.3 to 2.5). The
    last mini-batch may be shorter than the others. Compiled kernels run it on CPUs; elsewhere it is PyTorch's
    operations, a mini-batch after the other.

    Args:
        q, k, v: (B, L, H, D) queries, keys and values of H heads, any float dtype.
        eta: (B, L, H) learning rate of each token.
        token_scale: (T,) factor of the learning rates by the place in the mini-batch; its length is the mini-batch's.
        weight: (H, D, D) W at the start, inputs before outputs.
        bias: (H, D) b at the start.
        norm_weight, norm_bias: (H, D) of the layer norm.
        eps: of the layer norm, added to the variance.

    Returns:
        (B, L, H, D) in q's dtype; the model is kept in float32 (float64 for float64 sequences), also under autocast.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or a mini-batch is of no tokens.

    Examples:
        >>> import torch, visionssm
        >>> q, k, v = torch.randn(3, 1, 40, 2, 8).unbind()  # 40 tokens, 2 heads of 8 channels
        >>> eta, token_scale = torch.full((1, 40, 2), 0.1), 1 / torch.arange(1, 17)
        >>> weight, zeros = torch.randn(2, 8, 8), torch.zeros(2, 8)
        >>> visionssm.ttt_linear(q, k, v, eta, token_scale, weight, zeros, zeros + 1, zeros).shape
        torch.Size([1, 40, 2, 8])
    """
    _check_inputs(q, k, v, eta, token_scale, weight, bias, norm_weight, norm_bias)
    with without_autocast(q.device.type):
        if select_backend(q) == "cpu":
            return ttt_linear_op((q, k, v, eta, token_scale, weight, bias, norm_weight, norm_bias), eps)
        return ttt_linear_reference(q, k, v, eta, token_scale, weight, bias, norm_weight, norm_bias, eps)


def _check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
) -> None:
    given = {"q": q, "k": k, "v": v, "eta": eta, "token_scale": token_scale, "weight": weight, "bias": bias}
    given |= {"norm_weight": norm_weight, "norm_bias": norm_bias}
    check_floating(given)
    check_same_device(given)
    check_shape("q", q, ("B", "L", "H", "D"))
    sizes = dict(zip(("B", "L", "H", "D"), q.shape, strict=True))
    for name in ("k", "v"):
        check_shape(name, given[name], ("B", "L", "H", "D"), sizes)
    check_shape("eta", eta, ("B", "L", "H"), sizes)
    check_shape("token_scale", token_scale, ("T",))
    if not len(token_scale):
        raise ValueError("token_scale is empty; give a factor for each token of a mini-batch")
    check_shape("weight", weight, ("H", "D", "D"), sizes)
    for name in ("bias", "norm_weight", "norm_bias"):
        check_shape(name, given[name], ("H", "D"), sizes)
