"""Pairs of bad and good images, the bad ones made while they are read, of any folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.folders import files_below
from visionssm.data.images import MAX_DECODED_PIXELS, SUFFIXES, UnreadableImageError, inspect_images, read_image
from visionssm.data.problems import Mistake, Problems
from visionssm.tasks.restoration.degradations import Given, Pixels, degradation_of, plain

HELP = (
    "Any folder of images serves, searched to any depth; point to yours with root and images in the data set's config."
)
_STREAM = 7919  # of the seeds of evaluations, apart from others'


class RestorationFolder(Dataset):
    """Images of a folder, and what a degradation makes of them.

    A sample is a dict: `inputs` (C, h, w) float32 the bad image, in [0, 1] but for noise; `clean` (C, scale·h, scale·w)
    uint8 the good one; `index` int. Without `patch` they are whole images, whose right and lower edge are cut to a
    multiple of the scale, and the degradation of a sample is always the same. With `patch`, place, mirroring, turning
    and degradation are drawn from PyTorch's global generator.

    Args:
        root: folder that the next two are relative to.
        degradation: `dict(type="downscale", scale=2)`, `dict(type="noise", sigma=25)` or `(low, high)`,
            `dict(type="jpeg", quality=40)` or `(low, high)`; or with `inputs` `dict(type="given", scale=2)`.
        images: folder of the good images.
        inputs: folder of bad images: same relative names, but for `suffix`.
        suffix: what follows the stem of a bad image's name, for example "x2.png" as in DIV2K; "" for the good one's.
        channels: 3 for colours, 1 for grey images.
        patch: side of the bad patches that are cut out in training; None for whole images.
        repeat: how often each image counts in an epoch.
        seed: another one makes other noise in evaluations.
        wrong: "raise" tells all mistakes at once: files that cannot be read, images smaller than a patch, bad images
            that are missing or of another size; "skip" leaves these images out and logs how many.

    Raises:
        DatasetError: an argument is wrong, folders are missing or contents wrong.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        degradation: Mapping[str, Any],
        images: str = ".",
        inputs: str | None = None,
        suffix: str = "",
        channels: int = 3,
        patch: int | None = None,
        repeat: int = 1,
        seed: int = 0,
        wrong: str = "raise",
    ) -> None:
        self.check_available(root, images, inputs)
        self.degradation = degradation_of(degradation)
        if isinstance(self.degradation, Given) != (inputs is not None):
            raise DatasetError("degradation=dict(type='given') goes with inputs, the folder of the bad images")
        if channels not in (1, 3):
            raise DatasetError(f"channels must be 1 (grey) or 3 (colours), got {channels!r}")
        for name, value in (("patch", 1 if patch is None else patch), ("repeat", repeat)):
            if type(value) is not int or value < 1:
                raise DatasetError(f"{name} must be a whole number, at least 1, got {value!r}")
        self.channels, self.patch, self.repeat, self.seed = channels, patch, repeat, seed
        self.folder = Path(root).expanduser() / images
        self.input_folder = None if inputs is None else Path(root).expanduser() / inputs
        self.suffix = suffix
        self.paths: list[Path] = []
        self._look(wrong)

    @staticmethod
    def check_available(root: str | Path, images: str = ".", inputs: str | None = None, **_: Any) -> None:
        """Look whether the folders are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        for name in (images, inputs):
            if name is not None and not (folder := Path(root).expanduser() / name).is_dir():
                raise DatasetError(f"data set not found: looked for the folder {str(folder.absolute())!r}. {HELP}")

    def _look(self, wrong: str) -> None:
        problems = Problems()
        paths = files_below(self.folder, SUFFIXES)
        bad = paths if self.input_folder is None else [self._input_path(path) for path in paths]
        scale, least = self.degradation.scale, self.degradation.scale * (self.patch or 1)
        for path, other, header, low in zip(paths, bad, inspect_images(paths), inspect_images(bad), strict=True):
            try:
                if isinstance(header, UnreadableImageError):
                    raise Mistake("files that cannot be read", header.reason)
                if isinstance(low, UnreadableImageError):
                    raise Mistake(f"bad images that cannot be read in {str(self.input_folder)!r}", low.reason)
                if min(header.upright) < least:
                    raise Mistake(f"images smaller than {least}×{least} pixels (patch={self.patch}, scale={scale})")
                if other is not path and low.upright != tuple(side // scale for side in header.upright):
                    raise Mistake(
                        f"bad images whose sides times scale={scale} are not those of the good image",
                        f"{_size(low.upright)} for {_size(header.upright)}",
                    )
            except Mistake as mistake:
                problems.note(path.relative_to(self.folder).as_posix(), mistake)
            else:
                self.paths.append(path)
        problems.settle(repr(str(self.folder)), wrong)
        if not self.paths:
            raise DatasetError(f"{str(self.folder.absolute())!r} holds no usable image. {HELP}")

    @property
    def metainfo(self) -> dict[str, Any]:
        """What the images are, and what is done to them."""
        return {"channels": self.channels, "scale": self.degradation.scale, "degradation": plain(self.degradation)}

    def sample_name(self, index: int) -> str:
        """File name, relative to the folder of the images."""
        return self.paths[index % len(self.paths)].relative_to(self.folder).as_posix()

    def __len__(self) -> int:
        return self.repeat * len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside of 0 … {len(self) - 1}")
        number = index % len(self.paths)
        clean = self._read(self.paths[number])
        if self.patch is None:
            generator = np.random.default_rng([_STREAM, self.seed, number])
            bad, good = self._pair(number, clean, generator)
        else:
            generator = np.random.default_rng(int(torch.randint(2**31, ())))
            bad, good = self._patch(number, clean, generator)
        return {"inputs": _chw(bad), "clean": _chw(good), "index": index}

    def _pair(self, number: int, clean: Pixels, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
        """The whole bad and good image."""
        scale = self.degradation.scale
        height, width = (side // scale * scale for side in clean.shape[:2])
        clean = clean[:height, :width]
        bad = self._given(number) if self.input_folder is not None else self.degradation(clean, generator)
        return bad, clean

    def _patch(self, number: int, clean: Pixels, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
        """A random part of both, mirrored and turned by chance."""
        assert self.patch is not None
        scale, grid, margin = self.degradation.scale, self.degradation.grid, self.degradation.margin
        sides = [side // scale for side in clean.shape[:2]]
        first = [int(generator.integers(side - self.patch + 1)) for side in sides]
        here = tuple(slice(start, start + self.patch) for start in first)
        good = clean[tuple(slice(scale * part.start, scale * part.stop) for part in here)]
        if self.input_folder is not None:
            bad = self._given(number)[here]
        else:
            outer = []
            for part, side in zip(here, sides, strict=True):
                start = max(0, scale * part.start - margin) // grid * grid
                stop = min(scale * side, -(-(scale * part.stop + margin) // grid) * grid)
                outer.append(slice(start, stop))
            whole = self.degradation(clean[tuple(outer)], generator)
            inner = [
                slice(part.start - wide.start // scale, part.stop - wide.start // scale)
                for part, wide in zip(here, outer, strict=True)
            ]
            bad = whole[tuple(inner)]
        symmetry = int(generator.integers(8))
        return turned(bad, symmetry), turned(good, symmetry)

    def _given(self, number: int) -> Pixels:
        return self._read(self._input_path(self.paths[number])).astype(np.float32) / 255

    def _read(self, path: Path) -> Pixels:
        try:
            image = read_image(path, "L" if self.channels == 1 else "RGB", max_pixels=MAX_DECODED_PIXELS)
        except UnreadableImageError as error:
            raise CorruptImageError(f"{error}; replace or remove it") from error
        pixels = np.asarray(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _input_path(self, path: Path) -> Path:
        assert self.input_folder is not None
        relative = path.relative_to(self.folder)
        return self.input_folder / (relative.with_name(relative.stem + self.suffix) if self.suffix else relative)


def turned(pixels: Pixels, symmetry: int) -> Pixels:
    """One of the eight mirrorings and turns of a square."""
    pixels = np.rot90(pixels, symmetry % 4)
    return pixels[:, ::-1] if symmetry >= 4 else pixels


def _chw(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _size(sides: tuple[int, ...]) -> str:
    return "×".join(map(str, sides))
