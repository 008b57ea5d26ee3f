"""The predictor that a checkpoint is of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import visionssm.tasks  # noqa: F401  makes the tasks known
from visionssm.checkpoints import CheckpointError
from visionssm.engine.checkpoint import read_trained
from visionssm.engine.description import description_of
from visionssm.engine.task import Predictor, Task, find_task, task_names
from visionssm.prediction.exported import OPENERS, is_exported, load_exported, with_options
from visionssm.tasks.classification.predictor import Classifier, official_classifier, registered_classifier

_SUFFIXES = {".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar", ".safetensors", *OPENERS}
_CLASSIFIERS_ONCE_SAID = {"model", "classes", "input"}
"""What describes a classifier in checkpoints from before checkpoints named their task."""


def load_predictor(path: str | Path, *, model_name: str | None = None, **options: Any) -> Predictor:
    """Load a checkpoint of any task that training wrote, or with `model_name` an official or bare classifier.

    Args:
        path: checkpoint of `tools/train.py` (.pth, or best.safetensors), which says what it is; or any file that
            `visionssm.load_official` reads; or the name of a registered model, whose published weights are fetched;
            or an exported file (.onnx, .pt2), see `visionssm.prediction.load_exported`.
        model_name: registered variant, needed for files that do not say what they are.
        options: fields of the task's predictor to change (`top_k` of a classifier, `threshold` of a detector); those
            that are None stay as they are.
    Raises:
        FileNotFoundError, CheckpointError: see `visionssm.checkpoints.read_checkpoint`; or the checkpoint names no
            task, or one that is not known.
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
    if is_exported(path):
        return load_exported(path, **options)
    if model_name is not None:
        predictor: Any = official_classifier(model_name, path)
    elif _is_name(path):
        predictor = registered_classifier(str(path), pretrained=True)
    else:
        checkpoint = read_trained(path)
        predictor = task_of(checkpoint, path).predictor(checkpoint)
    return with_options(predictor, options)


def load_classifier(path: str | Path, *, model_name: str | None = None) -> Classifier:
    """Load a classifier's checkpoint that training wrote, or with `model_name` an official or bare one.

    Args:
        path: see `load_predictor`.
        model_name: registered variant, needed for files that do not say what they are. Class names are ImageNet's where
            the class count is, else "class 0", "class 1", …
    Raises:
        FileNotFoundError, CheckpointError, ValueError: as `load_predictor`; or the checkpoint is of another task.
    """
    if model_name is not None:
        return official_classifier(model_name, path)
    if _is_name(path):
        return registered_classifier(str(path), pretrained=True)
    checkpoint = read_trained(path)
    task = task_of(checkpoint, path)
    if task.name != "classification":
        raise CheckpointError(f"{str(path)!r} is of the task {task.name!r}; a classifier is needed here")
    return cast(Classifier, task.predictor(checkpoint))


def _is_name(path: str | Path) -> bool:
    """Whether this is meant as a model's name: no file of this name is there, and it does not look like one."""
    given = Path(path).expanduser()
    return len(given.parts) == 1 and given.suffix.lower() not in _SUFFIXES and not given.exists()


def task_of(checkpoint: Any, path: str | Path) -> Task:
    """The task of a checkpoint that training wrote.

    Raises:
        CheckpointError: it does not name one, or one that is not known.
    """
    about = description_of(checkpoint) if isinstance(checkpoint, Mapping) else {}
    if not about:
        raise CheckpointError(
            f"{str(path)!r} does not say which model it is of; it was not written by this package's training. Name the "
            "model (--model NAME) for an official or bare checkpoint."
        )
    name = about.get("task")
    if name is None and about.keys() >= _CLASSIFIERS_ONCE_SAID:
        name = "classification"
    if not isinstance(name, str) or name not in task_names():
        said = "names no task" if name is None else f"is of the task {name!r}"
        raise CheckpointError(
            f"{str(path)!r} {said}; image files go with {', '.join(task_names())}. A task of another package is known "
            "when its module is imported (--import MODULE)."
        )
    return find_task(name)
