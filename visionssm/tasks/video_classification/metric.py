"""Accuracy of video classifiers, with a strip of frames per kept video."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from visionssm.tasks.classification.metric import ClassificationMetric
from visionssm.tasks.video_classification.pictures import strip_of
from visionssm.tasks.video_classification.views import Views


class VideoClassificationMetric(ClassificationMetric):
    """Top-1 and top-5 accuracy in percent and mean negative log-likelihood, of the mean over a video's views.

    Videos with label −1 (that could not be decoded) are left out and counted as `corrupt`. Arguments, attributes and
    when there is no `top5` are those of `ClassificationMetric`.
    """

    def _levels(self, image: Tensor) -> np.ndarray:
        """(H, W, 3) bytes of a strip of the frames of a (C, T, H, W) clip, or of the first of such views."""
        clip: Any = image[0] if image.dim() == 5 else image
        views = Views(**(self.dataset_meta or {})["views"])
        return np.asarray(strip_of(views.levels(clip)))
