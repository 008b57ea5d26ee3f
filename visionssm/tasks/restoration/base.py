"""What networks for image restoration of checkpoints and of exported files share; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from visionssm.tasks.restoration.photo import Photo
from visionssm.tasks.restoration.results import COLUMNS, OfPixels, RestoredImage, photo_to_restore, restored_photo
from visionssm.tasks.restoration.tiles import Tiling


@dataclass(frozen=True)
class BaseRestorer:
    """A network for image restoration.

    Attributes:
        model: (1, C, H, W) in [0, 1] to (1, C, scale·H, scale·W).
        tile, overlap: how large images are cut; see `Tiling`.
    """

    columns: ClassVar[tuple[str, ...]] = COLUMNS
    writes_beside: ClassVar[bool] = True
    at_once: ClassVar[int] = 1  # the sizes of photos differ, and one may need a gigabyte

    model: Any
    tile: int | None = 256
    overlap: int = 32

    def __post_init__(self) -> None:
        Tiling(self.tile, self.overlap)  # checks them

    @property
    def network(self) -> OfPixels:
        """The network on the pixels of an image of any size."""
        raise NotImplementedError

    def read(self, path: Path) -> Photo:
        """An image file as it is stored; see `photo_to_restore`."""
        return photo_to_restore(path, self.network.scale)

    def __call__(self, photos: Sequence[Photo]) -> list[RestoredImage]:
        """Every photo restored; see `restored_photo`."""
        return [restored_photo(photo, self.network) for photo in photos]  # one by one, as their sizes differ
