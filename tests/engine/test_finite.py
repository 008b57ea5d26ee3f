"""Networks whose numbers are none tell nothing, in any task: they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from visionssm.engine.exported import Graph
from visionssm.tasks.classification.predictor import Classifier
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.segmentation.predictor import Segmenter
from visionssm.tasks.video_classification.predictor import VideoPredictor


class Wrong(nn.Module):
    """(B, …) to scores of these sides, one of which is no number."""

    def __init__(self, *sides: int, wrong: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(sides))
        self.wrong = wrong

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.scores.expand(len(x), *self.scores.shape).clone()
        found.view(-1)[-1] = self.wrong
        return found


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_no_class(wrong: float) -> None:
    image, classes, views = Image.new("RGB", (4, 5)), ("a", "b"), torch.zeros(2, 3, 2, 4, 4)
    transform: Any = lambda _: torch.zeros(3, 4, 4)  # noqa: E731
    model: Any = Wrong(2, wrong=wrong)
    pixels: Any = Wrong(2, 5, 4, wrong=wrong)
    scores = torch.tensor([[[0.0, wrong]], [[0.5, 0.5]]])
    graph = Graph(Path("x.onnx"), {}, "image", (1, 1), np.float32, ("scores",), lambda _: [np.array([[0.0, wrong]])])
    calls = [
        lambda: Classifier(model=model, classes=classes, transform=transform, image_mode="RGB").probabilities([image]),
        lambda: VideoPredictor(model=model, classes=classes, views=None).probabilities(views),  # type: ignore[arg-type]
        lambda: Segmenter(model=pixels, classes=classes)([image]),
        lambda: Preparation().restored(scores, (1, 2), 0.5),
        lambda: graph.output(np.zeros((1, 1)), "scores"),
    ]
    for call in calls:
        with torch.no_grad(), pytest.raises(ValueError, match="NaN or infinite numbers"):
            call()
