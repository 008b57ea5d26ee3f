"""An exported network for image restoration applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.tasks.restoration.photo import Photo
from visionssm.tasks.restoration.results import COLUMNS, OfPixels, RestoredImage, photo_to_restore, restored_photo
from visionssm.tasks.restoration.tiles import Tiling, tiled

_LARGEST_SCALE = 16


@dataclass(frozen=True)
class ExportedRestorer:
    """An exported network for image restoration.

    Attributes:
        graph: (1, C, H, W) in [0, 1] to `restored`, (1, C, scale·H, scale·W).
        scale: by which images become larger.
        tile, overlap: how large images are cut; see `Tiling`.
    """

    columns: ClassVar[tuple[str, ...]] = COLUMNS
    writes_beside: ClassVar[bool] = True
    at_once: ClassVar[int] = 1  # the sizes of photos differ, and one may need a gigabyte
    model: ClassVar[None] = None

    graph: Graph
    scale: int
    tile: int | None = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        Tiling(self.tile, self.overlap)  # checks them

    @property
    def channels(self) -> int:
        """1 for a network of grey images, 3 for one of colours."""
        assert isinstance(self.graph.shape[1], int)
        return self.graph.shape[1]

    def read(self, path: Path) -> Photo:
        """An image file as it is stored; see `photo_to_restore`."""
        return photo_to_restore(path, self.scale)

    def __call__(self, photos: Sequence[Photo]) -> list[RestoredImage]:
        """Every photo restored; see `restored_photo`."""
        network = OfPixels(self.channels, self.scale, self._found)
        return [restored_photo(photo, network) for photo in photos]

    def _found(self, pixels: np.ndarray) -> np.ndarray:
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)

        def of_tile(top: int, left: int, rows: int, columns: int) -> np.ndarray:
            given = np.ascontiguousarray(image[None, :, top : top + rows, left : left + columns])
            found = self.graph.output(given, "restored")[0].astype(np.float32)
            expected = (image.shape[0], self.scale * rows, self.scale * columns)
            if found.shape != expected:
                raise ExportedFileError(
                    f"the file gives an image of shape {found.shape}, where {expected} was expected"
                )
            return found

        found = tiled(of_tile, (image.shape[0], *pixels.shape[:2]), self.scale, self._tiling(*pixels.shape[:2]))
        return found.transpose(1, 2, 0)

    def _tiling(self, height: int, width: int) -> Tiling:
        """A file of one size takes an image in tiles of that size."""
        sides = self.graph.fixed_sides
        if sides is None:
            return Tiling(self.tile, self.overlap)
        if sides[0] != sides[1] or min(height, width) < sides[0]:
            raise ValueError(
                f"{self.graph.path.name} is for images of {sides[1]}×{sides[0]} pixels, this one has {width}×{height}: "
                "export with --dynamic"
            )
        return Tiling(sides[0], min(self.overlap, sides[0] // 2))


def exported_restorer(graph: Graph) -> ExportedRestorer:
    """The network in a file.

    Raises:
        ExportedFileError: it does not say its scale, or how large images are cut.
    """
    if len(graph.shape) != 4 or graph.shape[1] not in (1, 3):
        raise ExportedFileError(f"{str(graph.path)!r} takes inputs {graph.shape}, which are no images")
    scale: int = graph.number("scale", 1, _LARGEST_SCALE, whole=True)
    tile = graph.fact("tile") if "tile" in graph.about else None
    overlap = graph.fact("overlap")
    return graph.made(lambda: ExportedRestorer(graph, scale, tile, overlap), "how large images are cut")
