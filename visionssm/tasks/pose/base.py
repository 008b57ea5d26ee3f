"""What pose estimators of checkpoints and of exported files share; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from visionssm.data.images import MAX_DECODED_PIXELS, Mode, read_image
from visionssm.data.keypoints import Skeleton
from visionssm.tasks.pose.boxes import NO_BOXES, Boxes, DetectedBoxes, ListedBoxes, people_of
from visionssm.tasks.pose.regions import Crop, cut_array, placed
from visionssm.tasks.pose.results import FoundPeople, Photo, found_people


@dataclass(frozen=True)
class BaseKeypointFinder:
    """A top-down pose estimator, with what tells where people are.

    Attributes:
        model: (B, 3, H, W) normalised crops to (B, K, H/4, W/4) heat maps.
        skeleton: of the points.
        classes: names of what has them.
        crop: how people are cut out.
        flip_test: take the mean of the maps of crops and of mirrored crops.
        threshold: least score of a box, 0 to 1; None for all boxes of a file, and for the detector's own.
        boxes: file of boxes, see `ListedBoxes`.
        detector: checkpoint or exported file of a detection task, see `DetectedBoxes`.
    """

    columns: ClassVar[tuple[str, ...]] = ("person", "point", "x", "y", "score")
    image_mode: ClassVar[Mode] = "RGB"
    most_crops: ClassVar[int] = 1
    """Crops that go through the network at once: images may have hundreds of people."""

    model: Any
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
        return [self.found_in(photo.image, self.boxes_of(photo, self.people)) for photo in photos]

    def boxes_of(self, photo: Photo, people: ListedBoxes | DetectedBoxes) -> Boxes:
        """Where people are in an image."""
        return people.boxes_of(photo.path, photo.image, self.classes, self.threshold or 0.0)

    def found_in(self, image: Image.Image, boxes: Boxes) -> FoundPeople:
        """Key points of everybody in these boxes of an RGB image."""
        centres, scales = self.crop.region(boxes.places)
        points = np.zeros((len(boxes.places), len(self.skeleton.names), 3))
        for start in range(0, len(points), self.most_crops):
            chosen = slice(start, start + self.most_crops)
            regions = zip(centres[chosen], scales[chosen], strict=True)
            crops = np.stack([cut_array(image, *region, self.crop.size) for region in regions])
            points[chosen] = placed(self.maps(crops), centres[chosen], scales[chosen], self.crop.size)
        return found_people(self.skeleton, self.classes, boxes, points)

    def maps(self, crops: np.ndarray) -> np.ndarray:
        """(n, K, H/4, W/4) heat maps of (n, 3, H, W) normalised crops."""
        raise NotImplementedError
