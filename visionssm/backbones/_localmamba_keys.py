"""LocalVim's published files: what they have once for each route, we have in one tensor for all."""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch import Tensor

from visionssm.backbones._base import StateDict
from visionssm.backbones._keys import rename_keys
from visionssm.backbones._plain import PlainBackbone

# The parameters that LocalVim's files have once for each route, and what makes ours of them: below each other, or along
# a new axis of routes.
_ROUTED = {
    "A_log": ("A_logs", torch.cat),
    "D": ("Ds", torch.cat),
    "conv1d.weight": ("conv1d.weight", torch.cat),
    "conv1d.bias": ("conv1d.bias", torch.cat),
    "x_proj.weight": ("x_proj_weight", torch.stack),
    "dt_proj.weight": ("dt_projs_weight", torch.stack),
    "dt_proj.bias": ("dt_projs_bias", torch.stack),
}


def localvim_to_ours(state_dict: StateDict, model: PlainBackbone) -> StateDict:
    """The keys of LocalVim's authors to ours, and positions resampled if they were made for another square of patches.

    Tables of angles are left out: the model makes its own.
    """
    out: StateDict = {}
    routed: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, value in rename_keys(
        state_dict, ((r"^norm_f\.", "norm."), (r"\.mixer\.attn\.", ".mixer.multi_scan.attn."))
    ).items():
        one_route = re.fullmatch(r"(.*\.mixer\.)([A-Za-z]\w*?)_(\d+)((?:\.\w+)?)", name)
        if one_route and one_route[2] + one_route[4] in _ROUTED:
            routed[one_route[1] + one_route[2] + one_route[4]][int(one_route[3])] = value
        elif not name.startswith("rope.freqs_"):
            out[name] = value
    for name, parts in routed.items():
        path, _, last = name.rpartition(".mixer.")
        ours, joined = _ROUTED[last]
        out[f"{path}.mixer.{ours}"] = joined([parts[k] for k in sorted(parts)])
    table = out.get("pos_embed")
    if table is not None:
        out["pos_embed"] = model.fitted_positions(table)
    return out
