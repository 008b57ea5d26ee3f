"""Predictions drawn over images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from visionssm.drawing import below
from visionssm.engine.checkpoint import write_atomically


@HOOKS.register_module()
class PredictionPicturesHook(Hook):
    """After a validation, draw what a metric keeps as `pictures` (`DetectionMetric`, `SegmentationMetric`).

    predictions.png in the work folder has one row per image.
    """

    priority = "LOWEST"

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Draw the images of this evaluation."""
        rows = [picture for _, picture in kept_pictures(runner.val_loop.evaluator)]
        if rows and is_main_process():
            write_picture(below(rows), Path(runner.work_dir) / "predictions.png")


def kept_pictures(evaluator: Any) -> list[tuple[int, Image.Image]]:
    """Index and picture of all images that the metrics of an evaluator keep."""
    return [item for metric in evaluator.metrics for item in getattr(metric, "pictures", ())]


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG that is complete or absent."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))
