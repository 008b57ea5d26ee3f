"""What the tasks of detection and segmentation share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from visionssm.checkpoints import CheckpointError
from visionssm.engine.checkpoint import load_strictly
from visionssm.engine.errors import ConfigError


def class_names(train_set: Any, val_set: Any, num_classes: int) -> list[str]:
    """Class names of the data sets, "class 0", … if they have none.

    Raises:
        ConfigError: the data sets differ, or have another number of classes than the model.
    """
    metas = [dict(getattr(data, "metainfo", None) or {}) for data in (val_set, train_set) if data is not None]
    named = [list(meta["classes"]) for meta in metas if meta.get("classes")]
    if len(named) == 2 and named[0] != named[1]:
        odd = sorted(set(named[0]) ^ set(named[1]))
        raise ConfigError(
            f"the training and validation data have different classes: {len(named[1])} and {len(named[0])}; "
            f"only in one of them: {', '.join(odd[:5]) or 'none, but their order differs'}"
        )
    if not named:
        return [f"class {number}" for number in range(num_classes)]
    if len(named[0]) != num_classes:
        raise ConfigError(
            f"model.num_classes={num_classes}, but the data set has {len(named[0])} classes; set "
            f"model.num_classes={len(named[0])}"
        )
    return named[0]


def check_same_model(meta: Mapping[str, Any], path: str, about: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse a checkpoint whose description differs in one of the keys.

    Raises:
        CheckpointError: naming the difference.
    """
    model = (meta.get("visionssm") or {}).get("model")
    if not model:
        return
    for key in keys:
        if model.get(key) != about[key]:
            raise CheckpointError(
                f"{path!r} is of another model: its {key} is {model.get(key)!r}, the config's {about[key]!r}. Use the "
                "config it was trained with."
            )


def pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def rebuilt(kind: Any, checkpoint: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """Build a task's model from its checkpoint's description; return it in evaluation mode with its class names.

    Args:
        kind: class of the task's model.
        checkpoint: as `read_checkpoint` returned it, with `meta["visionssm"]`.
    Raises:
        CheckpointError: the weights do not fit the description.
    """
    about = checkpoint["meta"]["visionssm"]
    model = kind(**about["model"])
    load_strictly(model, checkpoint["state_dict"], str(about["model"].get("name")))
    return model.eval(), list(about["classes"])
