"""The network of a classifier's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from visionssm.checkpoints import CheckpointError
from visionssm.engine.description import check_model, description_of, fields_of, rebuilt

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
    size = fields_of(about, "input", _INPUT) if about.get("input") is not None else {}
    return model, [str(x) for x in about.get("classes") or ()], size
