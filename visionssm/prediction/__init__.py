"""Applying a trained or published checkpoint to files; what `tools/predict.py` calls.

`load_predictor` makes the predictor that a checkpoint is of: its task's, for example `Classifier`, `Detector` or
`Segmenter`. Their results share a small interface, `Result`: table rows, plain data for JSON, and pictures.
`load_exported` makes the same of an exported file, of one in ONNX without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visionssm.engine.task import Predictor, Result
from visionssm.prediction.exported import load_exported
from visionssm.prediction.files import (
    Prediction,
    Predictions,
    applied,
    find_files,
    predict_files,
    predict_share,
    together,
    write_predictions,
)

if TYPE_CHECKING:
    from visionssm.prediction.loading import load_classifier, load_predictor
    from visionssm.tasks.classification.predictor import Classifier, registered_classifier
    from visionssm.tasks.detection.predictor import Detector
    from visionssm.tasks.segmentation.predictor import Segmenter

__all__ = [
    "Classifier",
    "Detector",
    "Prediction",
    "Predictions",
    "Predictor",
    "Result",
    "Segmenter",
    "applied",
    "find_files",
    "load_classifier",
    "load_exported",
    "load_predictor",
    "predict_files",
    "predict_share",
    "registered_classifier",
    "together",
    "write_predictions",
]

_NEED_PYTORCH = {
    "Classifier": "visionssm.tasks.classification.predictor",
    "Detector": "visionssm.tasks.detection.predictor",
    "Segmenter": "visionssm.tasks.segmentation.predictor",
    "load_classifier": "visionssm.prediction.loading",
    "load_predictor": "visionssm.prediction.loading",
    "registered_classifier": "visionssm.tasks.classification.predictor",
}
"""Names that are imported when they are first used: exported files are applied without PyTorch."""


def __getattr__(name: str) -> Any:
    if name not in _NEED_PYTORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_NEED_PYTORCH[name]), name)
    return value
