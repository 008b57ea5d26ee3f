"""Restoration of images: super-resolution, denoising, JPEG artefacts; networks of `visionssm.create_restorer`."""

from visionssm.engine.task import Task

_HERE = "visionssm.tasks.restoration"

TASK = Task(
    name="restoration",
    models={"ImageRestorer": f"{_HERE}.model:ImageRestorer"},
    datasets={
        "RestorationFolder": f"{_HERE}.data:RestorationFolder",
        "RenderedTextures": f"{_HERE}.textures:RenderedTextures",
    },
    numbers={
        "tile": "of restoration: longest side of the tiles that an image is cut into, in its pixels; 0 takes it whole",
        "overlap": "of restoration: pixels that neighbouring tiles share at least",
    },
    metrics={"RestorationMetric": f"{_HERE}.metric:RestorationMetric"},
    makes_predictor=f"{_HERE}.predictor:trained_restorer",
    applies_exported=f"{_HERE}.exported:exported_restorer",
)
