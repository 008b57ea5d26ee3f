"""Images and masks side by side, as ISIC's: a folder of images and a folder of PNG masks, paired by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.data.folders import files_below
from visionssm.data.images import MAX_DECODED_PIXELS, SUFFIXES, inspect_images, read_image
from visionssm.data.label_images import check_pair, class_numbers_of, reason_of
from visionssm.data.orientation import check_orientation
from visionssm.data.problems import Mistake, Problems
from visionssm.tasks.medical.datasets.base import MedicalDataset, Pair, check_labels
from visionssm.tasks.medical.datasets.folds import part_of
from visionssm.tasks.medical.preparation import preparation_of

_HELP = (
    "Images and masks are two folders with files of the same names (PNG masks; a class number per pixel, or of two "
    "classes 0 and 255). Point to yours with root, images and masks in the data set's config."
)


class MaskedImages(MedicalDataset):
    """Images with a mask each.

    Args:
        root: folder that the next two are relative to.
        images: folder of the images, searched to any depth.
        masks: folder of the masks: same relative name, other suffix.
        classes: names in the order of the numbers, the background first.
        suffix: what a mask's name has in place of the image's suffix, for example "_segmentation.png".
        values: grey level or palette number of every class; None for 0, 1, …, where of two classes 255 is the second
            one's too.
        channels: 3 for colours, 1 for grey images.
        part: "train", "val" (every fifth image) or "all"; see `part_of`.
        fold: which of the five is "val", 0 to 4.
        wrong: "raise" tells all mistakes at once: images without mask, damaged files, masks of another size, with
            colours or with values that no class has; "skip" leaves these images out and logs how many.
        inspect: masks whose values are looked at beforehand; None for all. The others are checked when read.
        orientation: "upright", "stored" or None, see `LabelledImages`.
        prepare, transforms, repeat, cache: see `MedicalDataset`.

    Raises:
        DatasetError: folders are missing or contents wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        masks: str = "masks",
        classes: Sequence[str] = ("background", "lesion"),
        suffix: str = ".png",
        values: Sequence[int] | None = None,
        channels: int = 3,
        part: str = "all",
        fold: int = 0,
        wrong: str = "raise",
        inspect: int | None = 500,
        orientation: str | None = None,
        prepare: Mapping[str, Any] | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
        repeat: int = 1,
        cache: bool = False,
    ) -> None:
        _check_folders(root, images, masks)
        check_orientation(orientation)
        if channels not in (1, 3):
            raise DatasetError(f"channels must be 1 (grey) or 3 (colours), got {channels}")
        super().__init__(
            classes,
            preparation_of(prepare, channels=channels),
            dims=2,
            transforms=transforms,
            repeat=repeat,
            cache=cache,
            wrong=wrong,
        )
        if values is not None and (len(values) != len(self.classes) or len(set(values)) != len(values)):
            raise DatasetError(f"values={list(values)} must be {len(self.classes)} different numbers, one per class")
        self.numbers = {value: number for number, value in enumerate(values or range(len(self.classes)))}
        if values is None and len(self.classes) == 2:
            self.numbers[255] = 1
        self.image_folder, self.mask_folder = (Path(root).expanduser() / x for x in (images, masks))
        self.files: list[tuple[Path, Path, bool]] = []
        problems = Problems()
        every = files_below(self.image_folder, SUFFIXES)
        paths = [every[n] for n in part_of([str(path) for path in every], part, fold)]
        mask_paths = [self.mask_folder / x.relative_to(self.image_folder).with_name(x.stem + suffix) for x in paths]
        headers = zip(inspect_images(paths), inspect_images(mask_paths), strict=True)
        for path, mask, (image_header, mask_header) in zip(paths, mask_paths, headers, strict=True):
            try:
                if not mask.exists():
                    raise Mistake(f"images without mask in {str(self.mask_folder)!r}")
                upright, _ = check_pair(image_header, mask_header, orientation)
                if inspect is None or len(self.files) < inspect:
                    self._classes_of(mask)
            except Mistake as mistake:
                problems.note(path.relative_to(self.image_folder).as_posix(), mistake)
            else:
                self.files.append((path, mask, upright))
        problems.settle(repr(str(self.image_folder)), wrong)
        if not self.files:
            raise DatasetError(f"{str(self.image_folder.absolute())!r} holds no usable image. {_HELP}")

    @staticmethod
    def check_available(root: str | Path, images: str = "images", masks: str = "masks", **_: Any) -> None:
        """Look whether the folders are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        _check_folders(root, images, masks)

    @property
    def cases(self) -> int:
        """Images."""
        return len(self.files)

    def pair(self, index: int) -> Pair:
        """An image and its mask."""
        path, mask, upright = self.files[index]
        mode = "L" if self.preparation.channels == 1 else "RGB"
        image = read_image(path, mode, max_pixels=MAX_DECODED_PIXELS, upright=upright)  # type: ignore[arg-type]
        pixels = np.asarray(image)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return Pair(pixels, self._classes_of(mask), (1.0, 1.0))

    def sample_name(self, index: int) -> str:
        """File name, relative to the folder of the images."""
        return self.files[index][0].relative_to(self.image_folder).as_posix()

    def _classes_of(self, mask: Path) -> np.ndarray:
        try:
            levels = class_numbers_of(mask)
        except UnreadableFileError as error:
            raise Mistake("files that cannot be read", reason_of(error)) from error
        except ValueError as error:
            raise Mistake("label images with colours instead of class numbers", str(error)) from error
        check_labels(levels, list(self.numbers))
        found = np.zeros(levels.shape, np.int64)
        for level, number in self.numbers.items():
            found[levels == level] = number
        return found


def _check_folders(root: str | Path, images: str, masks: str) -> None:
    for name in (images, masks):
        folder = Path(root).expanduser() / name
        if not folder.is_dir():
            raise DatasetError(f"data set not found: looked for the folder {str(folder.absolute())!r}. {_HELP}")
