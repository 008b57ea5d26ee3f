"""Uploading a classifier to the Hugging Face Hub, in timm's layout and by timm's function, with a model card."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import push_to_hf_hub

from visionssm.catalogue.info import ModelInfo
from visionssm.catalogue.listing import model_info
from visionssm.engine.checkpoint import read_trained
from visionssm.prediction import load_classifier
from visionssm.tasks.classification.predictor import Classifier

_USAGE = """```python
import timm, visionssm  # importing visionssm registers the model

model = timm.create_model("hf-hub:{repo_id}", pretrained=True)
```"""


def push_to_hub(
    source: str | Path,
    repo_id: str,
    *,
    license: str | None = None,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    command: str | None = None,
    **options: Any,
) -> Any:
    """Upload a classifier with its configuration, its classes and a model card, for `timm.create_model` to take.

    Weights are written as safetensors only. The card is written where the repository has none. What a checkpoint of
    training or the catalogue says is on it; nothing of it names a path of this machine.

    Args:
        source: checkpoint of `tools/train.py`, or name of a registered model, whose published weights are fetched.
        repo_id: "user/name" on the Hub.
        license: of the weights, as the Hub spells it; by default what the authors state, else "unknown".
        data: on what it was trained; by default the name of the data set's class in the configuration.
        metrics: name to value; by default those of the checkpoint's validation, or the published ones.
        command: with which it was trained; by default `visionssm train` and the configuration's name.
        options: further ones of `timm.models.push_to_hf_hub`: `private`, `token`, `revision`, `create_pr`, …
    Returns:
        What `timm.models.push_to_hf_hub` returns: the commit.
    Raises:
        ValueError: `repo_id` has not the form "user/name", or there is no such model.
        CheckpointError: the checkpoint is not of a classifier.

    Examples:
        >>> import visionssm
        >>> visionssm.push_to_hub("work_dirs/vmamba_nano_digits/best.pth", "me/digits")  # doctest: +SKIP
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"repo_id={repo_id!r}: give it as 'user/name'")
    classifier = load_classifier(source)
    model: Any = classifier.model
    model.pretrained_cfg = {**model.pretrained_cfg, **classifier.data, "num_classes": model.num_classes}
    given = {"license": license, "data": data, "metrics": metrics, "command": command}
    facts = _facts(source, classifier) | {name: value for name, value in given.items() if value is not None}
    return push_to_hf_hub(
        model,
        repo_id,
        model_config={"label_names": list(classifier.classes)},
        model_card=model_card(repo_id, facts),
        **{"safe_serialization": True, "commit_message": "Add model", **options},
    )


def model_card(repo_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What timm writes the card from.

    Args:
        repo_id: "user/name".
        facts: `architecture`, `parameters`, and where known `license`, `data`, `metrics`, `command`, `paper`, `origin`,
            `input_size`, `crop_pct`, `interpolation`, `versions`.
    """
    metrics = {name: f"{value:g}" for name, value in (facts.get("metrics") or {}).items()}
    shown = {
        "Architecture": facts["architecture"],
        "Parameters": f"{facts['parameters']:,}",
        "Input": "×".join(map(str, facts.get("input_size") or ())),
        "Resizing": ", ".join(f"{key} {facts[key]}" for key in ("crop_pct", "interpolation") if facts.get(key)),
        "Metrics": metrics,
        "Trained on": facts.get("data"),
        "Command": facts.get("command") and f"`{facts['command']}`",
        "Licence of the weights": facts.get("license") or "not stated",
        "Paper": facts.get("paper"),
        "Origin of the weights": facts.get("origin"),
        "Versions": facts.get("versions"),
    }
    return {
        "license": facts.get("license") or "unknown",
        "tags": ["image-classification", "timm", "visionssm", "state-space-model"],
        "description": f"`{facts['architecture']}`, a vision state-space model of the package visionssm.",
        "details": {name: value for name, value in shown.items() if value},
        "usage": _USAGE.format(repo_id=repo_id),
    }


def _facts(source: str | Path, classifier: Classifier) -> dict[str, Any]:
    """What is known of a classifier without being told."""
    model: Any = classifier.model
    architecture = str(model.pretrained_cfg["architecture"])
    facts: dict[str, Any] = {
        "architecture": architecture,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "paper": model_info(architecture).paper,
        **{key: classifier.data.get(key) for key in ("input_size", "crop_pct", "interpolation")},
    }
    if timm.is_model(str(source).partition(".")[0]) and not Path(source).exists():
        return facts | _published(model_info(str(source)))
    return facts | _of_training(read_trained(source))


def _published(info: ModelInfo) -> dict[str, Any]:
    """Of weights that others published."""
    named = {f"{name} (published)": value for name, value in info.scores.items()}
    return {"license": info.license, "metrics": named, "data": "ImageNet-1k", "origin": info.origin}


def _of_training(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checkpoint: its metrics and versions, the data set's class and the configuration's name."""
    meta = checkpoint.get("meta", {})
    config = re.sub(r"_\d{8}_\d{6}$", "", str(meta.get("experiment_name", "")))
    return {
        "metrics": {f"{name} (validation)": float(value) for name, value in (meta.get("metrics") or {}).items()},
        "command": f"visionssm train {config}" if re.fullmatch(r"[\w.-]+", config) else None,
        "versions": {str(name): str(value) for name, value in (meta.get("versions") or {}).items()},
        "data": _data_set(str(meta.get("cfg", ""))),
    }


def _data_set(config: str) -> str | None:
    """Class of the training data's set in the text of a configuration, which is not run."""
    try:
        tree = ast.parse(config)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "train_dataloader":
            for keyword in (x for x in ast.walk(node) if isinstance(x, ast.keyword) and x.arg == "dataset"):
                for inner in getattr(keyword.value, "keywords", ()):
                    if inner.arg == "type" and isinstance(inner.value, ast.Constant):
                        return str(inner.value.value)
    return None
