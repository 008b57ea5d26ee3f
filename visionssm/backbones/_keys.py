"""Names in the authors' files that several families share, because their code began as VMamba's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import nn

from visionssm.backbones._base import StateDict

Rename = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern, and its replacement as `re.sub` takes it."""

_VMAMBA: tuple[Rename, ...] = (
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^classifier\.norm\.", "head.norm."),
    (r"^classifier\.head\.", "head.fc."),
)


def rename_keys(state_dict: StateDict, renames: Sequence[Rename]) -> StateDict:
    """Send every key through the substitutions, in turn."""
    out: StateDict = {}
    for name, value in state_dict.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        out[name] = value
    return out


def vmamba_to_ours(state_dict: StateDict, model: nn.Module) -> StateDict:
    """VMamba's keys to ours: names of older files, the head, and projections stored as 1×1 convolutions."""
    return convolutions_to_linear(rename_keys(state_dict, _VMAMBA), model)


def convolutions_to_linear(state_dict: StateDict, model: nn.Module) -> StateDict:
    """Weights of 1×1 convolutions, under our names, as matrices where the model has a linear layer."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    return {
        name: value.flatten(1) if value.shape[2:] == (1, 1) and len(shapes.get(name, ())) == 2 else value
        for name, value in state_dict.items()
    }
