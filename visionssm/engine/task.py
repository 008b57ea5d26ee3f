"""The interface that all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from PIL import Image
from torch import nn

Row = tuple[str | int | float, ...]


class Result(Protocol):
    """What a predictor found in one image."""

    def rows(self) -> list[Row]:
        """Lines of a table, in the predictor's columns."""

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""

    def drawn(self, image: Image.Image) -> Image.Image:
        """A picture of it over the image."""


class Predictor(Protocol):
    """A model with all that is needed to apply it to images.

    One that can be exported also has `exportable()`, which gives a `visionssm.integrations.export.Exportable`.

    Attributes:
        model: in evaluation mode.
        image_mode: "RGB", or "L" for models of one channel.
        columns: names of what a row of its results holds.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def image_mode(self) -> Literal["RGB", "L"]: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    def __call__(self, images: Sequence[Image.Image]) -> Sequence[Result]:
        """Results of images, one each, computed where the model's parameters are."""
