"""Images with boxes and masks in COCO's format, checked as a whole before the first one is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.data.coco import (
    HELP,
    check_files,
    checked_images,
    checked_objects,
    class_numbers,
    read_annotations,
    read_listed,
)
from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.joint_transforms import build_transforms
from visionssm.data.masks import decode_mask
from visionssm.data.orientation import check_orientation
from visionssm.data.problems import Problems, first_readable


class CocoInstances(Dataset):
    """A COCO-format set as torchvision's detectors take it.

    A sample is a dict: `inputs` (3, H, W) float32 in [0, 1]; `targets` with `boxes` (n, 4) left, top, right, bottom in
    pixels, `labels` (n,) from 1 in the order of `classes`, `masks` (n, H, W) uint8 and `crowd` (n,) bool with
    `with_crowds`; `index` int, −1 where an image could not be read while evaluating; `skipped` int, the images passed
    over for this one.

    Args:
        root: folder that the next two are relative to.
        annotations: the JSON file.
        images: folder of the images. Names in the file are relative to it, or absolute; all must be within it or root.
        classes: names of categories to use, in this order; None for all, in the file's order.
        wrong: "raise" tells all mistakes at once: annotations of unknown images or categories, boxes without area or
            outside of their image, masks that cannot be decoded, missing, damaged and mis-sized image files, doubled
            ids; "skip" leaves these out and logs how many. An image whose damage shows only when it is decoded stops
            with "raise"; with "skip" the next one takes its place in training, and evaluation leaves it out.
        background_images: keep images that have no object; without, they count as mistakes.
        with_crowds: return crowd regions too, which evaluation ignores; training must not see them.
        masks: None to return masks if all objects of the set have one; True to return them, and to count objects
            without one as mistakes; False for boxes alone.
        orientation: of images that a viewer turns (EXIF orientation): "upright" if annotations are of the image as it
            is shown, "stored" if of the pixels as the file has them; None to tell it by width and height, and to count
            images as mistakes where both fit.
        transforms: transforms of `torchvision.transforms.v2` by name, `[dict(type="RandomHorizontalFlip", p=0.5), …]`.
    Raises:
        DatasetError: files are missing or contents wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str,
        images: str,
        classes: Sequence[str] | None = None,
        wrong: str = "raise",
        background_images: bool = True,
        with_crowds: bool = False,
        masks: bool | None = None,
        orientation: str | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        check_files(root, annotations, images)
        check_orientation(orientation)
        self.transforms = build_transforms(transforms)
        root = Path(root).expanduser()
        self.with_crowds = with_crowds
        self.evaluating = False
        self.wrong = wrong
        path = root / annotations
        content = read_annotations(path)
        problems = Problems()
        self.classes, numbers = class_numbers(content["categories"], classes, path)
        self.images = checked_images(content["images"], root / images, problems, root=root, orientation=orientation)
        objects = checked_objects(content["annotations"], self.images, numbers, classes is None, problems)
        self.object_count = sum(map(len, objects.values()))
        self.without_mask = [
            f"annotation {x['id']!r} in {self.images[key]['file_name']!r}"
            for key, group in objects.items()
            for x in group
            if x["mask"] is None
        ]
        if masks:
            objects = {key: [x for x in group if x["mask"] is not None] for key, group in objects.items()}
            for example in self.without_mask:
                problems.add("objects without a mask", example)
        if not background_images:
            for key in [key for key in self.images if not objects.get(key)]:
                problems.add("images without objects", repr(self.images.pop(key)["file_name"]))
        problems.settle(repr(str(path)), wrong)
        if not self.images:
            raise DatasetError(f"{str(path)!r} names no usable image. {HELP}")
        self.keys = list(self.images)
        self.category_ids = [category for category, _ in sorted(numbers.items(), key=lambda item: item[1])]
        self.objects = objects
        self.has_masks = bool(masks) or (masks is None and not self.without_mask)
        self.skipped = problems.count

    @staticmethod
    def check_available(root: str | Path, annotations: str, images: str, **_: Any) -> None:
        """Look whether the folder and the file are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        check_files(root, annotations, images)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names, without the background; number 1 is the first."""
        return {"classes": list(self.classes)}

    def for_evaluation(self) -> None:
        """Give samples as COCO's metric needs them: with crowds, boxes as they are in the file, images by their ids.

        The order decides between detections of equal scores. Images that cannot be read are left out, not replaced.
        """
        self.evaluating = self.with_crowds = True
        self.keys = sorted(self.images, key=lambda key: (isinstance(key, str), key))

    def sample_name(self, index: int) -> str:
        """File name, relative to the folder of the images, or to root where the image is not in it."""
        return str(self.images[self.keys[index]]["name"])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.wrong == "raise":
            return self._sample(index)
        if not self.evaluating:
            sample, skipped = first_readable(self._sample, index, len(self))
            return {**sample, "skipped": skipped}
        try:
            return self._sample(index)
        except CorruptImageError:
            about = self.images[self.keys[index]]
            blank = Image.new("RGB", (about["width"], about["height"]))
            return {**self._changed(blank, [], index), "index": -1, "skipped": 1}

    def _sample(self, index: int) -> dict[str, Any]:
        objects = [x for x in self.objects.get(self.keys[index], []) if self.with_crowds or not x["crowd"]]
        return self._changed(read_listed(self.images[self.keys[index]]), objects, index)

    def _changed(self, image: Image.Image, objects: Sequence[Mapping[str, Any]], index: int) -> dict[str, Any]:
        """A sample as the transforms leave it."""
        height, width = image.height, image.width
        boxes = [x["whole_box" if self.evaluating else "box"] for x in objects]
        # crowds are marked in the labels, which transforms take out together with boxes
        marked = [2 * x["label"] + x["crowd"] for x in objects]
        targets: dict[str, Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                format="XYXY",  # type: ignore[arg-type]
                canvas_size=(height, width),
            ),
            "labels": torch.tensor(marked, dtype=torch.int64),
        }
        if self.has_masks:
            decoded = [decode_mask(x["mask"], height, width) for x in objects]
            stacked = np.stack(decoded) if decoded else np.zeros((0, height, width), bool)
            targets["masks"] = tv_tensors.Mask(torch.from_numpy(stacked.astype(np.uint8)))
        inputs = to_dtype(to_image(image), torch.float32, scale=True)
        if self.transforms is not None:
            inputs, targets = self.transforms(inputs, targets)
        plain = {name: x.as_subclass(torch.Tensor) for name, x in targets.items()}
        if self.with_crowds:
            plain["crowd"] = plain["labels"] % 2 == 1
        plain["labels"] = plain["labels"] // 2
        return {"inputs": inputs.as_subclass(torch.Tensor), "targets": plain, "index": index, "skipped": 0}
