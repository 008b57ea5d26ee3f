"""Images with a class number a pixel, from a folder of images and a folder of label images of the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.readers import get_img_extensions
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype, to_image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import UnreadableImageError, read_image
from visionssm.data.joint_transforms import build_transforms
from visionssm.data.problems import Problems

IGNORED = 255
"""Pixels with this number count neither in training nor in evaluation."""

HELP = (
    "A segmentation set is a folder of images and a folder of label images (PNG, a class number a pixel) of the same "
    "names. Point to yours with root, images and labels in the data set's config."
)


class LabelledImages(Dataset):
    """Images and label images side by side.

    A sample is a dict: `inputs` (3, H, W) float32 in [0, 1], `labels` (H, W) int64 class numbers or `IGNORED`, `index`.

    Args:
        root: folder that the next two are relative to.
        images: folder of the images, searched to any depth.
        labels: folder of the label images: same relative name, other suffix.
        classes: names in the order of the numbers, from 0 (often the background).
        suffix: what a label image's name has in place of the image's suffix, for example "_labels.png".
        wrong: "raise" tells all mistakes at once: images without label image, label images of another size, with
            colours instead of numbers or with numbers that no class has; "skip" leaves these images out and logs how
            many.
        inspect: label images whose numbers are looked at beforehand; None for all. The others are checked when read.
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
        transforms: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        _check_folders(root, images, labels)
        if not classes or len(set(classes)) != len(classes) or len(classes) > IGNORED:
            raise DatasetError(f"classes must be 1 to {IGNORED} different names, got {list(classes)!r}")
        self.transforms = build_transforms(transforms)
        self.classes = [str(name) for name in classes]
        self.image_folder, self.label_folder = (Path(root).expanduser() / x for x in (images, labels))
        self.pairs: list[tuple[Path, Path]] = []
        problems = Problems()
        for path in _image_files(self.image_folder):
            relative = path.relative_to(self.image_folder)
            label = self.label_folder / relative.with_name(relative.stem + suffix)
            look = inspect is None or len(self.pairs) < inspect
            problem = self._problem(path, label, look)
            if problem is None:
                self.pairs.append((path, label))
            else:
                problems.add(*problem)
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.pairs[index]
        try:
            image = read_image(path)
            numbers = _numbers(label)
        except (UnreadableImageError, OSError, ValueError) as error:
            raise CorruptImageError(f"{error}; replace or remove image and label image") from error
        odd = self._odd_numbers(numbers)
        if odd:
            raise CorruptImageError(f"label image {str(label)!r} has numbers that no class has: {_some(odd)}")
        inputs = to_dtype(to_image(image), torch.float32, scale=True)
        targets = tv_tensors.Mask(torch.from_numpy(numbers.astype(np.int64)))
        if self.transforms is not None:
            inputs, targets = self.transforms(inputs, targets)
        plain = torch.Tensor
        return {"inputs": inputs.as_subclass(plain), "labels": targets.as_subclass(plain), "index": index}

    def _problem(self, path: Path, label: Path, look_at_numbers: bool) -> tuple[str, str] | None:
        """Kind and example of what is wrong with a pair."""
        name = repr(path.relative_to(self.image_folder).as_posix())
        if not label.is_file():
            return f"images without label image in {str(self.label_folder)!r}", name
        try:
            with Image.open(path) as image, Image.open(label) as numbers:
                if image.size != numbers.size:
                    sizes = " and ".join(f"{x.width}×{x.height}" for x in (image, numbers))
                    return "label images of another size than their image", f"{name} ({sizes})"
                if numbers.mode not in ("L", "P", "1", "I", "I;16"):
                    return "label images with colours instead of class numbers", f"{name} (mode {numbers.mode})"
            odd = self._odd_numbers(_numbers(label)) if look_at_numbers else []
        except Exception as error:  # decoders of damaged data raise whatever comes
            return "files that cannot be read", f"{name} ({type(error).__name__})"
        return ("label images with numbers that no class has", f"{name} ({_some(odd)})") if odd else None

    def _odd_numbers(self, numbers: np.ndarray) -> list[int]:
        return [int(x) for x in np.unique(numbers) if x != IGNORED and not 0 <= x < len(self.classes)]


def _numbers(path: Path) -> np.ndarray:
    """(H, W) numbers of a label image; of palette images the indices, not the colours."""
    with Image.open(path) as image:
        numbers = np.asarray(image)
    if numbers.ndim != 2:
        raise ValueError(f"label image {str(path)!r} has colours instead of class numbers")
    return numbers.astype(np.int64)


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")


def _check_folders(root: str | Path, images: str, labels: str) -> None:
    for name in (images, labels):
        folder = Path(root).expanduser() / name
        if not folder.is_dir():
            raise DatasetError(f"data set not found: looked for the folder {str(folder.absolute())!r}. {HELP}")


def _image_files(folder: Path) -> list[Path]:
    extensions = tuple(get_img_extensions())
    return sorted(x for x in folder.rglob("*") if x.name.lower().endswith(extensions) and not x.name.startswith("."))
