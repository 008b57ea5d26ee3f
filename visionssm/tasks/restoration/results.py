"""Restored images; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.images import UnreadableImageError
from visionssm.drawing import save_picture
from visionssm.engine.finite import check_finite
from visionssm.engine.task import Row, Source
from visionssm.tasks.restoration.photo import Photo, quantised, read_photo, write_png
from visionssm.tasks.restoration.pictures import comparison
from visionssm.tasks.restoration.resize import resized

COLUMNS = ("width", "height", "bits")
MOST_PIXELS = 2**27
"""Of a result: 1.6 GB in float32, which is needed once more for a moment."""

ENDING = ".restored.png"
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # JFIF's


@dataclass(frozen=True)
class RestoredImage:
    """What was made of an image file.

    Attributes:
        pixels: (H, W, C) uint8 or uint16, with alpha as the last of two or four channels.
        before: the image that it was made of.
    """

    pixels: np.ndarray
    before: Photo

    def rows(self) -> list[Row]:
        """Width, height and bits of a value."""
        return [(self.pixels.shape[1], self.pixels.shape[0], 8 * self.pixels.itemsize)]

    def plain(self) -> dict[str, Any]:
        """{"width": …, "height": …, "bits": …}."""
        return dict(zip(COLUMNS, self.rows()[0], strict=True))

    def save(self, folder: Path, source: Source) -> None:
        """Write NAME.png, and NAME_comparison.png with what it was before on the left."""
        write_png(self.pixels, folder / f"{source.name}.png", self.before.icc)
        save_picture(self.compared(), folder / f"{source.name}_comparison.png")

    def save_beside(self, path: Path) -> None:
        """Write photo.jpg.restored.png beside photo.jpg."""
        write_png(self.pixels, path.with_name(path.name + ENDING), self.before.icc)

    def compared(self) -> Any:
        """The image before, enlarged by bicubic interpolation where that was small, and after."""
        scale = self.pixels.shape[0] // self.before.pixels.shape[0]
        colours = self.pixels[..., : self.before.pixels.shape[2]]
        if colours.dtype == np.uint16:
            colours = (colours >> 8).astype(np.uint8)
        before = quantised(resized(self.before.pixels, scale), 8)
        return comparison({"bicubic" if scale > 1 else "before": before, "restored": colours})


def photo_to_restore(path: Path, scale: int) -> Photo:
    """An image file as it is stored; see `read_photo`.

    Args:
        path: of the file.
        scale: by which it is enlarged.
    Raises:
        UnreadableImageError: (a ValueError) with the reason; also of restored images, so that a folder that is restored
            twice does not grow.
    """
    if path.name.endswith(ENDING):
        raise UnreadableImageError(path, "its name is that of a restored image; rename it to restore it once more")
    return read_photo(path, MOST_PIXELS // scale**2)


@dataclass(frozen=True)
class OfPixels:
    """A network on the pixels of an image.

    Attributes:
        channels: 1 for grey, 3 for colours.
        scale: by which it enlarges.
        apply: (H, W, channels) in [0, 1] to (scale·H, scale·W, channels).
    """

    channels: int
    scale: int
    apply: Callable[[np.ndarray], np.ndarray]


def restored_photo(photo: Photo, network: OfPixels) -> RestoredImage:
    """A photo restored, in its own precision; transparency is enlarged by bicubic interpolation.

    Networks of grey images restore the luma of colours, and the chroma is enlarged likewise; those of colours restore
    grey images as colours whose channels are averaged.

    Raises:
        ValueError: the network gives NaN or infinite numbers, which no picture has.
    """
    scale, channels = network.scale, photo.pixels.shape[2]
    if channels == network.channels:
        found = network.apply(photo.pixels)
    elif channels == 1:
        found = network.apply(photo.pixels.repeat(3, 2)).mean(2, keepdims=True)
    else:
        ycc = photo.pixels @ TO_YCC.T.astype(np.float32)
        luma = network.apply(ycc[..., :1])
        ycc = np.concatenate([luma, resized(ycc[..., 1:], scale)], 2)
        found = ycc @ np.linalg.inv(TO_YCC).T
    check_finite(bool(np.isfinite(found).all()))
    levels = [quantised(found, photo.bits)]
    del found  # four bytes a number, before transparency takes as much
    if photo.alpha is not None:
        levels.append(quantised(resized(photo.alpha, scale)[..., None], photo.bits))
    return RestoredImage(np.concatenate(levels, 2), photo)
