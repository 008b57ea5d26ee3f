"""The network of a classifier's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from visionssm.checkpoints import CheckpointError
from visionssm.engine.description import (
    check_model,
    check_numbers,
    class_names_of,
    description_of,
    fields_of,
    rebuilt,
)

_LARGEST_SIDE = 4096
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box", "random")
_INPUT = ("size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def build_classifier(checkpoint: Mapping[str, Any]) -> tuple[nn.Module, list[str], dict[str, Any]]:
    """Rebuild the trained classifier from what `load_checkpoint` returned, without its configuration file.

    Returns:
        the timm model in evaluation mode, with the moving-average weights where training kept them; its class names;
        its input: `size` (C, H, W), `mean`, `std`, `interpolation`, `crop_pct`.
    Raises:
        CheckpointError: the checkpoint is not of a classifier, asks for what a file may not ask for, or its weights do
            not fit its own description.
    """
    about = description_of(checkpoint)
    if not about:
        raise CheckpointError(
            "the checkpoint does not describe a classifier (no meta['visionssm']); load it with its config"
        )
    described = about.get("model")
    arguments = dict(described) if isinstance(described, Mapping) else {}
    name = arguments.pop("name", None)
    check_model(name, arguments)
    model = rebuilt(lambda: timm.create_model(name, pretrained=False, **arguments), checkpoint, str(name))
    classes = class_names_of(about, getattr(model, "num_classes", None))
    return model, classes, _input_of(about)


def _input_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a description says of the images, none of which leads to an image of unbounded size.

    Raises:
        CheckpointError: a value is not usable.
    """
    if about.get("input") is None:
        return {}
    said = {key: value for key, value in fields_of(about, "input", _INPUT).items() if value is not None}
    if "size" in said:
        check_numbers(said["size"], "input.size", count=3, low=1, high=_LARGEST_SIDE)
        said["size"] = tuple(int(side) for side in said["size"])
    for key, low in (("mean", -1e3), ("std", 1e-3)):
        if key in said:
            check_numbers(said[key], f"input.{key}", count=said.get("size", (3,))[0], low=low, high=1e3)
    if "crop_pct" in said:
        check_numbers([said["crop_pct"]], "input.crop_pct", count=1, low=0.1, high=2)
    for key, known in (("interpolation", _INTERPOLATIONS), ("crop_mode", ("center", "squash", "border"))):
        if key in said and said[key] not in known:
            raise CheckpointError(f"the checkpoint's description has input.{key}={said[key]!r}; known are {known}")
    return said
