"""Importing this module puts this package's data sets, models, hooks, loops and metrics into MMEngine's registries."""

from __future__ import annotations

from mmengine.registry import DATASETS, OPTIMIZERS
from timm.optim import Lamb

from visionssm.data import digits
from visionssm.engine import hooks, loops, optim, runner, samplers
from visionssm.tasks.classification import arrow_pointing, binary, distillation, mesa
from visionssm.tasks.classification import data as classification
from visionssm.tasks.classification import metric as classification_metric
from visionssm.tasks.classification import model as classification_model
from visionssm.tasks.detection import data as coco
from visionssm.tasks.detection import metric as detection_metric
from visionssm.tasks.detection import model as detection_model
from visionssm.tasks.detection import shapes as detection_shapes
from visionssm.tasks.segmentation import data as label_images
from visionssm.tasks.segmentation import metric as segmentation_metric
from visionssm.tasks.segmentation import model as segmentation_model
from visionssm.tasks.segmentation import shapes as segmentation_shapes
from visionssm.tasks.video import data as moving_digits
from visionssm.tasks.video import metric as video_metric
from visionssm.tasks.video import model as video_model
from visionssm.tasks.video import pictures as video_pictures

__all__ = [
    "binary",
    "classification_metric",
    "classification_model",
    "detection_metric",
    "detection_model",
    "distillation",
    "hooks",
    "loops",
    "mesa",
    "optim",
    "runner",
    "samplers",
    "segmentation_metric",
    "segmentation_model",
    "video_metric",
    "video_model",
    "video_pictures",
]

setattr(classification.timm_dataset, "check_available", classification.check_timm_dataset)  # noqa: B010  for mypy
DATASETS.register_module("TimmDataset", force=True, module=classification.timm_dataset)
DATASETS.register_module("DigitsDataset", force=True, module=digits.DigitsDataset)
DATASETS.register_module("ArrowPointingDataset", force=True, module=arrow_pointing.ArrowPointingDataset)
DATASETS.register_module("MovingDigits", force=True, module=moving_digits.MovingDigits)
DATASETS.register_module("CocoInstances", force=True, module=coco.CocoInstances)
DATASETS.register_module("LabelledImages", force=True, module=label_images.LabelledImages)
DATASETS.register_module("ShapesDetection", force=True, module=detection_shapes.ShapesDetection)
DATASETS.register_module("ShapesSegmentation", force=True, module=segmentation_shapes.ShapesSegmentation)
OPTIMIZERS.register_module("Lamb", force=True, module=Lamb)
