"""What models of mmdet and mmseg find in images, drawn beside what is annotated there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from visionssm.data.images import MAX_DECODED_PIXELS, read_image
from visionssm.drawing import below, beside, class_colour, draw_objects, shown_scale, with_title
from visionssm.engine.hooks.pictures import write_picture
from visionssm.tasks.openmmlab.predictor import detection_of, pixel_classes_of
from visionssm.tasks.segmentation.results import PixelClasses


@HOOKS.register_module()
class SamplePicturesHook(Hook):
    """After a validation, draw its first images into predictions.png in the work folder.

    Args:
        keep: images.
        threshold: least score of a drawn object.
        test_folder: gets a PNG of every image of a test, named as the image is; None for none.
    """

    priority = "LOWEST"

    def __init__(self, keep: int = 8, threshold: float = 0.5, test_folder: str | Path | None = None) -> None:
        self.keep = keep
        self.threshold = threshold
        self.test_folder = None if test_folder is None else Path(test_folder)
        self._rows: list[Image.Image] = []

    def after_val_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Draw the images of one batch, as long as more are wanted."""
        classes = _classes(runner.val_loop)
        for sample in (outputs or ())[: self.keep - len(self._rows)]:
            self._rows.append(sample_picture(sample, classes, self.threshold))

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Write predictions.png."""
        if self._rows and is_main_process():
            write_picture(below(self._rows), Path(runner.work_dir) / "predictions.png")
        self._rows = []

    def after_test_iter(
        self,
        runner: Any,
        batch_idx: int,
        data_batch: Mapping[str, Any] | None = None,
        outputs: Sequence[Any] | None = None,
    ) -> None:
        """Write the images of one batch."""
        if self.test_folder is None:
            return
        self.test_folder.mkdir(parents=True, exist_ok=True)
        for sample in outputs or ():
            picture = sample_picture(sample, _classes(runner.test_loop), self.threshold)
            write_picture(picture, self.test_folder / f"{Path(sample.img_path).stem}.png")


def _classes(loop: Any) -> Sequence[str]:
    return loop.dataloader.dataset.metainfo["classes"]


def sample_picture(sample: Any, classes: Sequence[str], threshold: float) -> Image.Image:
    """The image of a data sample with what was found in it, beside what is annotated where the sample has that."""
    image = read_image(sample.img_path, max_pixels=MAX_DECODED_PIXELS)
    if (image.height, image.width) != tuple(sample.ori_shape):  # the pipeline does not turn images
        image = read_image(sample.img_path, max_pixels=MAX_DECODED_PIXELS, upright=False)
    if "pred_instances" in sample:
        found = detection_of(sample, classes, threshold).drawn(image)
        title = f"detected (score >= {threshold:g})"
    else:
        found, title = pixel_classes_of(sample, classes).drawn(image), "predicted"
    truth = _truth(sample, classes, image)
    panels = [] if truth is None else [with_title(truth, "truth")]
    return beside([*panels, with_title(found, title)])


def _truth(sample: Any, classes: Sequence[str], image: Image.Image) -> Image.Image | None:
    if "gt_sem_seg" in sample:
        numbers = sample.gt_sem_seg.data[0].cpu().numpy()
        same_size = numbers.shape == (image.height, image.width)
        return PixelClasses(classes, numbers).drawn(image) if same_size else None
    if "gt_instances" not in sample:
        return None
    objects = sample.gt_instances.cpu()
    # annotations are of the image as the model got it, detections of the image as it is
    scale = np.tile(np.asarray(sample.metainfo.get("scale_factor", (1.0, 1.0)), dtype=np.float64), 2)
    numbers = objects.labels.numpy()
    names, colours = [classes[n] for n in numbers], [class_colour(int(n)) for n in numbers]
    return draw_objects(image, np.asarray(objects.bboxes) / scale, names, colours, scale=shown_scale(image))
