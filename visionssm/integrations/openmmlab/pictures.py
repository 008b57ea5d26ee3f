"""What models of mmdet and mmseg find in the images of a test, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from PIL import Image

from visionssm.engine.hooks.pictures import write_picture
from visionssm.integrations.openmmlab.prediction import detection_of, pixel_classes_of


class DrawnTestHook(Hook):
    """Write every image of a test with what was found in it, as a PNG of the image's name.

    Args:
        folder: for the pictures.
        threshold: least score of a drawn object.
    """

    priority = "LOWEST"

    def __init__(self, folder: str | Path, threshold: float = 0.5) -> None:
        self.folder = Path(folder)
        self.threshold = threshold

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw the images of one batch."""
        classes = (runner.test_loop.dataloader.dataset.metainfo or {})["classes"]
        self.folder.mkdir(parents=True, exist_ok=True)
        for sample in outputs or ():
            is_detection = "pred_instances" in sample
            found: Any = (
                detection_of(sample, classes, self.threshold) if is_detection else pixel_classes_of(sample, classes)
            )
            with Image.open(sample.img_path) as image:
                picture = found.drawn(image.convert("RGB"))
            write_picture(picture, self.folder / f"{Path(sample.img_path).stem}.png")
