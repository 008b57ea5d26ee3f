"""Finding key points in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.checkpoints import CheckpointError
from visionssm.data.errors import DatasetError
from visionssm.data.images import MAX_DECODED_PIXELS, read_image
from visionssm.data.keypoints import Skeleton
from visionssm.engine.description import arguments_of, class_names_of, description_of, fields_of, rebuilt
from visionssm.engine.task import View
from visionssm.heads.pose import affine
from visionssm.heads.pose.heatmap import PoseNetwork
from visionssm.heads.pose.registry import VARIANTS, create_pose
from visionssm.tasks.pose.boxes import NO_BOXES, Boxes, DetectedBoxes, ListedBoxes, people_of
from visionssm.tasks.pose.crops import Crop, cut, heat_maps, placed, shown
from visionssm.tasks.pose.results import FoundPeople, Photo, found_people

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable

_MOST_CROPS = 64
"""Crops that go through the network at once: images may have hundreds of people."""


@dataclass(frozen=True)
class KeypointFinder:
    """A top-down pose estimator in evaluation mode, with what tells where people are.

    Attributes:
        model: (B, 3, H, W) normalised crops to (B, K, H/4, W/4) heat maps.
        skeleton: of the points.
        classes: names of what has them.
        crop: how people are cut out.
        flip_test: take the mean of the maps of crops and of mirrored crops.
        threshold: least score of a box, 0 to 1; None for all boxes of a file, and for the detector's own.
        boxes: file of boxes, see `ListedBoxes`.
        detector: checkpoint of a detection task, see `DetectedBoxes`.
    """

    columns: ClassVar[tuple[str, ...]] = ("person", "point", "x", "y", "score")
    image_mode: ClassVar[Literal["RGB", "L"]] = "RGB"

    model: PoseNetwork
    skeleton: Skeleton
    classes: Sequence[str]
    crop: Crop
    flip_test: bool = True
    threshold: float | None = None
    boxes: Path | None = None
    detector: Path | None = None
    people: ListedBoxes | DetectedBoxes | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "people", people_of(self.boxes, self.detector, self.threshold))

    def read(self, path: Path) -> Photo:
        """An image file; see `read_image`."""
        return Photo(read_image(path, max_pixels=MAX_DECODED_PIXELS), path)  # results are of its own size

    def __call__(self, photos: Sequence[Photo]) -> list[FoundPeople]:
        """Key points of everybody in the boxes of every image.

        Raises:
            ValueError: nothing says where people are; (DatasetError) the file of boxes does not name an image.
        """
        if self.people is None:
            raise ValueError(NO_BOXES)
        if isinstance(self.people, DetectedBoxes) and self.people.predictor.model is not None:
            self.people.predictor.model.to(self._place)
        results = []
        for photo in photos:
            with torch.inference_mode():
                boxes = self.people.boxes_of(photo.path, photo.image, self.classes, self.threshold or 0.0)
            results.append(self.found_in(photo.image, boxes))
        return results

    @property
    def _place(self) -> torch.device:
        return next(self.model.parameters()).device

    def found_in(self, image: Image.Image, boxes: Boxes) -> FoundPeople:
        """Key points of everybody in these boxes of an RGB image."""
        centres, scales = self.crop.region(boxes.places)
        points = np.zeros((len(boxes.places), len(self.skeleton.names), 3))
        for start in range(0, len(points), _MOST_CROPS):
            chosen = slice(start, start + _MOST_CROPS)
            regions = zip(centres[chosen], scales[chosen], strict=True)
            crops = torch.stack([self._cut(image, *region) for region in regions])
            points[chosen] = placed(self.maps(crops), centres[chosen], scales[chosen], self.crop.size)
        return found_people(self.skeleton, self.classes, boxes, points)

    def _cut(self, image: Image.Image, centre: np.ndarray, scale: np.ndarray) -> Tensor:
        return cut(image, affine.matrix(centre, scale, 0.0, self.crop.size), self.crop.size)

    def maps(self, crops: Tensor) -> np.ndarray:
        """(n, K, H/4, W/4) heat maps of normalised crops."""
        pairs = self.skeleton.flip_pairs if self.flip_test else None
        with torch.inference_mode():
            return heat_maps(self.model, crops.to(self._place), pairs).float().cpu().numpy()

    def explained(self, image: Image.Image, box: Sequence[float] | None) -> tuple[np.ndarray, np.ndarray]:
        """The (H, W, 3) uint8 crop of a box and its (K, H/4, W/4) heat maps; without a box those of the whole image.

        Raises:
            ValueError: the box has no area.
        """
        centre, scale = self.crop.region(box or (0, 0, image.width, image.height))
        crop = self._cut(image, centre, scale)
        return shown(crop), self.maps(crop[None])[0]

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
