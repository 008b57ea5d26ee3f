"""The classes of a video; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from visionssm.drawing import save_picture, with_title
from visionssm.engine.task import Source
from visionssm.tasks.classification.results import ClassResult
from visionssm.tasks.video_classification.pictures import strip_of


class Clip(NamedTuple):
    """A video as the network takes it.

    Attributes:
        inputs: (V, C, T, H, W) normalised views, a tensor or an array.
        frames: (T, H, W, 3) bytes of the middle view, to be looked at.
    """

    inputs: Any
    frames: Any


@dataclass(frozen=True)
class VideoClass(ClassResult):
    """The best classes of a video, best first, with their probabilities."""

    def save(self, folder: Path, source: Source) -> None:
        """Write NAME.png: frames side by side, below the best class."""
        name, score = self.best[0]
        strip = with_title(strip_of(source.sample.frames), f"{name} {score:.2f}")
        save_picture(strip, folder / f"{source.name}.png")
