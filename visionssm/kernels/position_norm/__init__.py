"""A sum, the depth-wise convolution of it added, and the layer norm of that: local positions before an MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.checks import check_once, check_same_device, check_shape
from visionssm.kernels.multi_scale import Depthwise, Norm
from visionssm.kernels.position_norm.reference import position_norm_reference

__all__ = ["position_norm"]

_RIGHT: set[object] = set()  # see `check_once`


def position_norm(x: Tensor, update: Tensor, position: Depthwise, norm: Norm) -> tuple[Tensor, Tensor]:
    """y = z + position(z) with z = x + update, and norm(y).

    The convolution sees zeros around the map. In inference on CPUs one compiled pass does all; else the definition.

    Args:
        x, update: (B, H, W, C) maps of any float dtype.
        position: a depth-wise convolution (C, 1, 3, 3).
        norm: of C channels.

    Returns:
        y and norm(y), each (B, H, W, C).

    Raises:
        ValueError: shapes or devices disagree.

    Examples:
        >>> import torch
        >>> from visionssm.kernels.multi_scale import Depthwise, Norm
        >>> from visionssm.kernels.position_norm import position_norm
        >>> position = Depthwise(torch.zeros(4, 1, 3, 3), torch.ones(4))
        >>> x, update = torch.randn(2, 1, 6, 5, 4)
        >>> y, normed = position_norm(x, update, position, Norm(torch.ones(4), torch.zeros(4), 1e-5))
        >>> torch.testing.assert_close(y, x + update + 1)
    """
    tensors = (x, update, *position, norm.weight, norm.bias)
    check_once(_RIGHT, tensors, lambda: _check(*tensors))
    if not torch.is_grad_enabled() and runs_compiled(*tensors):
        from visionssm.kernels.position_norm import cpu

        return cpu.forward(x, update, position, norm)
    return position_norm_reference(x, update, position, norm)


def _check(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> None:
    named = {"x": x, "update": update, "position.weight": weight}
    vectors = {"position.bias": bias, "norm.weight": scale, "norm.bias": shift}
    check_same_device({**named, **vectors})
    check_shape("x", x, ("B", "H", "W", "C"))
    sizes = dict(zip("BHWC", x.shape, strict=True))
    check_shape("update", update, ("B", "H", "W", "C"), sizes)
    check_shape("position.weight", weight, ("C", "1", "3", "3"), {**sizes, "1": 1, "3": 3})
    for name, vector in vectors.items():
        check_shape(name, vector, ("C",), sizes)
