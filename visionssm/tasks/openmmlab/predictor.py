"""Detectors and segmentors of mmdet and mmseg, trained here, applied to images without their configs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from mmengine.config import ConfigDict
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from visionssm.engine.checkpoint import load_strictly
from visionssm.tasks.detection.predictor import Detection
from visionssm.tasks.segmentation.predictor import PixelClasses


def checkpoint_meta(cfg: Mapping[str, Any], dataset: Any) -> dict[str, Any]:
    """What a checkpoint needs to say of a model of mmdet or mmseg, to be used without its config.

    Args:
        cfg: of the run.
        dataset: with the class names, or None.
    """
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader") or {}
    pipeline = (loader.get("dataset") or {}).get("pipeline") or []
    return {
        "task": cfg["default_scope"],
        "model": _plain(cfg["model"]),
        "pipeline": [_plain(step) for step in pipeline],
        "classes": list((getattr(dataset, "metainfo", None) or {}).get("classes") or ()),
    }


def _plain(value: Any) -> Any:
    """A section of a config in plain types; classes, which configs in Python style hold, become their dotted names."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, type) else value


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
class _Predictor:
    """What both kinds share.

    Attributes:
        model: of mmdet or mmseg, in evaluation mode.
        classes: class names.
        pipeline: a dictionary with `img` (H, W, 3) uint8 BGR to the model's input.
    """

    image_mode: ClassVar[Literal["RGB", "L"]] = "RGB"

    model: nn.Module
    classes: Sequence[str]
    pipeline: Any

    def samples(self, images: Sequence[Image.Image]) -> list[Any]:
        """The model's data samples of images, one by one, as their sizes differ."""
        found = []
        for number, image in enumerate(images):
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
            batch = {"inputs": [packed["inputs"]], "data_samples": [packed["data_samples"]]}
            found += self.model.test_step(batch)  # type: ignore[operator]
        return found


@dataclass(frozen=True)
class OpenMMLabDetector(_Predictor):
    """A detector of mmdet.

    Attributes:
        threshold: least score of an object that is reported.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "score", "left", "top", "right", "bottom")

    threshold: float = 0.5

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score reaches the threshold."""
        return [detection_of(sample, self.classes, self.threshold) for sample in self.samples(images)]


@dataclass(frozen=True)
class OpenMMLabSegmenter(_Predictor):
    """A segmentor of mmseg."""

    columns: ClassVar[tuple[str, ...]] = ("class", "share")

    def __call__(self, images: Sequence[Image.Image]) -> list[PixelClasses]:
        """Classes of the pixels of every image, at its own size."""
        return [pixel_classes_of(sample, self.classes) for sample in self.samples(images)]


def trained(checkpoint: Mapping[str, Any]) -> OpenMMLabDetector | OpenMMLabSegmenter:
    """The predictor of a checkpoint that `tools/train.py` wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: the weights do not fit the model that it describes.
    """
    about = checkpoint["meta"]["visionssm"]
    scope = str(about["task"])
    importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=False)
    cfg = ConfigDict(about["model"])
    if cfg.backbone.type == "VisionSSM":
        cfg.backbone.pretrained = False
    with DefaultScope.overwrite_default_scope(scope):
        model = revert_sync_batchnorm(importlib.import_module(f"{scope}.registry").MODELS.build(cfg))
        steps = [step for step in about["pipeline"] if step["type"] not in ("LoadImageFromFile", "LoadAnnotations")]
        pipeline = Compose([dict(step) for step in steps])
    load_strictly(model, checkpoint["state_dict"], str(cfg.backbone.get("name", cfg.type)))
    classes = about["classes"] or [f"class {number}" for number in range(1000)]
    kind = OpenMMLabDetector if scope == "mmdet" else OpenMMLabSegmenter
    return kind(model.eval(), classes, pipeline)
