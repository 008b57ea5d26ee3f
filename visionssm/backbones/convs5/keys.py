"""Names and layouts of the authors' checkpoints (JAX with flax) in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_RENAMES = [
    (r"^params\.", ""),
    (r"^sequence_model\.layers_(\d+)\.", r"layers.\1."),
    (r"\bseq\.C_D_conv\.", "readout."),
    (r"\bseq\.", "ssm."),
    (r"\bLambda_(re|im)$", r"lambda_\1"),
    (r"\bssm\.([BC])$", lambda match: f"ssm.{match[1].lower()}"),
    (r"\bSEBlock_0\.", "se."),
    (r"^action_embeds\.embedding$", "action_embed.weight"),
    (r"^action_conv\.Conv_0\.", "action_proj."),
    (r"^(encoder|decoder)\.Conv_0\.", r"\1.stem."),
    (r"^(encoder|decoder)\.ResNetBlock_(\d+)\.", r"\1.blocks.\2."),
    (r"\bAddBias_0\.bias$", "conv2.bias"),
    (r"\bdecoder\.LayerNorm_0\.", "decoder.norm."),
    (r"\bdecoder\.Dense_0\.", "decoder.head."),
    (r"\breadout\.Dense_0\.", "readout.gate."),
    (r"\bConv_(\d)\.", lambda match: f"conv{int(match[1]) + 1}."),
    (r"\bGroupNorm_(\d)\.", lambda match: f"norm{int(match[1]) + 1}."),
    (r"\b(kernel|scale)$", "weight"),
]


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The authors' parameters under our names and in PyTorch's layouts; a state dict of ours is returned as it is.

    Convolution kernels are (row, column, in, out) there, dense kernels (in, out), B is one matrix whose columns are
    ordered by input channel, row and column, C is (row, column, state, out, re and im).

    Args:
        state_dict: flax's `params`, nested or with names joined by dots; values are tensors or numpy arrays.
        model: `ConvS5`, or a `ConvS5Layer`.
    """
    flat = flatten_parameters(state_dict)
    wanted = model.state_dict()
    if flat.keys() == wanted.keys():
        return flat
    converted = {}
    for name, value in flat.items():
        ours = name
        for pattern, replacement in _RENAMES:
            ours = re.sub(pattern, replacement, ours)  # type: ignore[call-overload]
        converted[ours] = _in_our_layout(name.rsplit(".", 1)[-1], value, wanted.get(ours))
    return converted


def flatten_parameters(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Flax's nested `params`, of numpy arrays or tensors, as one dictionary of tensors with names joined by dots."""
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten_parameters(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = torch.as_tensor(value)
    return flat


def _in_our_layout(leaf: str, value: Tensor, ours: Tensor | None) -> Tensor:
    if leaf == "kernel":
        return (value.permute(3, 2, 0, 1) if value.ndim == 4 else value.t()).contiguous()
    if leaf == "B" and ours is not None and value.numel() == ours.numel():
        return value.reshape(ours.shape)
    if leaf == "C":
        return value.permute(3, 2, 0, 1, 4).contiguous()
    return value.flatten() if leaf == "log_step" else value
