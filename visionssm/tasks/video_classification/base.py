"""What video classifiers of checkpoints and of exported files share; without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visionssm.data.videos import open_video
from visionssm.engine.predictors import TakesClips
from visionssm.tasks.classification.base import RanksClasses
from visionssm.tasks.video_classification.results import Clip, VideoClass
from visionssm.tasks.video_classification.settings import ViewSettings


@dataclass(frozen=True)
class BaseVideoClassifier(RanksClasses, TakesClips):
    """A video classifier.

    Attributes:
        model: (B, C, T, H, W) normalised clips to (B, classes) scores before softmax.
        classes: class names in the order of the scores.
        views: how a video is looked at; scores are means over clips and crops.
        top_k: classes that a result holds.
    """

    model: Any
    classes: Sequence[str]
    views: ViewSettings
    top_k: int = 5

    def read(self, path: Path) -> Clip:
        """The views of a video; see `open_video` for the kinds of files.

        Raises:
            UnreadableFileError: it is no video, or cannot be decoded.
        """
        inputs = self.views(open_video(path))
        return Clip(inputs, self.views.levels(inputs[len(inputs) // 2]))

    def __call__(self, samples: Sequence[Clip]) -> list[VideoClass]:
        """The best classes of every video."""
        return [VideoClass(self.ranked(self.probabilities(sample.inputs).mean(0))) for sample in samples]

    def probabilities(self, views: Any) -> np.ndarray:
        """(V, classes) float32 of the (V, C, T, H, W) views of a video."""
        raise NotImplementedError
