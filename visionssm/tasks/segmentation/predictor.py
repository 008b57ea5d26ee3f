"""Telling every pixel's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.checkpoints import CheckpointError
from visionssm.engine.description import (
    arguments_of,
    check_model,
    check_numbers,
    class_names_of,
    description_of,
    fields_of,
    rebuilt,
)
from visionssm.engine.finite import check_finite
from visionssm.engine.task import View
from visionssm.heads.segmentors import Normalised, segmentation_model
from visionssm.tasks.segmentation.base import BaseSegmenter
from visionssm.tasks.segmentation.results import PixelClasses

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class Segmenter(BaseSegmenter):
    __doc__ = BaseSegmenter.__doc__

    model: Normalised

    def __call__(self, images: Sequence[Image.Image]) -> list[PixelClasses]:
        """Classes of the pixels of every image, at its own size.

        Raises:
            ValueError: the network gives NaN or infinite scores.
        """
        place = next(self.model.parameters()).device
        results = []
        for image in images:  # one by one, as their sizes differ
            scores = self.model(to_dtype(to_image(image), torch.float32, scale=True)[None].to(place))
            check_finite(bool(scores.isfinite().all()))
            results.append(PixelClasses(self.classes, scores[0].argmax(0).cpu().numpy()))
        return results

    def view(self) -> View:
        """The backbone's maps; images are taken at their own size, or resized to a given one."""

        def prepare(image: Image.Image, size: Sequence[int] | None) -> Tensor:
            resized = image.resize((size[1], size[0]), Image.Resampling.BILINEAR) if size else image
            return self.model.normalise(to_dtype(to_image(resized), torch.float32, scale=True)[None])

        def picture(images: Tensor) -> Tensor:
            return (images * self.model.std + self.model.mean)[0].clamp(0, 1).permute(1, 2, 0)

        return View(self.model.body, prepare, picture, (3, 512, 512))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: see `exportable_segmentor`."""
        from visionssm.integrations.export import description, exportable_segmentor

        about = description(self.classes, task="segmentation", input="(B, 3, H, W) in [0, 1]")
        return exportable_segmentor(self.model, about)


_FIELDS = ("name", "num_classes", "head", "channels", "atrous_rates", "auxiliary", "mean", "std", "backbone")
_OF_THE_BACKBONE = {"in_chans", "out_indices", "frozen_stages"}


def trained_segmenter(checkpoint: Mapping[str, Any]) -> Segmenter:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    fields = fields_of(about, "model", _FIELDS)
    mean, std = (fields.pop(key, None) for key in ("mean", "std"))
    backbone = arguments_of(fields, "backbone")
    fields.pop("backbone", None)
    name = fields.get("name")
    check_model(name, {key: x for key, x in backbone.items() if key not in _OF_THE_BACKBONE})
    if backbone.keys() & fields.keys():
        raise CheckpointError("the checkpoint's description names a field twice, in model and in model.backbone")
    network = rebuilt(lambda: segmentation_model(**fields, **backbone, pretrained=False), checkpoint, str(name))
    given = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    for key, value in given.items():
        check_numbers(value, f"model.{key}", count=3, low=1e-3 if key == "std" else -1e3, high=1e3)
    return Segmenter(Normalised(network, **given).eval(), class_names_of(about, int(fields["num_classes"])))
