"""Exported pose estimators applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from visionssm.data.errors import DatasetError
from visionssm.data.images import MAX_DECODED_PIXELS, Mode, read_image
from visionssm.data.keypoints import Skeleton
from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.heads.pose.codec import STRIDE, flip_maps
from visionssm.tasks.pose.boxes import NO_BOXES, Boxes, DetectedBoxes, ListedBoxes, people_of
from visionssm.tasks.pose.regions import Crop, cut_array, placed
from visionssm.tasks.pose.results import FoundPeople, Photo, found_people


@dataclass(frozen=True)
class ExportedKeypointFinder:
    """An exported top-down pose estimator, with what tells where people are.

    Attributes:
        graph: (1, 3, H, W) normalised crops to `heatmaps`, (1, K, H/4, W/4).
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
    model: ClassVar[None] = None

    graph: Graph
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
        return Photo(read_image(path, max_pixels=MAX_DECODED_PIXELS), path)

    def __call__(self, photos: Sequence[Photo]) -> list[FoundPeople]:
        """Key points of everybody in the boxes of every image.

        Raises:
            ValueError: nothing says where people are; (DatasetError) the file of boxes does not name an image.
        """
        if self.people is None:
            raise ValueError(NO_BOXES)
        results = []
        for photo in photos:
            boxes = self.people.boxes_of(photo.path, photo.image, self.classes, self.threshold or 0.0)
            results.append(self.found_in(photo.image, boxes))
        return results

    def found_in(self, image: Image.Image, boxes: Boxes) -> FoundPeople:
        """Key points of everybody in these boxes of an RGB image."""
        centres, scales = self.crop.region(boxes.places)
        points = np.zeros((len(boxes.places), len(self.skeleton.names), 3))
        for number in range(len(points)):
            crop = cut_array(image, centres[number], scales[number], self.crop.size)[None]
            place = slice(number, number + 1)
            points[place] = placed(self.maps(crop), centres[place], scales[place], self.crop.size)
        return found_people(self.skeleton, self.classes, boxes, points)

    def maps(self, crops: np.ndarray) -> np.ndarray:
        """(1, K, H/4, W/4) heat maps of a normalised crop."""
        maps = self._maps(crops)
        if self.flip_test:
            mirrored = self._maps(np.ascontiguousarray(crops[..., ::-1]))
            maps = (maps + flip_maps(mirrored, self.skeleton.flip_pairs)) / 2
        return maps

    def _maps(self, crops: np.ndarray) -> np.ndarray:
        found = self.graph.output(crops, "heatmaps").astype(np.float32)
        expected = (1, len(self.skeleton.names), *(side // STRIDE for side in self.crop.size))
        if found.shape != expected:
            raise ExportedFileError(f"the file gives heat maps of shape {found.shape}, where {expected} was expected")
        return found


def exported_keypoint_finder(graph: Graph) -> ExportedKeypointFinder:
    """The pose estimator in a file.

    Raises:
        ExportedFileError: it does not say its key points, or how people are cut out.
    """

    def crop() -> Crop:
        said = graph.fact("crop")
        if not isinstance(said, dict) or not isinstance(said.get("size"), list):
            raise DatasetError(f"crop must be size and padding, got {said!r:.60}")
        return Crop(tuple(said["size"]), said.get("padding", 0))

    def skeleton() -> Skeleton:
        said = graph.fact("skeleton")
        if not isinstance(said, dict):
            raise DatasetError(f"skeleton must be names, flip_pairs, edges and sigmas, got {said!r:.60}")
        return Skeleton.from_plain(said)

    return ExportedKeypointFinder(
        graph,
        graph.made(skeleton, "its key points"),
        graph.classes(1),
        graph.made(crop, "how people are cut out"),
        bool(graph.fact("flip_test")),
    )
