"""The backbone type `VisionSSM` of MMEngine's registry, and the authors' dense checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor

from visionssm.checkpoints import CheckpointError, convert_state_dict, read_checkpoint, unwrap_state_dict
from visionssm.checkpoints.fitting import check_values, compare
from visionssm.heads.feature_maps import FeatureMaps

BACKBONE = "backbone."


@MODELS.register_module()
class VisionSSM(FeatureMaps):
    """Any model of this package or of timm as the backbone of a detector or segmentor.

        backbone=dict(type="VisionSSM", name="vmamba_tiny_s1l8", pretrained=True, drop_path_rate=0.2)

    Args:
        name: a registered model; see `FeatureMaps`.
        pretrained: True for the published ImageNet weights; or the path of a file with the weights of this backbone,
            or of a whole detector of the authors', of which the backbone is taken.
        out_indices: levels to return.
        frozen_stages: -1 for none, 0 for the stem, n for the stem and the first n stages.
        norm_outputs, norm_eps: a LayerNorm on every output, as the authors' dense models have.
        layers: of a plain model, the layers that are its levels, in place of a pyramid on the last one.
        with_cp: save memory by recomputing blocks in the backward pass.
        init_cfg: MMEngine's way to name a file: dict(type="Pretrained", checkpoint=PATH).
        in_chans, model_kwargs: as `FeatureMaps`.

    Raises:
        ValueError: an argument does not fit the model, or (CheckpointError) the file does not.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str | None = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_outputs: bool = True,
        norm_eps: float = 1e-5,
        layers: Sequence[int] | None = None,
        in_chans: int = 3,
        with_cp: bool = False,
        init_cfg: Mapping[str, Any] | None = None,
        **model_kwargs: Any,
    ) -> None:
        file = _file(pretrained, init_cfg)
        super().__init__(
            name,
            pretrained=pretrained is True,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_outputs=norm_outputs,
            norm_eps=norm_eps,
            layers=layers,
            in_chans=in_chans,
            **model_kwargs,
        )
        if with_cp:
            self.set_grad_checkpointing()
        if file is not None:
            load_backbone(self, file)

    def init_weights(self) -> None:
        """Nothing: MMEngine calls this before training, when the weights are already as they should be."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """(B, in_chans, H, W) to one (B, channels[i], H / strides[i], W / strides[i]) map per level."""
        return tuple(super().forward(x))


def _file(pretrained: bool | str | None, init_cfg: Mapping[str, Any] | None) -> str | None:
    if init_cfg is None:
        return pretrained if isinstance(pretrained, str) else None
    if init_cfg.get("type") != "Pretrained" or "checkpoint" not in init_cfg or init_cfg.get("prefix"):
        raise ValueError(f"init_cfg must be dict(type='Pretrained', checkpoint=PATH) or None, got {dict(init_cfg)}")
    if pretrained:
        raise ValueError(f"give either pretrained={pretrained!r} or init_cfg={dict(init_cfg)}, not both")
    return str(init_cfg["checkpoint"])


def load_backbone(maps: FeatureMaps, path: str | Path) -> None:
    """Load a backbone from the authors' file of a whole detector or segmentor, or of a backbone or classifier.

    All of the backbone's weights must be in the file; classifiers have no norms of outputs, which then stay new.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a key of the backbone is missing, unexpected or mis-shaped.
    """
    state = unwrap_state_dict(read_checkpoint(path))
    if any(key.startswith(BACKBONE) for key in state):
        state = {key.removeprefix(BACKBONE): x for key, x in state.items() if key.startswith(BACKBONE)}
    _load(maps, backbone_to_ours(maps, state), str(path))


def load_dense(model: Any, path: str | Path) -> None:
    """Load a whole detector or segmentor, neck and heads too, from its authors' file.

    Args:
        model: of mmdet or mmseg, with a `VisionSSM` as its `backbone`.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a key is missing, unexpected or mis-shaped.
    """
    state = unwrap_state_dict(read_checkpoint(path))
    backbone = {key.removeprefix(BACKBONE): x for key, x in state.items() if key.startswith(BACKBONE)}
    ours = {key: x for key, x in state.items() if not key.startswith(BACKBONE)}
    ours |= {BACKBONE + key: x for key, x in backbone_to_ours(model.backbone, backbone).items()}
    _load(model, ours, str(path))


def backbone_to_ours(maps: FeatureMaps, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's state dict in the authors' layout, or already in ours, to ours.

    The authors number their `outnorm`s by the level: 0 for stride 4, 1 for stride 8 and so on; of a plain model's
    layers they have `outnorm`s or `norm_layer`s with rising numbers, and PlainMamba `ln1` for the last. A classifier's
    own parts, and stages that are not needed, are left out; norms that the file lacks altogether are taken from `maps`.
    Classifiers of `tools/train.py` are taken as the authors' are.
    """
    if any(key.startswith(("norms.", "pyramid.")) for key in state):
        return dict(state)
    norms, rest = _norms_of_layers(maps, state) if maps.layers is not None else _norms_of_stages(maps, state)
    own_norms = {f"norms.{key}": x for key, x in maps.norms.state_dict().items()}
    if not any(key.startswith(("outnorm", "norm_layer")) for key in state):
        norms = own_norms
    converted = convert_state_dict(maps.model, rest)
    return {f"model.{key}": x for key, x in converted.items() if key not in maps.dropped_keys} | norms


_Norms = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Norms of the outputs under our names, and all else."""


def _norms_of_stages(maps: FeatureMaps, state: Mapping[str, Tensor]) -> _Norms:
    position = {stride: i for i, stride in enumerate(maps.strides)}
    norms: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"outnorm(\d)\.(weight|bias)", key)
        if match is None:
            rest[key] = value
        elif (stride := 4 * 2 ** int(match[1])) in position:
            norms[f"norms.{position[stride]}.{match[2]}"] = value
    return norms, rest


def _norms_of_layers(maps: FeatureMaps, state: Mapping[str, Tensor]) -> _Norms:
    named = re.compile(r"(?:outnorm_?|norm_layer)(\d+)\.(weight|bias)")
    found = {key: match for key in state if (match := named.fullmatch(key))}
    numbers = sorted({int(match[1]) for match in found.values()})
    norms = {f"norms.{numbers.index(int(match[1]))}.{match[2]}": state[key] for key, match in found.items()}
    if any(key.startswith("norm_layer") for key in found):
        last = {f"norms.{len(numbers)}.{part}": state.get(f"ln1.{part}") for part in ("weight", "bias")}
        norms |= {key: value for key, value in last.items() if value is not None}
    kept = {f"norms.{level}.": f"norms.{i}." for i, level in enumerate(maps.out_indices)}
    norms = {kept[key[:8]] + key[8:]: value for key, value in norms.items() if key[:8] in kept}
    return norms, {key: value for key, value in state.items() if key not in found}


def _load(model: Any, state: Mapping[str, Tensor], path: str) -> None:
    mismatch = compare(state, model)
    if mismatch:
        raise CheckpointError(f"{path!r} does not fit {type(model).__name__}; nothing was loaded:\n{mismatch}")
    check_values(state, model, repr(path))
    model.load_state_dict(state)
