"""Detectors of mmdet."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.openmmlab"

TASK = Task(
    name="mmdet",
    scope="mmdet",
    datasets={"ShapesCocoDataset": f"{_HERE}.shapes:ShapesCocoDataset"},
    hooks={"SamplePicturesHook": f"{_HERE}.pictures:SamplePicturesHook"},
    extra="openmmlab",
    packages=("mmcv", "mmdet"),
    prepares=("visionssm.integrations.openmmlab", f"{_HERE}.scopes"),
    makes_predictor=f"{_HERE}.predictor:trained",
)
