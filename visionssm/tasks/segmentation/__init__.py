"""Semantic segmentation: torchvision's models, label images, mean intersection over union."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.segmentation"

TASK = Task(
    name="segmentation",
    models={"TorchvisionSegmentor": f"{_HERE}.model:TorchvisionSegmentor"},
    datasets={
        "LabelledImages": f"{_HERE}.data:LabelledImages",
        "ShapesSegmentation": f"{_HERE}.shapes:ShapesSegmentation",
    },
    metrics={"SegmentationMetric": f"{_HERE}.metric:SegmentationMetric"},
    makes_predictor=f"{_HERE}.predictor:trained_segmenter",
    applies_exported=f"{_HERE}.exported:exported_segmenter",
)
