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
    decode_mask,
    read_annotations,
)
from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import UnreadableImageError, read_image
from visionssm.data.joint_transforms import build_transforms
from visionssm.data.problems import Problems


class CocoInstances(Dataset):
    """A COCO-format set as torchvision's detectors take it.

    A sample is a dict: `inputs` (3, H, W) float32 in [0, 1]; `targets` with `boxes` (n, 4) left, top, right, bottom in
    pixels, `labels` (n,) from 1 in the order of `classes`, `masks` (n, H, W) uint8 (if all objects of the set
    have one) and `crowd` (n,) bool with `with_crowds`; `index` int.

    Args:
        root: folder that the next two are relative to.
        annotations: the JSON file.
        images: folder of the images.
        classes: names of categories to use, in this order; None for all, in the file's order.
        wrong: "raise" tells all mistakes at once: annotations of unknown images or categories, boxes without area or
            outside of their image, masks that cannot be decoded, missing files, doubled ids; "skip" leaves these out
            and logs how many.
        background_images: keep images that have no object; without, they count as mistakes.
        with_crowds: return crowd regions too, which evaluation ignores; training must not see them.
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
        transforms: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        check_files(root, annotations, images)
        self.transforms = build_transforms(transforms)
        self.folder = Path(root).expanduser() / images
        self.with_crowds = with_crowds
        path = Path(root).expanduser() / annotations
        content = read_annotations(path)
        problems = Problems()
        self.classes, numbers = class_numbers(content["categories"], classes, path)
        self.images = checked_images(content["images"], self.folder, problems)
        objects = checked_objects(content["annotations"], self.images, numbers, classes is None, problems)
        if not background_images:
            for key in [key for key in self.images if not objects.get(key)]:
                problems.add("images without objects", repr(self.images.pop(key)["file_name"]))
        problems.settle(repr(str(path)), wrong)
        if not self.images:
            raise DatasetError(f"{str(path)!r} names no usable image. {HELP}")
        self.keys = list(self.images)
        self.objects = objects
        self.has_masks = all(x["mask"] is not None for group in objects.values() for x in group)
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

    def sample_name(self, index: int) -> str:
        """File name."""
        return str(self.images[self.keys[index]]["file_name"])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        about = self.images[self.keys[index]]
        image = self._read(about)
        objects = [x for x in self.objects.get(self.keys[index], []) if self.with_crowds or not x["crowd"]]
        height, width = image.height, image.width
        targets: dict[str, Tensor] = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor([x["box"] for x in objects], dtype=torch.float32).reshape(-1, 4),
                format="XYXY",  # type: ignore[arg-type]
                canvas_size=(height, width),
            ),
            "labels": torch.tensor([x["label"] for x in objects], dtype=torch.int64),
        }
        if self.has_masks:
            masks = [decode_mask(x["mask"], height, width) for x in objects]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), bool)
            targets["masks"] = tv_tensors.Mask(torch.from_numpy(stacked.astype(np.uint8)))
        if self.with_crowds:
            targets["crowd"] = torch.tensor([x["crowd"] for x in objects], dtype=torch.bool)
        inputs = to_dtype(to_image(image), torch.float32, scale=True)
        if self.transforms is not None:
            inputs, targets = self.transforms(inputs, targets)
        plain = {name: x.as_subclass(torch.Tensor) for name, x in targets.items()}
        return {"inputs": inputs.as_subclass(torch.Tensor), "targets": plain, "index": index}

    def _read(self, about: Mapping[str, Any]) -> Image.Image:
        path = self.folder / about["file_name"]
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            raise CorruptImageError(f"{error}; replace it, or remove it from the annotations") from error
        if (image.height, image.width) != (about["height"], about["width"]):
            raise CorruptImageError(
                f"image {str(path)!r} is {image.width}×{image.height}, its annotations are for "
                f"{about['width']}×{about['height']}"
            )
        return image
