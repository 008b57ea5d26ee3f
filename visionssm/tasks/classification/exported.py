"""Exported classifiers applied to images, without PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from PIL import Image

from visionssm.data.evaluation_transform import EvaluationTransform
from visionssm.data.images import Mode, read_image
from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.tasks.classification.results import ClassResult


@dataclass(frozen=True)
class ExportedClassifier:
    """An exported classifier.

    Attributes:
        graph: (1, C, H, W) images to `scores`, (1, classes) before softmax.
        classes: class names in the order of the scores.
        transform: an image to (C, H, W).
        top_k: classes that a result holds.
    """

    columns: ClassVar[tuple[str, ...]] = ("rank", "class", "score")
    model: ClassVar[None] = None

    graph: Graph
    classes: Sequence[str]
    transform: EvaluationTransform
    top_k: int = 5

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")

    @property
    def image_mode(self) -> Mode:
        """What images are read as."""
        return cast(Mode, self.transform.mode)

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, self.image_mode)

    def __call__(self, images: Sequence[Image.Image]) -> list[ClassResult]:
        """The best classes of every image."""
        return [self._result(image) for image in images]

    def _result(self, image: Image.Image) -> ClassResult:
        scores = self.graph.output(self.transform(image)[None], "scores")[0]  # (classes,)
        return ClassResult(best_classes(likely(scores), self.classes, self.top_k))


def exported_classifier(graph: Graph) -> ExportedClassifier:
    """The classifier in a file that says how images are prepared.

    Raises:
        ExportedFileError: it does not.
    """
    known = EvaluationTransform.__dataclass_fields__
    facts = {name: _text_or_json(graph, name) for name in known if name in graph.about}
    transform = graph.made(lambda: EvaluationTransform.of(facts), "how images are prepared")
    return ExportedClassifier(graph, graph.classes(0), transform)


def likely(scores: np.ndarray) -> np.ndarray:
    """Softmax of (..., classes) scores, in float32."""
    scores = scores.astype(np.float32)
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def best_classes(probabilities: np.ndarray, classes: Sequence[str], top_k: int) -> list[tuple[str, float]]:
    """Names and probabilities of the best classes, best first.

    Raises:
        ExportedFileError: there are not as many probabilities as names.
    """
    if probabilities.shape != (len(classes),):
        raise ExportedFileError(f"the file gives {probabilities.shape} scores for {len(classes)} class names")
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [(classes[i], float(probabilities[i])) for i in best]


def _text_or_json(graph: Graph, name: str) -> Any:
    return graph.about[name] if name in ("interpolation", "crop_mode") else graph.fact(name)
