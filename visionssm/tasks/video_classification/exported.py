"""An exported video classifier applied to videos, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from PIL import Image

from visionssm.data.videos import Video
from visionssm.engine.exported import Graph
from visionssm.engine.predictors import OfGraph
from visionssm.tasks.classification.exported import likely
from visionssm.tasks.video_classification.base import BaseVideoClassifier
from visionssm.tasks.video_classification.settings import ViewSettings

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's


@dataclass(frozen=True)
class ArrayViews(ViewSettings):
    __doc__ = ViewSettings.__doc__

    def __call__(self, video: Video) -> np.ndarray:
        """(clips·crops, C, T, size, size) normalised views of a video.

        Raises:
            UnreadableFileError: it cannot be decoded.
        """
        chosen = self.chosen(video.frames)
        numbers = sorted({number for clip in chosen for number in clip})
        frames = dict(zip(numbers, video.read(numbers), strict=True))  # each is decoded once
        side, corners = self.squares(*next(iter(frames.values())).shape[:2])
        views = [
            np.stack([self._shown(frames[number][top : top + side, left : left + side]) for number in clip], 1)
            for clip in chosen
            for top, left in corners
        ]
        mean, std = (np.array(x, np.float32)[:, None, None, None] for x in (self.mean, self.std))
        return (np.stack(views).astype(np.float32) / 255 - mean) / std

    def _shown(self, frame: np.ndarray) -> np.ndarray:
        """(side, side, 3) bytes to (C, size, size)."""
        image = Image.fromarray(np.ascontiguousarray(frame if self.channels == 3 else _grey(frame)))
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(self.size, self.size, -1).transpose(2, 0, 1)

    def levels(self, clip: np.ndarray) -> np.ndarray:
        """(T, H, W, 3) bytes of a normalised (C, T, H, W) clip, to be looked at."""
        mean, std = (np.array(x, np.float32)[:, None, None, None] for x in (self.mean, self.std))
        plain = ((clip * std + mean).clip(0, 1) * 255).round().astype(np.uint8)
        return np.broadcast_to(plain, (3, *plain.shape[1:])).transpose(1, 2, 3, 0)


def _grey(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) bytes to (H, W)."""
    return (frame.astype(np.float32) @ np.array(_LUMA, np.float32)).astype(np.uint8)


@dataclass(frozen=True)
class ExportedVideoClassifier(OfGraph, BaseVideoClassifier):
    """An exported video classifier.

    Attributes:
        graph: (1, C, T, H, W) normalised clips to `scores`, (1, classes) before softmax.
    """

    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """(V, classes) of the views of a video, in float32."""
        return np.stack([likely(self.graph.output(view[None], "scores")[0]) for view in views])


def exported_video_classifier(graph: Graph) -> ExportedVideoClassifier:
    """The classifier in a file.

    Raises:
        ExportedFileError: it does not say how videos are looked at.
    """
    said = {field.name: graph.fact(field.name) for field in fields(ArrayViews)}
    views = graph.made(lambda: ArrayViews(**said), "how videos are looked at")
    return ExportedVideoClassifier(graph.classes(0), views, graph=graph)
