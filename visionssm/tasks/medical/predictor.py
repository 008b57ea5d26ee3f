"""Telling the class of every pixel and voxel of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from visionssm.checkpoints import CheckpointError
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
from visionssm.tasks.medical.inference import Inference, probabilities
from visionssm.tasks.medical.pictures import grey_picture
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.medical.results import Segmented, readable_scan
from visionssm.tasks.medical.scan import Scan

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class MedicalSegmenter:
    """A network for medical segmentation in evaluation mode.

    Attributes:
        model: (B, C, *sides) to logits.
        classes: class names, the background first.
        preparation: of images.
        inference: how the network is applied.
        threshold: least probability of the foreground, of networks with a single class; None for the training's.
    """

    columns: ClassVar[tuple[str, ...]] = ("class", "pixels", "size")
    has_masks: ClassVar[bool] = True

    model: Segmenter
    classes: Sequence[str]
    preparation: Preparation
    inference: Inference
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, got {self.threshold}")
        if self.threshold is not None and self.model.num_classes > 1:
            raise ValueError("threshold does not apply here: with several classes the most probable one is taken")

    def read(self, path: Path) -> Scan:
        """A NIfTI volume or an image; see `readable_scan`."""
        return readable_scan(path, self.preparation, self.model.spatial_dims)

    def __call__(self, scans: Sequence[Scan]) -> list[Segmented]:
        """Classes of every scan, at its own grid."""
        place = next(self.model.parameters()).device
        threshold = self.inference.threshold if self.threshold is None else self.threshold
        results = []
        for scan in scans:  # one by one, as their sizes differ
            inputs = self.preparation.image(scan.pixels, scan.spacing).to(place)
            found = probabilities(self.model, inputs, self.model.spatial_dims, self.inference)
            numbers = self.preparation.restored(found, scan.pixels.shape[1:], threshold)
            results.append(Segmented(self.classes, numbers.cpu().numpy(), scan.spacing, scan.grid is not None))
        return results

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
        preparation, inference = Preparation(**prepared), Inference(**how)
        if preparation.channels != channels:
            raise DatasetError(f"its images have {preparation.channels} channels, its model {channels}")
        network = rebuilt(build, checkpoint, name)
        inference.check(network.spatial_dims)
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's description cannot be used: {error}") from error
    return MedicalSegmenter(network, class_names_of(about, max(2, count)), preparation, inference)
