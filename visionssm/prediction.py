"""Classifying image files with a trained or published checkpoint; what `tools/predict.py` calls."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from timm import create_model, is_model
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset, resolve_model_data_config
from torch import Tensor, nn

from visionssm.checkpoints import CheckpointError, create_official, read_checkpoint
from visionssm.data.images import UnreadableImageError, read_image
from visionssm.files import complete_or_absent


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode with all that is needed to apply it to a file.

    Attributes:
        model: (B, C, H, W) to (B, classes) scores before softmax.
        classes: class names in the order of the scores.
        transform: PIL image to (C, H, W).
        image_mode: "RGB", or "L" for models of one channel.
    """

    model: nn.Module
    classes: Sequence[str]
    transform: Callable[[Image.Image], Tensor]
    image_mode: Literal["RGB", "L"]


@dataclass(frozen=True)
class Prediction:
    """The best classes of one file, best first, with their probabilities."""

    path: Path
    best: Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Predictions:
    """What came of a list of files: predictions, and the files that could not be read with the reason."""

    read: Sequence[Prediction]
    unreadable: Sequence[UnreadableImageError]


def load_classifier(path: str | Path, *, model_name: str | None = None) -> Classifier:
    """Load a checkpoint that training wrote, or with `model_name` an official or bare one.

    Args:
        path: checkpoint of `tools/train.py`, which holds the model's name, classes and input; or any file that
            `visionssm.load_official` reads.
        model_name: registered variant, needed for files that do not say what they are. Class names are ImageNet's where
            the class count is, else "class 0", "class 1", …
    Raises:
        FileNotFoundError, CheckpointError: see `visionssm.checkpoints.read_checkpoint`.
        ValueError: the checkpoint does not say what it is and `model_name` is missing or wrong.
    """
    if model_name is not None:
        model = create_official(model_name, path)
        config = resolve_model_data_config(model)
        return _classifier(model, _class_names(model), config)
    checkpoint = read_checkpoint(path)
    if not _describes_itself(checkpoint):
        raise CheckpointError(
            f"{str(path)!r} does not say which model it is of; it was not written by this package's training. Name the "
            "model (--model NAME) for an official or bare checkpoint."
        )
    from visionssm.engine.checkpoint import build_classifier  # needs the train extra, only here

    model, classes, trained = build_classifier(checkpoint)
    given = {"input_size" if key == "size" else key: value for key, value in trained.items() if value is not None}
    return _classifier(model, classes, resolve_model_data_config(model) | given)


def registered_classifier(name: str, *, pretrained: bool = False) -> Classifier:
    """A registered model by name: untrained, or with `pretrained` the published weights.

    Raises:
        ValueError: there is no such model.
    """
    if not is_model(name):
        raise ValueError(f"{name!r} is neither a file nor a registered model; see visionssm.list_models()")
    model = create_model(name, pretrained=pretrained)
    return _classifier(model, _class_names(model), resolve_model_data_config(model))


def _describes_itself(checkpoint: Any) -> bool:
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    return isinstance(meta, Mapping) and bool(meta.get("visionssm"))


def _class_names(model: nn.Module) -> list[str]:
    subset = infer_imagenet_subset(model)
    if subset is None:
        return [f"class {index}" for index in range(cast(int, model.num_classes))]
    return list(ImageNetInfo(subset).label_descriptions())


def _classifier(model: nn.Module, classes: Sequence[str], config: Mapping[str, Any]) -> Classifier:
    channels = int(config["input_size"][0])
    if channels not in (1, 3):
        raise ValueError(f"image files give 1 or 3 channels, but the model takes {channels}")
    known = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    options: dict[str, Any] = {
        key: tuple(v) if isinstance(v := config[key], list) else v for key in known if key in config
    }
    transform = create_transform(**options, is_training=False)
    return Classifier(model.eval(), classes, transform, "RGB" if channels == 3 else "L")


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Expand folders to all the files in and below them, in order of name; hidden files are left out."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file())
            visible = (f for f in inside if not any(part.startswith(".") for part in f.relative_to(path).parts))
            found.extend(sorted(visible))
        else:
            found.append(path)
    return found


@torch.inference_mode()
def predict_files(
    classifier: Classifier,
    paths: Sequence[Path],
    *,
    top_k: int = 5,
    device: str | torch.device = "cpu",
    batch_size: int = 16,
) -> Predictions:
    """Classify image files; those that cannot be read are reported and do not stop the rest.

    Raises:
        ValueError: `top_k` or `batch_size` is below 1, or class names and scores differ in number.
    """
    if top_k < 1 or batch_size < 1:
        raise ValueError(f"top_k and batch_size must be at least 1, got {top_k} and {batch_size}")
    model = classifier.model.to(device)
    read: list[Prediction] = []
    unreadable: list[UnreadableImageError] = []
    for batch in _batches(paths, batch_size):
        files, tensors = [], []
        for path in batch:
            try:
                tensors.append(classifier.transform(read_image(path, classifier.image_mode)))
                files.append(path)
            except UnreadableImageError as error:
                unreadable.append(error)
        if not files:
            continue
        scores = model(torch.stack(tensors).to(device)).float().softmax(-1).cpu()  # (B, classes)
        if scores.shape[-1] != len(classifier.classes):
            raise ValueError(f"the model gives {scores.shape[-1]} scores for {len(classifier.classes)} class names")
        best = scores.topk(min(top_k, scores.shape[-1]))
        for path, values, indices in zip(files, best.values.tolist(), best.indices.tolist(), strict=True):
            names = [classifier.classes[index] for index in indices]
            read.append(Prediction(path, list(zip(names, values, strict=True))))
    return Predictions(read, unreadable)


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write predictions as .csv (a line a file and rank: file, rank, class, score, error) or .json, by the suffix.

    The file is complete or absent. Files that could not be read are in it too, with the reason.
    """
    path = Path(path)
    writers = {".csv": _as_csv, ".json": _as_json}
    if path.suffix.lower() not in writers:
        raise ValueError(f"out must end in .csv or .json, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        temporary.write_text(writers[path.suffix.lower()](predictions), encoding="utf-8", newline="")


def _as_csv(predictions: Predictions) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["file", "rank", "class", "score", "error"])
    for prediction in predictions.read:
        for rank, (name, score) in enumerate(prediction.best, start=1):
            lines.writerow([prediction.path, rank, name, f"{score:.6g}", ""])
    for error in predictions.unreadable:
        lines.writerow([error.path, "", "", "", error.reason])
    return text.getvalue()


def _as_json(predictions: Predictions) -> str:
    content = {
        "predictions": [
            {"file": str(p.path), "classes": [{"class": name, "score": score} for name, score in p.best]}
            for p in predictions.read
        ],
        "unreadable": [{"file": str(error.path), "reason": error.reason} for error in predictions.unreadable],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
