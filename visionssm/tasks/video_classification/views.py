"""From a video to what a network takes: random changes, and the views of an evaluation; see `.settings`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from visionssm.data.arguments import checked
from visionssm.data.errors import DatasetError
from visionssm.data.videos import Video
from visionssm.tasks.video_classification.settings import (
    MAX_FRAMES,
    MAX_SIDE,
    MAX_VIEWS,
    ViewSettings,
    segment_frames,
)

__all__ = [
    "MAX_FRAMES",
    "MAX_SIDE",
    "MAX_VIEWS",
    "Augmentation",
    "Views",
    "as_clip",
    "checked_augmentation",
    "segment_frames",
]


@dataclass(frozen=True)
class Views(ViewSettings):
    __doc__ = ViewSettings.__doc__

    def __call__(self, video: Video) -> Tensor:
        """(clips·crops, C, T, size, size) normalised views of a video.

        Raises:
            UnreadableFileError: it cannot be decoded.
        """
        chosen = self.chosen(video.frames)
        numbers = sorted({number for clip in chosen for number in clip})
        frames = as_clip(video.read(numbers), self.channels)  # each is decoded once
        places = {number: place for place, number in enumerate(numbers)}
        views = [crop for clip in chosen for crop in self._crops(frames[[places[n] for n in clip]])]
        return torch.stack([self.normalised(view) for view in views])

    def _crops(self, frames: Tensor) -> list[Tensor]:
        """The largest squares of (T, C, H, W) frames, as (T, C, size, size)."""
        side, corners = self.squares(*frames.shape[-2:])
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
