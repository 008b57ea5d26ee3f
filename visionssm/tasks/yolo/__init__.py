"""Object detection with Mamba-YOLO: Mosaic, its loss and recipe, COCO's format and average precision."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.yolo"

TASK = Task(
    name="yolo",
    models={"YoloDetector": f"{_HERE}.model:YoloDetector", "RampedAverage": f"{_HERE}.schedule:RampedAverage"},
    datasets={"MosaicDetection": f"{_HERE}.data:MosaicDetection"},
    hooks={"CloseMosaicHook": f"{_HERE}.hooks:CloseMosaicHook"},
    makes_predictor=f"{_HERE}.predictor:trained_yolo",
    applies_exported=f"{_HERE}.exported:exported_yolo",
)
