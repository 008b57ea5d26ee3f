"""Finding key points in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.checkpoints import CheckpointError
from visionssm.data.errors import DatasetError
from visionssm.data.keypoints import Skeleton
from visionssm.engine.description import arguments_of, class_names_of, description_of, fields_of, rebuilt
from visionssm.engine.task import View
from visionssm.heads.pose import affine
from visionssm.heads.pose.heatmap import PoseNetwork
from visionssm.heads.pose.registry import VARIANTS, create_pose
from visionssm.tasks.pose.base import BaseKeypointFinder
from visionssm.tasks.pose.boxes import Boxes, DetectedBoxes, ListedBoxes
from visionssm.tasks.pose.crops import Crop, cut, heat_maps, shown
from visionssm.tasks.pose.regions import cut_array
from visionssm.tasks.pose.results import Photo

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class KeypointFinder(BaseKeypointFinder):
    __doc__ = BaseKeypointFinder.__doc__

    most_crops: ClassVar[int] = 64

    model: PoseNetwork

    def boxes_of(self, photo: Photo, people: ListedBoxes | DetectedBoxes) -> Boxes:
        """Where people are in an image; a detector is applied where the model is."""
        if isinstance(people, DetectedBoxes) and people.predictor.model is not None:
            people.predictor.model.to(self._place)
        with torch.inference_mode():
            return super().boxes_of(photo, people)

    @property
    def _place(self) -> torch.device:
        return next(self.model.parameters()).device

    def maps(self, crops: np.ndarray | Tensor) -> np.ndarray:
        """(n, K, H/4, W/4) heat maps of (n, 3, H, W) normalised crops."""
        pairs = self.skeleton.flip_pairs if self.flip_test else None
        with torch.inference_mode():
            return heat_maps(self.model, torch.as_tensor(crops).to(self._place), pairs).float().cpu().numpy()

    def explained(self, image: Image.Image, box: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
        """The (H, W, 3) uint8 crop of a box and its (K, H/4, W/4) heat maps; without a box those of the whole image.

        Raises:
            ValueError: the box has no area.
        """
        centre, scale = self.crop.region(box or (0, 0, image.width, image.height))
        crop = cut_array(image, centre, scale, self.crop.size)
        return shown(torch.from_numpy(crop)), self.maps(crop[None])[0]

    def view(self) -> View:
        """The backbone's map; images are cut out as a whole, for the network's size or a given one."""

        def prepare(photo: Photo, size: Sequence[int] | None) -> Tensor:
            wanted = self.crop if size is None else Crop((size[0], size[1]), self.crop.padding)
            region = affine.box_to_centre_scale((0, 0, photo.image.width, photo.image.height), wanted.size, 1.0)
            return cut(photo.image, affine.matrix(*region, 0.0, wanted.size), wanted.size)[None]

        def picture(images: Tensor) -> Tensor:
            return torch.from_numpy(shown(images[0])) / 255

        return View(self.model.backbone, prepare, picture, (3, *self.crop.size))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: normalised crops to heat maps."""
        from visionssm.integrations.export import description
        from visionssm.integrations.export.pose import exportable_pose

        about = description(
            self.classes,
            first=1,
            task="pose",
            input="(B, 3, H, W), (RGB − mean) / std of 0…255, sides multiples of 32",
            keypoints=list(self.skeleton.names),
            flip_pairs=[list(pair) for pair in self.skeleton.flip_pairs],
            skeleton=self.skeleton.plain(),
            flip_test=self.flip_test,
            crop=self.crop.plain(),
        )
        return replace(exportable_pose(self.model, about), shape=(1, 3, *self.crop.size))


_CHANGES = {"drop_rate", "drop_path_rate"}


def trained_pose_estimator(checkpoint: Mapping[str, Any]) -> KeypointFinder:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    given = fields_of(about, "model", ("name", "num_keypoints", "flip_test", "changes"))
    name, count, changes = given.get("name"), given.get("num_keypoints"), arguments_of(given, "changes")
    if not isinstance(name, str) or name not in VARIANTS:
        raise CheckpointError(f"the checkpoint is of a model {name!r:.80}, which is no known pose estimator")
    if type(count) is not int:
        raise CheckpointError("the checkpoint's description has no num_keypoints that is a whole number")
    if changes.keys() - _CHANGES:
        raise CheckpointError("the checkpoint's description has changes that are not read from a file")
    try:
        skeleton = Skeleton.from_plain(fields_of(about, "skeleton", ("names", "flip_pairs", "edges", "sigmas")))
        cutting = fields_of(about, "crop", ("size", "padding"))
        crop = Crop(tuple(cutting.get("size") or ()), cutting.get("padding", 0))  # type: ignore[arg-type]
        if len(skeleton.names) != count:
            raise DatasetError(f"it names {len(skeleton.names)} key points, but its model has {count}")
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's description cannot be used: {error}") from error
    network = rebuilt(lambda: create_pose(name, count, **changes), checkpoint, name)
    classes = class_names_of(about, None)
    return KeypointFinder(network, skeleton, classes, crop, bool(given.get("flip_test", True)))
