"""An exported network for image restoration applied to images, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.engine.predictors import OfGraph
from visionssm.tasks.restoration.base import BaseRestorer
from visionssm.tasks.restoration.results import OfPixels
from visionssm.tasks.restoration.tiles import Tiling, tiled

_LARGEST_SCALE = 16


@dataclass(frozen=True)
class ExportedRestorer(OfGraph, BaseRestorer):
    """An exported network for image restoration.

    Attributes:
        graph: (1, C, H, W) in [0, 1] to `restored`, (1, C, scale·H, scale·W).
        scale: by which images become larger.
    """

    scale: int = field(kw_only=True)

    @property
    def network(self) -> OfPixels:
        """The network on the pixels of an image of any size."""
        channels = self.graph.shape[1]
        assert isinstance(channels, int)
        return OfPixels(channels, self.scale, self._found)

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
    return graph.made(lambda: ExportedRestorer(tile, overlap, graph=graph, scale=scale), "how large images are cut")
