"""From a video to what a network takes: frames of equal segments, random changes, and the views of an evaluation.

Frames are chosen as in temporal segment networks (Wang et al. 2016, arXiv 1608.00859): one of each of T equal parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torchvision.transforms import v2

from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest
from visionssm.data.videos import Video

MAX_FRAMES, MAX_SIDE, MAX_VIEWS = 512, 1024, 64


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
class Views:
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
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

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

    def plain(self) -> dict[str, Any]:
        """The same in plain types."""
        return {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a clip."""
        return self.channels, self.frames, self.size, self.size

    def __call__(self, video: Video) -> Tensor:
        """(clips·crops, C, T, size, size) normalised views of a video.

        Raises:
            UnreadableFileError: it cannot be decoded.
        """
        chosen = [segment_frames(video.frames, self.frames, (k + 0.5) / self.clips) for k in range(self.clips)]
        numbers = sorted({number for clip in chosen for number in clip})
        frames = as_clip(video.read(numbers), self.channels)  # each is decoded once
        places = {number: place for place, number in enumerate(numbers)}
        views = [crop for clip in chosen for crop in self._crops(frames[[places[n] for n in clip]])]
        return torch.stack([self.normalised(view) for view in views])

    def _crops(self, frames: Tensor) -> list[Tensor]:
        """The largest squares of (T, C, H, W) frames, as (T, C, size, size)."""
        height, width = frames.shape[-2:]
        side = min(height, width)
        parts = (0.5,) if self.crops == 1 else (0.0, 0.5, 1.0)
        corners = [(round((height - side) * part), round((width - side) * part)) for part in parts]
        size = [self.size, self.size]
        return [v2.functional.resized_crop(frames, top, left, side, side, size) for top, left in corners]

    def normalised(self, frames: Tensor) -> Tensor:
        """(T, C, H, W) bytes to (C, T, H, W) float32."""
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.mean, self.std))
        return ((frames.float() / 255 - mean) / std).transpose(0, 1)

    def levels(self, clip: Tensor) -> np.ndarray:
        """(T, H, W, 3) bytes of a normalised (C, T, H, W) clip, to be looked at."""
        mean, std = (torch.tensor(x)[:, None, None, None] for x in (self.mean, self.std))
        plain = (clip.detach().cpu().float() * std + mean).clamp(0, 1)
        return (plain * 255).round().byte().expand(3, -1, -1, -1).permute(1, 2, 3, 0).numpy()


def as_clip(frames: np.ndarray, channels: int) -> Tensor:
    """(T, H, W, 3) bytes as a (T, C, H, W) tensor of bytes, RGB or grey."""
    clip = torch.from_numpy(np.require(frames, requirements=["C", "W"])).permute(0, 3, 1, 2)
    return v2.functional.rgb_to_grayscale(clip) if channels == 1 else clip


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a whole clip, all its frames alike; defaults are those of the published recipe.

    Attributes:
        scale: smallest and largest share of the picture's area that is cut out.
        ratio: smallest and largest width ÷ height of what is cut out.
        flip: probability of mirroring; 0 where left and right matter.
        rand_augment: (operations, magnitude of 30) of RandAugment; None for none.
        erase: probability of erasing a rectangle.

    Raises:
        DatasetError: a value is out of range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    rand_augment: tuple[int, int] | None = (2, 5)
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise DatasetError(f"augment: {name} is a probability, from 0 to 1, got {getattr(self, name)!r}")
        for name in ("scale", "ratio"):
            low, high = self._pair(name)
            if not 0 < low <= high:
                raise DatasetError(f"augment: {name} must be two rising numbers over 0, got {(low, high)!r}")
        if self.scale[1] > 1:
            raise DatasetError(f"augment: scale is a share of the picture, up to 1, got {self.scale!r}")
        if self.rand_augment is not None:
            operations, magnitude = self._pair("rand_augment")
            if operations < 1 or not 0 <= magnitude <= 30:
                raise DatasetError(f"augment: rand_augment is (operations, magnitude to 30), got {self.rand_augment!r}")

    def _pair(self, name: str) -> tuple[float, float]:
        value = getattr(self, name)
        if not isinstance(value, Sequence) or len(value) != 2 or not all(isinstance(x, (int, float)) for x in value):
            raise DatasetError(f"augment: {name} must be two numbers, got {value!r}")
        return value[0], value[1]

    def __call__(self, video: Video, views: Views) -> Tensor:
        """A random (C, T, H, W) clip of a video.

        Raises:
            UnreadableFileError: it cannot be decoded.
        """
        numbers = segment_frames(video.frames, views.frames, torch.rand(views.frames).numpy() * (1 - 1e-6))
        frames = as_clip(video.read(numbers), views.channels)
        steps: list[Any] = [
            v2.RandomResizedCrop(views.size, scale=tuple(self.scale), ratio=tuple(self.ratio), antialias=True),
            v2.RandomHorizontalFlip(self.flip),
        ]
        if self.rand_augment is not None:
            steps.append(v2.RandAugment(int(self.rand_augment[0]), int(self.rand_augment[1])))
        clip = views.normalised(v2.Compose(steps)(frames))
        return v2.RandomErasing(self.erase)(clip.transpose(0, 1)).transpose(0, 1)


def checked_augmentation(given: Mapping[str, Any] | None) -> Augmentation | None:
    """An `Augmentation` of these fields; None for none.

    Raises:
        DatasetError: a field is unknown or out of range.
    """
    return None if given is None else checked(Augmentation, "augment", given)


def checked(kind: Any, what: str, given: Mapping[str, Any]) -> Any:
    """A dataclass of these fields.

    Raises:
        DatasetError: a field is unknown or out of range.
    """
    if not isinstance(given, Mapping):
        raise DatasetError(f"{what} must be a dict, got {given!r}")
    known = [field.name for field in fields(kind)]
    for key in given:
        if key not in known:
            raise DatasetError(f"{what} has the unknown key {key!r}; closest: {closest(str(key), known)}")
    return kind(**given)
