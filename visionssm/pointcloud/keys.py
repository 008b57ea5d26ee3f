"""Names and layouts of the authors' weights, and ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from visionssm.layers.mamba import convert_mamba_key

_PARTS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"linear_(\d+)\.", lambda found: f"stages.{int(found[2]) - 1}."),
    (r"dow(\d+)\.", lambda found: f"generations.{int(found[2]) - 1}."),
    (r"linear_out\.", lambda found: "last.0."),
    (r"linear_bev(\d+)\.", lambda found: f"last.{found[2]}."),
    (r"dow_out\.", lambda found: "flatten."),
)
"""Parts of the 3-D backbone."""


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' weights under our names; our own names stay.

    The counter of training steps is left out. Weights of sparse convolutions in the layout of spconv 1, (z, y, x, in,
    out), get that of spconv 2, (out, z, y, x, in).
    """
    wanted = model.state_dict()
    converted = {}
    for name, value in state_dict.items():
        if name == "global_step":
            continue
        ours, tensor = convert_mamba_key(_renamed(name), value)
        if ours in wanted and _is_spconv1(tensor, wanted[ours]):
            tensor = tensor.movedim(-1, 0)
        converted[ours] = tensor
    return converted


def _renamed(name: str) -> str:
    for pattern, ours in _PARTS:
        found = re.match(rf"((?:backbone_3d\.)?){pattern}", name)
        if found:
            return found[1] + ours(found) + name[found.end() :]
    return name


def _is_spconv1(value: Tensor, wanted: Tensor) -> bool:
    """Whether a kernel has its channels of the output behind those of the input, as the files of spconv 1."""
    if value.dim() != wanted.dim() or value.dim() not in (4, 5) or value.shape == wanted.shape:
        return False
    return value.movedim(-1, 0).shape == wanted.shape
