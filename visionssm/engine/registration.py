"""Importing this module puts this package's data sets, models, hooks, loops and metrics into MMEngine's registries."""

from __future__ import annotations

from mmengine.registry import DATASETS, OPTIMIZERS
from timm.optim import Lamb

from visionssm.data import arrow_pointing, classification, coco, digits, label_images, moving_digits, shapes
from visionssm.engine import (
    binary,
    classifier,
    detection,
    distillation,
    hooks,
    loops,
    mesa,
    metrics,
    next_frame,
    optim,
    runner,
    samplers,
    segmentation,
)

__all__ = [
    "binary",
    "classifier",
    "detection",
    "distillation",
    "hooks",
    "loops",
    "mesa",
    "metrics",
    "next_frame",
    "optim",
    "runner",
    "samplers",
    "segmentation",
]

setattr(classification.timm_dataset, "check_available", classification.check_timm_dataset)  # noqa: B010  for mypy
DATASETS.register_module("TimmDataset", force=True, module=classification.timm_dataset)
DATASETS.register_module("DigitsDataset", force=True, module=digits.DigitsDataset)
DATASETS.register_module("ArrowPointingDataset", force=True, module=arrow_pointing.ArrowPointingDataset)
DATASETS.register_module("MovingDigits", force=True, module=moving_digits.MovingDigits)
DATASETS.register_module("CocoInstances", force=True, module=coco.CocoInstances)
DATASETS.register_module("LabelledImages", force=True, module=label_images.LabelledImages)
DATASETS.register_module("ShapesDetection", force=True, module=shapes.ShapesDetection)
DATASETS.register_module("ShapesSegmentation", force=True, module=shapes.ShapesSegmentation)
OPTIMIZERS.register_module("Lamb", force=True, module=Lamb)
