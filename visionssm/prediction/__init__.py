"""Applying a trained or published checkpoint to image files; what `tools/predict.py` calls.

A task is a predictor (`Classifier`, `Detector`, `Segmenter`) whose results share a small interface, `Result`: table
rows, plain data for JSON, and a picture. `load_predictor` makes the one that a checkpoint is of.
"""

from __future__ import annotations

from visionssm.engine.task import Predictor, Result
from visionssm.prediction.files import Prediction, Predictions, find_files, predict_files, write_predictions
from visionssm.prediction.loading import TASKS, load_predictor
from visionssm.tasks.classification.predictor import Classifier, load_classifier, registered_classifier
from visionssm.tasks.detection.predictor import Detector
from visionssm.tasks.segmentation.predictor import Segmenter

__all__ = [
    "TASKS",
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
    "registered_classifier",
    "write_predictions",
]
