"""Detectors and segmentors of mmdet and mmseg, trained here, applied to images without their configs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from PIL import Image
from torch import Tensor, nn

import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from visionssm.engine.description import class_names_of, description_of, rebuilt
from visionssm.engine.predictors import ReadsImages
from visionssm.engine.task import View
from visionssm.tasks.detection.base import FindsObjects
from visionssm.tasks.detection.results import Detection
from visionssm.tasks.openmmlab.description import model_of, pipeline_of
from visionssm.tasks.segmentation.base import TellsPixels
from visionssm.tasks.segmentation.results import PixelClasses

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


def detection_of(sample: Any, classes: Sequence[str], threshold: float) -> Detection:
    """What a detector of mmdet left in a data sample, of objects whose score reaches the threshold."""
    objects = sample.pred_instances.cpu()
    objects = objects[objects.scores >= threshold]
    objects = objects[objects.scores.argsort(descending=True)]
    masks = np.asarray(objects.masks, dtype=bool) if "masks" in objects else None
    numbers, scores, boxes = (x.numpy() for x in (objects.labels, objects.scores, objects.bboxes))
    return Detection(classes, numbers, scores, boxes, masks)


def pixel_classes_of(sample: Any, classes: Sequence[str]) -> PixelClasses:
    """What a segmentor of mmseg left in a data sample."""
    return PixelClasses(classes, sample.pred_sem_seg.data[0].cpu().numpy())


@dataclass(frozen=True)
class _Predictor(ReadsImages):
    """What both kinds share.

    Attributes:
        model: of mmdet or mmseg, in evaluation mode.
        classes: class names.
        pipeline: a dictionary with `img` (H, W, 3) uint8 BGR to the model's input.
    """

    model: nn.Module
    classes: Sequence[str]
    pipeline: Any

    def view(self) -> View:
        """The backbone's maps; images are prepared as for prediction."""
        model: Any = self.model
        mean, std, flips = (getattr(model.data_preprocessor, name) for name in ("mean", "std", "_channel_conversion"))

        def prepare(image: Image.Image, size: Sequence[int] | None) -> Tensor:
            if size is not None:
                raise ValueError("size does not apply here: the checkpoint's pipeline resizes the images")
            return model.data_preprocessor(self._packed(image, 0), False)["inputs"]

        def picture(images: Tensor) -> Tensor:
            levels = (images * std + mean)[0].cpu()
            return ((levels if flips else levels.flip(0)) / 255).clamp(0, 1).permute(1, 2, 0)

        return View(model.backbone, prepare, picture, (3, 512, 512))

    def samples(self, images: Sequence[Image.Image]) -> list[Any]:
        """The model's data samples of images, one by one, as their sizes differ."""
        found = []
        for number, image in enumerate(images):
            found += self.model.test_step(self._packed(image, number))  # type: ignore[operator]
        return found

    def _packed(self, image: Image.Image, number: int) -> dict[str, Any]:
        """A batch of one image, as the pipeline leaves it."""
        pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
        packed = self.pipeline(
            {
                "img": pixels,
                "img_shape": pixels.shape[:2],
                "ori_shape": pixels.shape[:2],
                "img_id": number,
                "img_path": "",
            }
        )
        return {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}


@dataclass(frozen=True)
class OpenMMLabDetector(_Predictor, FindsObjects):
    """A detector of mmdet.

    Attributes:
        threshold: least score of an object that is reported.
    """

    threshold: float = 0.5

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score reaches the threshold."""
        return [detection_of(sample, self.classes, self.threshold) for sample in self.samples(images)]

    def exportable(self) -> Exportable:
        """Raise ExportError: mmdet's detectors take a form that exporters know from MMDeploy."""
        from visionssm.integrations.export import ExportError

        raise ExportError(
            f"a {type(self.model).__name__} of mmdet has no form for export here: that is what OpenMMLab's MMDeploy is "
            "for. A detector with torchvision's heads on the same backbone can be exported (configs/detection)"
        )


@dataclass(frozen=True)
class OpenMMLabSegmenter(_Predictor, TellsPixels):
    """A segmentor of mmseg."""

    def __call__(self, images: Sequence[Image.Image]) -> list[PixelClasses]:
        """Classes of the pixels of every image, at its own size."""
        return [pixel_classes_of(sample, self.classes) for sample in self.samples(images)]

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: images at the size at which the network sees them."""
        from visionssm.tasks.openmmlab.export import exportable_openmmlab_segmentor

        return exportable_openmmlab_segmentor(self.model, self.classes)


def trained(checkpoint: Mapping[str, Any]) -> OpenMMLabDetector | OpenMMLabSegmenter:
    """The predictor of a checkpoint that `tools/train.py` wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    scope = "mmdet" if about.get("task") == "mmdet" else "mmseg"
    importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=False)
    cfg, steps = ConfigDict(model_of(about, scope)), pipeline_of(about)
    models = importlib.import_module(f"{scope}.registry").MODELS
    with DefaultScope.overwrite_default_scope(scope):
        name = str(cfg.backbone.get("name", cfg.type))
        model = rebuilt(lambda: revert_sync_batchnorm(models.build(cfg)), checkpoint, name, prefix="")
        pipeline = Compose(steps)
    classes = class_names_of(about, None if about.get("classes") else 1000)
    kind = OpenMMLabDetector if scope == "mmdet" else OpenMMLabSegmenter
    return kind(model, classes, pipeline)
