"""How a video is looked at when it is classified: frames, crops and colours; without PyTorch.

Frames are chosen as in temporal segment networks (Wang et al. 2016, arXiv 1608.00859): one of each of T equal parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from visionssm.data.errors import DatasetError
from visionssm.data.videos import Video

MAX_FRAMES, MAX_SIDE, MAX_VIEWS = 512, 1024, 64
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def segment_frames(frames: int, count: int, places: np.ndarray | float) -> list[int]:
    """A frame of each of so many equal segments of a video.

    Args:
        frames: of the video; where they are fewer than the segments, some are taken several times.
        count: T, the segments.
        places: where in its segment a frame is taken, from 0 to less than 1; a number for each, or one for all.
    """
    numbers = np.floor((np.arange(count) + places) * (frames / count)).astype(int)
    return numbers.clip(0, frames - 1).tolist()


@dataclass(frozen=True)
class ViewSettings:
    """How a video is looked at when it is classified.

    Attributes:
        frames: T, of a clip.
        size: side of the square that is shown.
        channels: 3 for RGB, 1 for grey.
        clips: that are taken of a video, evenly shifted within the segments.
        crops: of a clip: 1 in the middle, or 3 along the longer side.
        mean, std: of every channel, of values from 0 to 1.

    Raises:
        DatasetError: a value is out of range.
    """

    frames: int = 8
    size: int = 224
    channels: int = 3
    clips: int = 1
    crops: int = 1
    mean: tuple[float, ...] = _IMAGENET_MEAN
    std: tuple[float, ...] = _IMAGENET_STD

    def __post_init__(self) -> None:
        for name, most in (("frames", MAX_FRAMES), ("size", MAX_SIDE), ("clips", MAX_VIEWS)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise DatasetError(f"{name} must be a whole number from 1 to {most}, got {value!r}")
        if self.channels not in (1, 3):
            raise DatasetError(f"channels must be 3 (RGB) or 1 (grey), got {self.channels!r}")
        if self.crops not in (1, 3):
            raise DatasetError(f"crops must be 1 or 3, got {self.crops!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not isinstance(values, Sequence) or len(values) != self.channels:
                raise DatasetError(f"{name} must be {self.channels} numbers, one per channel, got {values!r}")
            if not all(isinstance(x, (int, float)) and np.isfinite(x) for x in values):
                raise DatasetError(f"{name} must be finite numbers, got {values!r}")
            object.__setattr__(self, name, tuple(float(x) for x in values))
        if not all(x > 0 for x in self.std):
            raise DatasetError(f"std must be positive, got {self.std!r}")

    def __call__(self, video: Video) -> Any:
        """(clips·crops, C, T, size, size) normalised views of a video, a tensor or an array.

        Raises:
            UnreadableFileError: it cannot be decoded.
        """
        raise NotImplementedError

    def levels(self, clip: Any) -> np.ndarray:
        """(T, H, W, 3) bytes of a normalised (C, T, H, W) clip, to be looked at."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """The same in plain types."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a clip."""
        return self.channels, self.frames, self.size, self.size

    def chosen(self, frames: int) -> list[list[int]]:
        """Numbers of the frames of every clip of a video of so many."""
        return [segment_frames(frames, self.frames, (k + 0.5) / self.clips) for k in range(self.clips)]

    def squares(self, height: int, width: int) -> tuple[int, list[tuple[int, int]]]:
        """Side of the largest squares of a frame that are shown, and the top and left of each."""
        side = min(height, width)
        parts = (0.5,) if self.crops == 1 else (0.0, 0.5, 1.0)
        return side, [(round((height - side) * part), round((width - side) * part)) for part in parts]
