"""The predictor that a checkpoint is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from visionssm.checkpoints import CheckpointError, read_checkpoint
from visionssm.engine.task import Predictor
from visionssm.extras import needs_extra
from visionssm.tasks.classification.predictor import official_classifier, task_of, trained_classifier
from visionssm.tasks.detection.predictor import trained_detector
from visionssm.tasks.segmentation.predictor import trained_segmenter


def _trained_openmmlab(checkpoint: Mapping[str, Any]) -> Any:
    from visionssm.tasks.openmmlab.predictor import trained  # needs the openmmlab extra, only here

    return trained(checkpoint)


TASKS: Mapping[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
    "classification": (trained_classifier, "train"),
    "detection": (trained_detector, "train"),
    "segmentation": (trained_segmenter, "train"),
    "mmdet": (_trained_openmmlab, "openmmlab"),
    "mmseg": (_trained_openmmlab, "openmmlab"),
}
"""From the task that a checkpoint names to what makes its predictor, and the extra which that needs."""


def load_predictor(path: str | Path, *, model_name: str | None = None, **options: Any) -> Predictor:
    """Load a checkpoint of any task that training wrote, or with `model_name` an official or bare classifier.

    Args:
        path: see `load_classifier`.
        model_name: registered variant, needed for files that do not say what they are.
        options: fields of the task's predictor to change (`top_k` of a classifier, `threshold` of a detector); those
            that are None stay as they are.
    Raises:
        FileNotFoundError, CheckpointError: see `visionssm.checkpoints.read_checkpoint`.
        MissingExtraError: (an ImportError) the task needs packages that are not installed.
        ValueError: the checkpoint does not say what it is and `model_name` is missing or wrong, or the task has no such
            option.

    Examples:
        >>> import timm, torch, visionssm
        >>> from PIL import Image
        >>> torch.save(timm.create_model("vmamba_nano_test").state_dict(), "weights.pth")
        >>> predictor = visionssm.load_predictor("weights.pth", model_name="vmamba_nano_test", top_k=2)
        >>> (result,) = predictor([Image.new("RGB", (80, 60))])
        >>> predictor.columns, len(result.rows())
        (('rank', 'class', 'score'), 2)
    """
    if model_name is not None:
        predictor: Any = official_classifier(model_name, path)
    else:
        checkpoint = read_checkpoint(path)
        task = task_of(checkpoint, path)
        if task not in TASKS:
            raise CheckpointError(f"{str(path)!r} is of the task {task!r}; image files go with {', '.join(TASKS)}")
        make, extra = TASKS[task]
        with needs_extra(extra, f"a checkpoint of the task {task!r}"):
            predictor = make(checkpoint)
    given = {name: value for name, value in options.items() if value is not None}
    known = {field.name for field in fields(predictor)}
    for name in given:
        if name not in known:
            raise ValueError(f"{name} does not apply here: a {type(predictor).__name__} has no such option")
    return cast(Predictor, replace(predictor, **given))
