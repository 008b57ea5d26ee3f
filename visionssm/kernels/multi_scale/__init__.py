"""Multi-scale convolutions of a normalised map, added to it (HRVMamba's block), with the layer norm of the sum."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import runs_compiled
from visionssm.kernels.checks import check_once, check_same_device, check_shape
from visionssm.kernels.multi_scale.reference import Depthwise, Norm, multi_scale_reference

__all__ = ["Depthwise", "Norm", "multi_scale"]

_RIGHT: set[object] = set()  # see `check_once`


def multi_scale(
    x: Tensor, position: Depthwise | None, norm: Norm, scales: tuple[Depthwise, ...], last_norm: Norm
) -> tuple[Tensor, Tensor]:
    """y = x + GELU(z), z of n equal parts of the channels of norm(x + position(x)), part j convolved by scale j.

    Channel n·i + j of z is channel i of part j; a convolution sees zeros around the map. In inference on CPUs one
    compiled pass reads x once and writes both results; all else runs the definition.

    Args:
        x: (B, H, W, C) map of any float dtype.
        position: a depth-wise convolution (C, 1, 3, 3) whose result the norm sees added, or None.
        norm, last_norm: of C channels.
        scales: n depth-wise convolutions (C/n, 1, side, side) of odd sides.

    Returns:
        y and last_norm(y), each (B, H, W, C).

    Raises:
        ValueError: shapes or devices disagree, or a side is even.

    Examples:
        >>> import torch
        >>> from visionssm.kernels.multi_scale import Depthwise, Norm, multi_scale
        >>> norm = Norm(torch.ones(4), torch.zeros(4), 1e-5)
        >>> scales = tuple(Depthwise(torch.zeros(2, 1, side, side), torch.zeros(2)) for side in (3, 5))
        >>> x = torch.randn(1, 6, 5, 4)
        >>> y, normed = multi_scale(x, None, norm, scales, norm)  # GELU of zeros is 0
        >>> torch.testing.assert_close(y, x)
    """
    parameters = [part[:2] for part in (position or (None, None), norm, *scales, last_norm)]
    tensors: list[Tensor | None] = [x, *(tensor for pair in parameters for tensor in pair)]
    check_once(_RIGHT, tensors, lambda: _check(x, position, norm, scales, last_norm))
    if not torch.is_grad_enabled() and runs_compiled(x, *tensors[1:]):
        from visionssm.kernels.multi_scale import cpu

        return cpu.forward(x, position, norm, scales, last_norm)
    return multi_scale_reference(x, position, norm, scales, last_norm)


def _check(x: Tensor, position: Depthwise | None, norm: Norm, scales: tuple[Depthwise, ...], last_norm: Norm) -> None:
    check_shape("x", x, ("B", "H", "W", "C"))
    channels = x.shape[-1]
    if not scales or channels % len(scales):
        raise ValueError(f"x has {channels} channels, which cannot be divided among {len(scales)} scales")
    named = {"norm": norm, "last_norm": last_norm, "position": position}
    named |= {f"scales[{i}]": scale for i, scale in enumerate(scales)}
    tensors = {"x": x}
    for name, part in named.items():
        if part is None:
            continue
        tensors |= {f"{name}.weight": part.weight, f"{name}.bias": part.bias}
        width = channels // len(scales) if name.startswith("scales") else channels
        check_shape(f"{name}.bias", part.bias, ("C",), {"C": width})
        if isinstance(part, Norm):
            check_shape(f"{name}.weight", part.weight, ("C",), {"C": width})
            continue
        side = 3 if name == "position" else part.weight.shape[-1]
        check_shape(f"{name}.weight", part.weight, ("C", "1", "side", "side"), {"C": width, "1": 1, "side": side})
        if side % 2 == 0:
            raise ValueError(
                f"{name}.weight has a side of {side} pixels; a convolution that keeps the size has an odd one"
            )
    check_same_device(tensors)
