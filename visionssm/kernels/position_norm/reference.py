"""The definition, in PyTorch's operators."""

from __future__ import annotations

from torch import Tensor

from visionssm.kernels.multi_scale.reference import Depthwise, Norm, convolved, normalised


def position_norm_reference(x: Tensor, update: Tensor, position: Depthwise, norm: Norm) -> tuple[Tensor, Tensor]:
    """y and its norm; shapes are those of `visionssm.kernels.position_norm`."""
    total = x + update
    y = total + convolved(total, position)
    return y, normalised(y, norm)
