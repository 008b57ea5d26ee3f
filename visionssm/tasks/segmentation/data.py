"""Images with a class number per pixel, from a folder of images and a folder of label images of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.folders import files_below
from visionssm.data.images import MAX_DECODED_PIXELS, SUFFIXES, inspect_images, read_image
from visionssm.data.joint_transforms import build_transforms
from visionssm.data.label_images import check_pair, class_numbers_of, odd_numbers, reason_of, some
from visionssm.data.orientation import check_orientation
from visionssm.data.problems import Mistake, Problems, checked_classes, first_readable

IGNORED = 255
"""Pixels with this number count neither in training nor in evaluation."""

HELP = (
    "A segmentation set is a folder of images and a folder of label images (PNG, a class number per pixel) of the same "
    "names. Point to yours with root, images and labels in the data set's config."
)


class LabelledImages(Dataset):
    """Images and label images side by side.

    A sample is a dict: `inputs` (3, H, W) float32 in [0, 1], `labels` (H, W) int64 class numbers or `IGNORED`, `index`
    int, −1 where an image could not be read while evaluating, and `skipped` int, the images passed over for this one.

    Args:
        root: folder that the next two are relative to.
        images: folder of the images, searched to any depth, through links to folders too.
        labels: folder of the label images: same relative name, other suffix.
        classes: names in the order of the numbers, from 0 (often the background).
        suffix: what a label image's name has in place of the image's suffix, for example "_labels.png".
        wrong: "raise" tells all mistakes at once: images without label image, damaged files, label images of another
            size, with colours instead of numbers or with numbers that no class has; "skip" leaves these images out and
            logs how many. A pair whose damage shows only when it is decoded stops with "raise"; with "skip" the next
            one takes its place in training, and evaluation leaves it out.
        inspect: label images whose numbers are looked at beforehand; None for all. The others are checked when read.
        orientation: of images that a viewer turns (EXIF orientation): "upright" if label images are of the image as it
            is shown, "stored" if of the pixels as the file has them; None to tell it by the sizes, and to count images
            as mistakes where both fit.
        transforms: transforms of `torchvision.transforms.v2` by name, `[dict(type="RandomHorizontalFlip", p=0.5), …]`.
    Raises:
        DatasetError: folders are missing or contents wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str,
        labels: str,
        classes: Sequence[str],
        suffix: str = ".png",
        wrong: str = "raise",
        inspect: int | None = 500,
        orientation: str | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check_folders(root, images, labels)
        check_orientation(orientation)
        self.classes = checked_classes(classes)
        if len(self.classes) > IGNORED:
            raise DatasetError(f"classes must be 1 to {IGNORED} different names, got {len(self.classes)}")
        self.transforms = build_transforms(transforms)
        self.wrong = wrong
        self.evaluating = False
        self.image_folder, self.label_folder = (Path(root).expanduser() / x for x in (images, labels))
        self.pairs: list[tuple[Path, Path]] = []
        self.upright: list[bool] = []
        self.sizes: list[tuple[int, int]] = []
        problems = Problems()
        paths = files_below(self.image_folder, SUFFIXES)
        label_paths = [self._label_path(path, suffix) for path in paths]
        headers = zip(inspect_images(paths), inspect_images(label_paths), strict=True)
        for path, label, (image_header, label_header) in zip(paths, label_paths, headers, strict=True):
            try:
                if not label.exists():
                    raise Mistake(f"images without label image in {str(self.label_folder)!r}")
                upright, size = check_pair(image_header, label_header, orientation)
                if inspect is None or len(self.pairs) < inspect:
                    self._check_numbers(label)
            except Mistake as mistake:
                problems.note(path.relative_to(self.image_folder).as_posix(), mistake)
            else:
                self.pairs.append((path, label))
                self.upright.append(upright)
                self.sizes.append(size)
        problems.settle(repr(str(self.image_folder)), wrong)
        if not self.pairs:
            raise DatasetError(f"{str(self.image_folder.absolute())!r} holds no usable image. {HELP}")
        self.skipped = problems.count

    @staticmethod
    def check_available(root: str | Path, images: str, labels: str, **_: Any) -> None:
        """Look whether the folders are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        _check_folders(root, images, labels)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names; number 0 is the first."""
        return {"classes": list(self.classes)}

    def sample_name(self, index: int) -> str:
        """File name, relative to the folder of the images."""
        return self.pairs[index][0].relative_to(self.image_folder).as_posix()

    def __len__(self) -> int:
        return len(self.pairs)

    def for_evaluation(self) -> None:
        """Leave out images that cannot be read, instead of replacing them by others (with `wrong="skip"`)."""
        self.evaluating = True

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.wrong == "raise":
            return self._sample(index)
        if not self.evaluating:
            sample, skipped = first_readable(self._sample, index, len(self))
            return {**sample, "skipped": skipped}
        try:
            return self._sample(index)
        except CorruptImageError:
            blank = Image.new("RGB", self.sizes[index])
            ignored = np.full((blank.height, blank.width), IGNORED)
            return {**self._changed(blank, ignored, index), "index": -1, "skipped": 1}

    def _sample(self, index: int) -> dict[str, Any]:
        path, label = self.pairs[index]
        try:
            image = read_image(path, max_pixels=MAX_DECODED_PIXELS, upright=self.upright[index])
            numbers = class_numbers_of(label)
        except ValueError as error:
            raise CorruptImageError(
                f"{error}; replace or remove image and label image, or set wrong='skip' in the data set's config"
            ) from error
        if numbers.shape != (image.height, image.width):
            raise CorruptImageError(f"label image {str(label)!r} is of another size than its image")
        odd = self._odd_numbers(numbers)
        if odd:
            raise CorruptImageError(f"label image {str(label)!r} has numbers that no class has: {some(odd)}")
        return self._changed(image, numbers, index)

    def _changed(self, image: Image.Image, numbers: np.ndarray, index: int) -> dict[str, Any]:
        """A sample as the transforms leave it."""
        inputs = to_dtype(to_image(image), torch.float32, scale=True)
        targets = tv_tensors.Mask(torch.from_numpy(numbers.astype(np.int64)))
        if self.transforms is not None:
            inputs, targets = self.transforms(inputs, targets)
        plain = torch.Tensor
        return {
            "inputs": inputs.as_subclass(plain),
            "labels": targets.as_subclass(plain),
            "index": index,
            "skipped": 0,
        }

    def _label_path(self, path: Path, suffix: str) -> Path:
        relative = path.relative_to(self.image_folder)
        return self.label_folder / relative.with_name(relative.stem + suffix)

    def _check_numbers(self, label: Path) -> None:
        try:
            odd = self._odd_numbers(class_numbers_of(label))
        except ValueError as error:
            raise Mistake("files that cannot be read", reason_of(error)) from error
        if odd:
            raise Mistake("label images with numbers that no class has", some(odd))

    def _odd_numbers(self, numbers: np.ndarray) -> list[int]:
        return odd_numbers(numbers, {*range(len(self.classes)), IGNORED})


def _check_folders(root: str | Path, images: str, labels: str) -> None:
    for name in (images, labels):
        folder = Path(root).expanduser() / name
        if not folder.is_dir():
            raise DatasetError(f"data set not found: looked for the folder {str(folder.absolute())!r}. {HELP}")
