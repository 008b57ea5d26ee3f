"""Telling the class of every pixel and voxel of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from visionssm.checkpoints import CheckpointError
from visionssm.data.arguments import checked
from visionssm.data.errors import DatasetError
from visionssm.engine.description import (
    arguments_of,
    check_fields,
    class_names_of,
    description_of,
    fields_of,
    rebuilt,
)
from visionssm.engine.task import View
from visionssm.heads.medical.segmenter import Segmenter, padded_to_multiples
from visionssm.tasks.medical.base import BaseMedicalSegmenter
from visionssm.tasks.medical.inference import Inference, probabilities
from visionssm.tasks.medical.pictures import grey_picture
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.medical.scan import Scan

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class MedicalSegmenter(BaseMedicalSegmenter):
    __doc__ = BaseMedicalSegmenter.__doc__

    model: Segmenter
    preparation: Preparation

    @property
    def spatial_dims(self) -> int:
        """2 for a network of images, 3 for one of volumes."""
        return self.model.spatial_dims

    @property
    def of_one_class(self) -> bool:
        """Whether the network tells the probability of the foreground alone."""
        return self.model.num_classes == 1

    def numbers(self, scan: Scan, threshold: float) -> np.ndarray:
        """(*sides) class numbers at the grid of a scan; `threshold` is that of networks with a single class."""
        place = next(self.model.parameters()).device
        inputs = self.preparation.image(scan.pixels, scan.spacing).to(place)
        found = probabilities(self.model, inputs, self.spatial_dims, self.inference)
        return self.preparation.restored(found, scan.pixels.shape[1:], threshold).cpu().numpy()

    def view(self) -> View:
        """The encoder's maps of an image, or of the middle slice of a volume, as it is prepared or resized to a size.

        Raises:
            ValueError: the network is of volumes.
        """
        if self.model.spatial_dims == 3:
            raise ValueError("the network is of volumes, and pictures of maps are of images: nothing to look at")

        def prepare(scan: Scan, size: Sequence[int] | None) -> Tensor:
            inputs = self.preparation.image(scan.pixels, scan.spacing)
            image = (inputs if inputs.ndim == 3 else inputs[:, inputs.shape[1] // 2])[None]
            return image if size is None else F.interpolate(image, tuple(size), mode="bilinear", align_corners=False)

        def picture(image: Tensor) -> Tensor:
            return torch.from_numpy(np.array(grey_picture(image[0].numpy()))) / 255

        side = (self.model.only_sides or self.preparation.size or (256, 256))[-2:]
        return View(_EncoderMaps(self.model), prepare, picture, (self.model.in_chans, side[0], side[1]))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: see `exportable_segmenter`."""
        from visionssm.tasks.medical.export import exportable_segmenter

        return exportable_segmenter(self.model, self.classes, self.preparation, self.inference)


class _EncoderMaps(nn.Module):
    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W) to the encoder's maps."""
        return self.network.encoded(padded_to_multiples(image, self.network.stride, self.network.least_cells))


_PREPARATION = [field.name for field in fields(Preparation)]
_INFERENCE = [field.name for field in fields(Inference)]


def trained_medical_segmenter(checkpoint: Mapping[str, Any]) -> MedicalSegmenter:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    given = fields_of(about, "model", ("name", "num_classes", "in_chans", "changes", "inference"))
    changes, how = arguments_of(given, "changes"), arguments_of(given, "inference")
    name, count, channels = (given.get(key) for key in ("name", "num_classes", "in_chans"))
    if not isinstance(name, str) or name not in visionssm.list_segmenters():
        raise CheckpointError(f"the checkpoint is of a model {name!r:.80}, which is no known segmenter")
    if type(count) is not int or type(channels) is not int:
        raise CheckpointError("the checkpoint's description has no num_classes and in_chans that are whole numbers")
    if changes.keys() & {"pretrained", "pretrained_encoder", "num_classes", "in_chans", "name"}:
        raise CheckpointError("the checkpoint's description has changes that are not read from a file")
    check_fields(how, _INFERENCE, "model.inference")
    prepared = fields_of(about, "preparation", _PREPARATION)

    def build() -> Segmenter:
        return visionssm.create_segmenter(name, num_classes=count, in_chans=channels, **changes)

    try:
        preparation, inference = checked(Preparation, "preparation", prepared), checked(Inference, "inference", how)
        if preparation.channels != channels:
            raise DatasetError(f"its images have {preparation.channels} channels, its model {channels}")
        network = rebuilt(build, checkpoint, name)
        inference.check(network.spatial_dims)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's description cannot be used: {error}") from error
    return MedicalSegmenter(network, class_names_of(about, max(2, count)), preparation, inference)
