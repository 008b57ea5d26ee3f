"""Segmentation models in the form that a file holds: images to the class of every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.integrations.export.exportable import Exportable


class _Classes(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def scores(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image to (B, classes, H, W)."""
        outputs = self.network(image)
        return outputs if isinstance(outputs, Tensor) else outputs["out"]

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, H, W) image to (B, H, W) class numbers."""
        return self.scores(image).argmax(1)


def exportable_segmentor(network: nn.Module, about: Mapping[str, str] | None = None) -> Exportable:
    """(B, C, H, W) images, as the network takes them, to `classes`, the (B, H, W) number of every pixel's class.

    Args:
        network: of torchvision's form, that is images to {"out": (B, classes, H, W) scores}, or to the scores alone.
        about: what the file says of itself.
    """
    graph = _Classes(network)
    return Exportable(
        graph,
        outputs=("classes",),
        expected=graph.scores,
        difference=_lost_score,
        sample=torch.rand,
        about=about or {},
    )


def _lost_score(actual: Sequence[Tensor], scores: Any) -> float:
    """How far the score of an exported class is below the best score of its pixel, at worst, in largest scores."""
    (classes,) = actual
    best = scores.amax(1)
    if classes.shape != best.shape:
        return float("inf")
    found = scores.gather(1, classes[:, None].to(scores.device))[:, 0]
    return float((best - found).max() / scores.abs().max())
