"""Images with people's boxes and key points in COCO's format, checked as a whole before the first one is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from visionssm.data.coco import (
    HELP,
    category_names,
    check_files,
    checked_images,
    checked_objects,
    read_annotations,
    read_listed,
)
from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.keypoints import Skeleton, area_of, points_of, read_detections, score_of, skeleton_of
from visionssm.data.orientation import check_orientation
from visionssm.data.problems import Problems, checked_classes, first_readable
from visionssm.data.spelling import closest
from visionssm.heads.pose import affine, codec
from visionssm.tasks.pose.crops import Crop, cut
from visionssm.tasks.pose.transforms import Region, checked_augmentation

FROM_ANNOTATIONS = "annotations"
"""What a data set says of where its boxes come from if they are the true ones."""

Key = int | str


class Person(NamedTuple):
    """A sample of a data set: somebody in a box.

    Attributes:
        image: key of the image.
        box: left, top, right, bottom in its pixels.
        label: number of the category, from 1.
        score: of the box; 1 of true ones.
        points: (K, 3) x, y and visibility; None of a detection.
    """

    image: Key
    box: tuple[float, float, float, float]
    label: int
    score: float
    points: np.ndarray | None


@dataclass(frozen=True)
class Truth:
    """All that is known of a set, which a metric compares with.

    Attributes:
        images: of the set, by key: `name`, `path`, `height`, `width`, `upright`.
        objects: annotations of every image: `whole_box`, `area`, `points`, `label`, `crowd`.
        people: samples of the set.
        categories: ids in the file, by number of the category from 1.
    """

    images: Mapping[Key, Mapping[str, Any]]
    objects: Mapping[Key, Sequence[Mapping[str, Any]]]
    people: Sequence[Person]
    categories: Sequence[Key]


class CocoKeypoints(Dataset):
    """A COCO-format set of key points: a sample is one person in a box; with animals or hands it is the same.

    A sample is a dict: `inputs` (3, H, W) float32, normalised; in training `maps` (K, H/4, W/4) and `weights` (K,), see
    `visionssm.heads.pose.codec.encode`; `centre` and `scale`, (2,) each, of the region that the crop shows;
    `flip_order` (K,), which point takes each one's place in a mirror; `index` int, −1 where an image could not be read
    while evaluating; `skipped` int, the samples passed over for this one.

    The K names, pairs that swap in a mirror, skeleton and sigmas are those of the file's categories: see
    `visionssm.data.keypoints`. Categories with the same key points may be used together, as species are.

    Args:
        root: folder that the next two are relative to.
        annotations: the JSON file.
        images: folder of the images. Names in the file are relative to it, or absolute; all must be within it or root.
        classes: names of categories to use, in this order; None for all that have key points.
        boxes: file in root, in COCO's format for results, with the boxes that are evaluated; None for the annotated
            boxes. `metainfo["boxes"]` and logs say which.
        size: height and width of the crops.
        sigma: of the heat maps that are to be learnt, in their pixels.
        padding: by how much boxes are enlarged.
        augment: fields of `Augmentation` for random changes, `dict()` for the published ones; None for none.
        wrong: "raise" tells all mistakes at once: annotations of unknown images or categories, boxes without area or
            outside of their image, key points of another length or with an unknown visibility, areas that are missing,
            missing, damaged and mis-sized image files, doubled ids, and of `boxes` the same and unusable scores; "skip"
            leaves these out and logs how many. An image whose damage shows only when it is decoded stops with "raise";
            with "skip" the next person takes its place in training, and evaluation leaves it out.
        orientation: see `CocoInstances`.
    Raises:
        DatasetError: files are missing or contents wrong, or nobody has a key point.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str,
        images: str,
        classes: Sequence[str] | None = None,
        boxes: str | None = None,
        size: Sequence[int] = (256, 192),
        sigma: float = 2.0,
        padding: float = affine.PADDING,
        augment: Mapping[str, Any] | None = None,
        wrong: str = "raise",
        orientation: str | None = None,
    ) -> None:
        check_files(root, annotations, images)
        check_orientation(orientation)
        self.crop = Crop(tuple(size), padding)  # type: ignore[arg-type]  # looks at it
        self.augment = checked_augmentation(augment)
        if not 0 < sigma <= max(size):
            raise DatasetError(f"sigma must be positive, got {sigma}")
        self.sigma = sigma
        self.wrong = wrong
        self.evaluating = False
        root = Path(root).expanduser()
        path = root / annotations
        content = read_annotations(path)
        self.classes, self.skeleton = _skeleton(content["categories"], classes, path)
        ids = category_names(content["categories"], path)
        numbers = {key: self.classes.index(name) + 1 if name in self.classes else 0 for name, key in ids.items()}
        count = len(self.skeleton.names)

        def points_and_area(entry: Mapping[str, Any]) -> Mapping[str, Any]:
            if not numbers[entry["category_id"]]:
                return {}
            return {"points": points_of(entry, count), "area": area_of(entry)}

        problems = Problems()
        listed = checked_images(content["images"], root / images, problems, root=root, orientation=orientation)
        found = checked_objects(content["annotations"], listed, numbers, True, problems, points_and_area)
        objects = {key: [{**x, "mask": None} for x in group if x["label"]] for key, group in found.items()}
        self.boxes = FROM_ANNOTATIONS if boxes is None else boxes
        people = (
            _annotated(objects)
            if boxes is None
            else _detected(read_detections(root / boxes), listed, numbers, problems)
        )
        problems.settle(repr(str(path)) if boxes is None else f"{str(path)!r} with the boxes of {boxes!r}", wrong)
        if not people:
            said = "nobody with a key point" if boxes is None else f"nobody in the boxes of {boxes!r}"
            raise DatasetError(f"{str(path)!r} has {said} in an image that can be used. {HELP}")
        used = [ids[name] for name in self.classes]
        self.truth = Truth(listed, objects, people, used)
        self.skipped = problems.count

    @staticmethod
    def check_available(root: str | Path, annotations: str, images: str, boxes: str | None = None, **_: Any) -> None:
        """Look whether the folder and the files are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        check_files(root, annotations, images)
        path = Path(root).expanduser() / (boxes or annotations)
        if not path.is_file():
            raise DatasetError(
                f"boxes: looked for the file {str(path.absolute())!r}, a list of detections in COCO's format for "
                "results; leave boxes out to use the annotated ones"
            )

    @property
    def metainfo(self) -> dict[str, Any]:
        """Categories, key points, how people are cut out, and where their boxes come from, in plain types."""
        return {
            "classes": list(self.classes),
            "skeleton": self.skeleton.plain(),
            "crop": self.crop.plain(),
            "boxes": self.boxes,
        }

    def for_evaluation(self) -> None:
        """Give samples without random changes and heat maps; images that cannot be read are left out, not replaced."""
        self.evaluating = True

    def sample_name(self, index: int) -> str:
        """File name of the image, relative to the folder of the images, or to root where it is not in it."""
        return str(self.truth.images[self.truth.people[index].image]["name"])

    def __len__(self) -> int:
        return len(self.truth.people)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.wrong == "raise":
            return self._sample(index)
        if not self.evaluating:
            sample, skipped = first_readable(self._sample, index, len(self))
            return {**sample, "skipped": skipped}
        try:
            return self._sample(index)
        except CorruptImageError:
            about = self.truth.images[self.truth.people[index].image]
            blank = Image.new("RGB", (about["width"], about["height"]))
            return {**self._cut(blank, index), "index": -1, "skipped": 1}

    def _sample(self, index: int) -> dict[str, Any]:
        return self._cut(read_listed(self.truth.images[self.truth.people[index].image]), index)

    def _cut(self, image: Image.Image, index: int) -> dict[str, Any]:
        person = self.truth.people[index]
        region, points = Region(*self.crop.region(person.box)), person.points
        if self.augment is not None and points is not None and not self.evaluating:
            region, points = self.augment(region, points, image.width, self.skeleton, self.crop.size)
        matrix = region.matrix(self.crop.size, image.width)
        sample: dict[str, Any] = {"inputs": cut(image, matrix, self.crop.size)}
        if points is not None and not self.evaluating:
            in_mirror = Region(region.centre, region.scale, region.rotation).matrix(self.crop.size, image.width)
            moved = affine.transform(points[:, :2], in_mirror)
            maps, weights = codec.encode(moved, points[:, 2], self.crop.size, self.sigma)
            sample |= {"maps": torch.from_numpy(maps), "weights": torch.from_numpy(weights)}
        sample["flip_order"] = torch.tensor(codec.flip_order(self.skeleton.flip_pairs, len(self.skeleton.names)))
        sample |= {"centre": torch.from_numpy(region.centre), "scale": torch.from_numpy(region.scale)}
        return {**sample, "index": index, "skipped": 0}


def _skeleton(categories: Sequence[Any], wanted: Sequence[str] | None, path: Path) -> tuple[list[str], Skeleton]:
    """Names of the categories that are used, and their key points.

    Raises:
        DatasetError: a name is unknown or without key points, none has any, or theirs differ.
    """
    category_names(categories, path)
    having = {entry["name"]: entry for entry in categories if entry.get("keypoints")}
    names = list(having) if wanted is None else checked_classes(wanted)
    for name in names:
        if name not in having:
            raise DatasetError(
                f"classes: {name!r} is no category with key points of {str(path)!r}; closest: {closest(name, having)}"
            )
    if not names:
        raise DatasetError(
            f"{str(path)!r} has no category with 'keypoints', a list of names "
            "(https://cocodataset.org/#format-data, Keypoint Detection)"
        )
    try:
        found = [skeleton_of(having[name]) for name in names]
    except DatasetError as error:
        raise DatasetError(f"{str(path)!r}: {error}") from error
    for name, skeleton in zip(names, found, strict=True):
        if skeleton != found[0]:
            raise DatasetError(
                f"{str(path)!r}: the categories {names[0]!r} and {name!r} have different key points; choose those that "
                "go together with classes=[…]"
            )
    return names, found[0]


def _annotated(objects: Mapping[Key, Sequence[Mapping[str, Any]]]) -> list[Person]:
    """Everybody with a labelled point, but crowds."""
    return [
        Person(key, tuple(x["box"]), x["label"], 1.0, x["points"])
        for key, group in objects.items()
        for x in group
        if not x["crowd"] and (x["points"][:, 2] > 0).any()
    ]


def _detected(
    entries: Sequence[Any],
    images: Mapping[Key, Mapping[str, Any]],
    numbers: Mapping[Key, int],
    problems: Problems,
) -> list[Person]:
    """Detections of categories that are used, as they are in the file; mistakes are noted."""

    def score(entry: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"score": score_of(entry)}

    plain = [{**x, "segmentation": None} if isinstance(x, Mapping) else x for x in entries]
    found = checked_objects(plain, images, numbers, True, problems, score, "detection")
    return [
        Person(key, tuple(x["whole_box"]), x["label"], x["score"], None)
        for key, group in found.items()
        for x in group
        if x["label"]
    ]
