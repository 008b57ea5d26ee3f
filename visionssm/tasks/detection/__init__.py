"""Object detection: torchvision's detectors, COCO's format and average precision."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.detection"

TASK = Task(
    name="detection",
    models={"TorchvisionDetector": f"{_HERE}.model:TorchvisionDetector"},
    datasets={
        "CocoInstances": f"{_HERE}.data:CocoInstances",
        "ShapesDetection": f"{_HERE}.shapes:ShapesDetection",
    },
    metrics={"DetectionMetric": f"{_HERE}.metric:DetectionMetric"},
    makes_predictor=f"{_HERE}.predictor:trained_detector",
    applies_exported=f"{_HERE}.exported:exported_detector",
)
