"""Finding objects in images with Mamba-YOLO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.checkpoints import CheckpointError
from visionssm.engine.description import class_names_of, description_of, fields_of, rebuilt
from visionssm.engine.task import View
from visionssm.heads.yolo import VARIANTS, MambaYolo, create_yolo
from visionssm.tasks.detection.results import Detection
from visionssm.tasks.yolo.base import BaseYolo
from visionssm.tasks.yolo.inference import check_size, found_objects
from visionssm.tasks.yolo.transforms import letterboxed

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class YoloPredictor(BaseYolo):
    __doc__ = BaseYolo.__doc__

    model: MambaYolo

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score exceeds the threshold."""
        place = next(self.model.parameters()).device
        tensors = [_tensor(image).to(place) for image in images]
        found = found_objects(self.model, tensors, self.size, threshold=self.threshold)
        return [
            Detection(self.classes, x.labels.cpu().numpy(), x.scores.cpu().numpy(), x.boxes.cpu().numpy(), None)
            for x in found
        ]

    def view(self) -> View:
        """The backbone's maps; images are letter-boxed as for detection, or resized to a given size."""

        def prepare(image: Image.Image, size: Sequence[int] | None) -> Tensor:
            if size:
                return _tensor(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))[None]
            return letterboxed(_tensor(image), self.size, self.model.strides[-1]).image[None]

        def picture(images: Tensor) -> Tensor:
            return images[0].clamp(0, 1).permute(1, 2, 0)

        return View(self.model.backbone, prepare, picture, (3, self.size, self.size))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take, with the boxes of all points: see `exportable_yolo`."""
        from visionssm.integrations.export import exportable_yolo

        return exportable_yolo(self.model, self.classes, self.size)

    def exportable_with_nms(self) -> Exportable:
        """The same, where overlapping boxes and scores up to the threshold are left out in the file."""
        from visionssm.integrations.export import exportable_yolo

        return exportable_yolo(self.model, self.classes, self.size, nms=True, threshold=self.threshold)


def _tensor(image: Image.Image) -> Tensor:
    return to_dtype(to_image(image), torch.float32, scale=True).as_subclass(Tensor)


_FIELDS = ("name", "num_classes", "size")


def trained_yolo(checkpoint: Mapping[str, Any]) -> YoloPredictor:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    fields = fields_of(about, "model", _FIELDS)
    name, count, size = (fields.get(key) for key in _FIELDS)
    if not isinstance(name, str) or name not in VARIANTS or type(count) is not int or count < 1:
        raise CheckpointError(f"the checkpoint is of a detector {name!r} of {count!r} classes, which is unknown")
    try:
        check_size(size)
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's description has an unusable model.{error}") from error
    model = rebuilt(lambda: create_yolo(name, count), checkpoint, name)
    return YoloPredictor(model, class_names_of(about, count), size)  # type: ignore[arg-type]
