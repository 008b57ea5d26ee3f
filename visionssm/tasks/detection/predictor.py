"""Finding objects in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.engine.description import (
    arguments_of,
    check_model,
    check_numbers,
    class_names_of,
    description_of,
    fields_of,
    rebuilt,
)
from visionssm.engine.task import View
from visionssm.heads.detectors import torchvision_detector
from visionssm.tasks.detection.base import BaseDetector
from visionssm.tasks.detection.results import Detection

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class Detector(BaseDetector):
    __doc__ = BaseDetector.__doc__

    model: nn.Module

    def __call__(self, images: Sequence[Image.Image]) -> list[Detection]:
        """Objects of every image whose score reaches the threshold."""
        place = next(self.model.parameters()).device
        tensors = [to_dtype(to_image(image), torch.float32, scale=True).to(place) for image in images]
        results = []
        for found in self.model(tensors):
            certain = found["scores"] >= self.threshold
            masks = (found["masks"][certain, 0] > 0.5).cpu().numpy() if "masks" in found else None
            results.append(
                Detection(
                    self.classes,
                    (found["labels"][certain] - 1).cpu().numpy(),
                    found["scores"][certain].cpu().numpy(),
                    found["boxes"][certain].cpu().numpy(),
                    masks,
                )
            )
        return results

    def view(self) -> View:
        """The backbone's maps; images are scaled as for detection, or resized to a given size."""
        model: Any = self.model
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (model.transform.image_mean, model.transform.image_std))

        def prepare(image: Image.Image, size: Sequence[int] | None) -> Tensor:
            resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR) if size else image
            plain = to_dtype(to_image(resized), torch.float32, scale=True)
            return model.transform.normalize(plain)[None] if size else model.transform([plain])[0].tensors

        def picture(images: Tensor) -> Tensor:
            return (images * std + mean)[0].clamp(0, 1).permute(1, 2, 0)

        side = model.transform.min_size[0]
        return View(model.backbone.body, prepare, picture, (3, side, side))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: see `exportable_detector`."""
        from visionssm.integrations.export import description, exportable_detector

        about = description(self.classes, first=1, task="detection", input="(1, 3, H, W) in [0, 1]")
        return exportable_detector(self.model, about)


_FIELDS = ("architecture", "name", "num_classes", "size", "channels", "anchor_sizes", "backbone", "options")
_SIZES = ("size", "min_size", "max_size", "fixed_size", "size_divisible")
_LARGEST_SIDE = 4096
_OF_THE_BACKBONE = {"in_chans", "out_indices", "frozen_stages"}


def trained_detector(checkpoint: Mapping[str, Any]) -> Detector:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    fields = fields_of(about, "model", _FIELDS)
    backbone, options = arguments_of(fields, "backbone"), arguments_of(fields, "options")
    for where, value in {"size": fields.get("size", (1, 1)), **options}.items():
        if where in _SIZES:
            sides = value if isinstance(value, (list, tuple)) else [value]
            check_numbers(sides, f"model.{where}", count=len(sides), low=1, high=_LARGEST_SIDE)
    check_model(fields.get("name"), {key: x for key, x in backbone.items() if key not in _OF_THE_BACKBONE})
    model = rebuilt(lambda: torchvision_detector(**fields, pretrained=False), checkpoint, str(fields["name"]))
    return Detector(model, class_names_of(about, int(fields["num_classes"])))
