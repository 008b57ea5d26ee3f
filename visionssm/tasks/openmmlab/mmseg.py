"""Segmentors of mmseg."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.openmmlab"

TASK = Task(
    name="mmseg",
    scope="mmseg",
    datasets={"ShapesSegDataset": f"{_HERE}.shapes:ShapesSegDataset"},
    hooks={"SamplePicturesHook": f"{_HERE}.pictures:SamplePicturesHook"},
    extra="openmmlab",
    packages=("mmcv", "mmseg"),
    prepares=("visionssm.integrations.openmmlab", f"{_HERE}.scopes"),
    makes_predictor=f"{_HERE}.predictor:trained",
    applies_exported="images are resized and labels mapped back by mmseg's pipeline, which is not in the file",
)
