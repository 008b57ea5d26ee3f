"""What a checkpoint says of a model of mmdet or mmseg, and building it again though the file may come from anybody.

MMEngine's registries import whatever a dotted name points to, so names are looked up here first, among what is
registered; and fields that name a file or an address are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS, Registry

from visionssm.checkpoints import CheckpointError
from visionssm.engine.description import check_model, is_plain

TRANSFORMS = {
    *("CenterCrop", "FixShapeResize", "ImageToTensor", "KeyMapper", "Normalize", "PackDetInputs", "PackSegInputs"),
    *("Pad", "PhotoMetricDistortion", "RandomChoiceResize", "RandomCrop", "RandomFlip", "RandomResize", "Resize"),
    *("ResizeShortestEdge", "ResizeToMultiple", "TestTimeAug", "TransformBroadcaster", "WrapFieldsToLists"),
}
"""Steps of a test pipeline that a checkpoint may name; those that read files are replaced by our reader."""

_LARGEST_SIDE, _LEAST_STRIDE = 4096, 8
_LIMITS = {"divisor": 1024, "factor": 8, "ratio": 8}  # by a part of the key's name
_READERS = {"LoadImageFromFile", "LoadAnnotations"}
_LEFT_OUT = {"init_cfg", "pretrained", "checkpoint", "checkpoint_path", "load_from", "teacher_ckpt", "teacher_config"}
_FETCHING = {"language_model", "text_encoder", "tokenizer_name", "encoder_config"}
_NOT_REGISTERED = {"nms", "soft_nms", "nms_match", "RoIAlign", "RoIPool", "PSRoIPool"}  # names of mmcv's operators
_OF_THE_BACKBONE = {"type", "name", "out_indices", "frozen_stages", "norm_outputs", "in_chans", "with_cp"}


def checkpoint_meta(cfg: Mapping[str, Any], dataset: Any) -> dict[str, Any]:
    """What a checkpoint needs to say of a model of mmdet or mmseg, to be used without its config.

    Args:
        cfg: of the run.
        dataset: with the class names, or None.
    """
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}
    pipeline = (loader.get("dataset") or {}).get("pipeline") or []
    return {
        "task": cfg["default_scope"],
        "model": _plain(cfg["model"]),
        "pipeline": [_plain(step) for step in pipeline],
        "classes": list((getattr(dataset, "metainfo", None) or {}).get("classes") or ()),
    }


def _plain(value: Any) -> Any:
    """A section of a config in plain types; classes, which configs in Python style hold, become their dotted names."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value


def model_of(about: Mapping[str, Any], scope: str) -> dict[str, Any]:
    """The config of the model that a checkpoint describes, with nothing in it that a file may not ask for.

    Args:
        about: the checkpoint's description.
        scope: "mmdet" or "mmseg", whose modules are registered.
    Raises:
        CheckpointError: a type is not registered, or a value is not plain.
    """
    registries = importlib.import_module(f"{scope}.registry")
    allowed = (registries.MODELS, registries.TASK_UTILS, MODELS)
    model = _allowed(about.get("model"), allowed, "model")
    if not isinstance(model, dict) or not isinstance(model.get("backbone"), dict):
        raise CheckpointError("the checkpoint does not describe a model with a backbone")
    _check_sizes(model.get("data_preprocessor"), "model.data_preprocessor")
    test_cfg = model.get("test_cfg")
    stride = test_cfg.get("stride", 64) if isinstance(test_cfg, dict) else 64
    if any(step < _LEAST_STRIDE for step in (stride if isinstance(stride, list) else [stride])):
        raise CheckpointError(f"model.test_cfg.stride={stride} would take for ever; at least {_LEAST_STRIDE} pixels")
    return model


def _check_sizes(value: Any, where: str, limit: int = _LARGEST_SIDE) -> None:
    """Refuse numbers that make an image of unbounded size.

    Raises:
        CheckpointError: naming the place.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            kind = next((kind for kind in _LIMITS if kind in str(key)), "")
            _check_sizes(item, f"{where}.{key}", _LIMITS.get(kind, limit))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_sizes(item, where, limit)
    elif isinstance(value, (int, float)) and abs(value) > limit:
        raise CheckpointError(f"the checkpoint's description has {where}={value!r}; the limit is {limit}")


def pipeline_of(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps of the test pipeline that a checkpoint describes, without those that read files.

    Raises:
        CheckpointError: a step is none of `TRANSFORMS`, or has a value that is not plain.
    """
    steps = about.get("pipeline")
    if not isinstance(steps, (list, tuple)) or not is_plain(steps):
        raise CheckpointError("the checkpoint does not describe its pipeline")
    _check_sizes(steps, "pipeline")
    return [dict(step) for step in map(_step, steps) if step["type"] not in _READERS]


def _step(step: Any) -> dict[str, Any]:
    if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
        raise CheckpointError("the checkpoint's pipeline has a step without a type")
    step = dict(step, type=step["type"].rpartition(".")[2])
    if step["type"] not in TRANSFORMS | _READERS:
        raise CheckpointError(f"the checkpoint's pipeline has the step {step['type']!r}, which a file may not ask for")
    return {key: [_step(x) for x in value] if key == "transforms" else value for key, value in step.items()}


def _allowed(value: Any, registries: tuple[Registry, ...], where: str) -> Any:
    """A copy in which every type is registered, every value plain, and nothing names a file or an address."""
    if isinstance(value, (list, tuple)):
        return [_allowed(item, registries, where) for item in value]
    if not isinstance(value, Mapping):
        if not is_plain(value) or (isinstance(value, str) and any(mark in value for mark in "/\\:()")):
            raise CheckpointError(f"the checkpoint's description has an unusable value in {where}: {value!r:.60}")
        return value
    fetching = _FETCHING & value.keys()
    if fetching:
        raise CheckpointError(f"{where}.{min(fetching)} would fetch a model; load this checkpoint with its config")
    kept = {
        str(key): _allowed(item, registries, f"{where}.{key}")
        for key, item in value.items()
        if key not in _LEFT_OUT and key != "type"
    }
    if "type" in value:
        kept["type"] = _registered(value["type"], registries, where)
    if kept.get("type") == "VisionSSM":
        check_model(kept.get("name"), {key: item for key, item in kept.items() if key not in _OF_THE_BACKBONE})
    return kept


def _registered(name: Any, registries: tuple[Registry, ...], where: str) -> str:
    """The bare name of a registered type, given by that name, with a scope, or as the class's own dotted name."""
    bare = str(name).rpartition(".")[2]
    for registry in registries:
        kind = registry.module_dict.get(bare)
        if kind is not None and str(name) in (
            bare,
            f"{registry.scope}.{bare}",
            f"{kind.__module__}.{kind.__qualname__}",
        ):
            return bare
    if str(name) in _NOT_REGISTERED:
        return bare
    raise CheckpointError(f"the checkpoint asks for {where}.type={name!r:.80}, which is not registered")
