"""Exported classifiers applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image

from visionssm.data.evaluation_transform import EvaluationTransform
from visionssm.data.images import Mode
from visionssm.engine.exported import Graph
from visionssm.engine.predictors import OfGraph
from visionssm.tasks.classification.base import BaseClassifier


@dataclass(frozen=True)
class ExportedClassifier(OfGraph, BaseClassifier):
    """An exported classifier.

    Attributes:
        graph: (1, C, H, W) images to `scores`, (1, classes) before softmax.
    """

    def probabilities(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """(classes,) of every image, in float32."""
        return [likely(self.graph.output(self.transform(image)[None], "scores")[0]) for image in images]


def exported_classifier(graph: Graph) -> ExportedClassifier:
    """The classifier in a file that says how images are prepared.

    Raises:
        ExportedFileError: it does not.
    """
    known = EvaluationTransform.__dataclass_fields__
    facts = {name: _text_or_json(graph, name) for name in known if name in graph.about}
    transform = graph.made(lambda: EvaluationTransform.of(facts), "how images are prepared")
    return ExportedClassifier(graph.classes(0), transform, cast(Mode, transform.mode), graph=graph)


def likely(scores: np.ndarray) -> np.ndarray:
    """Softmax of (..., classes) scores, in float32."""
    scores = scores.astype(np.float32)
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _text_or_json(graph: Graph, name: str) -> Any:
    return graph.about[name] if name in ("interpolation", "crop_mode") else graph.fact(name)
