"""Applying a trained or published checkpoint to files; what `tools/predict.py` calls.

`load_predictor` makes the predictor that a checkpoint is of: its task's, for example `Classifier`, `Detector` or
`Segmenter`. Their results share a small interface, `Result`: table rows, plain data for JSON, and pictures.
"""

from __future__ import annotations

from visionssm.engine.task import Predictor, Result
from visionssm.prediction.files import (
    Prediction,
    Predictions,
    find_files,
    predict_files,
    predict_share,
    together,
    write_predictions,
)
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
    "find_files",
    "load_classifier",
    "load_predictor",
    "predict_files",
    "predict_share",
    "registered_classifier",
    "together",
    "write_predictions",
]
