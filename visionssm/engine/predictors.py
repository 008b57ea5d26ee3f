"""What the predictors of checkpoints and those of exported files are made of in common; without PyTorch.

A task whose exported files are applied has in `base.py` what both of its predictors are: a dataclass with the fields,
the reading of files and the making of results. Its `model` is a network of PyTorch in the predictor of a checkpoint;
the predictor of an exported file is also an `OfGraph`, which has a graph instead.

    @dataclass(frozen=True)
    class Segmenter(BaseSegmenter): ...

    @dataclass(frozen=True)
    class ExportedSegmenter(OfGraph, BaseSegmenter): ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from visionssm.data.images import MAX_DECODED_PIXELS, Mode, read_image
from visionssm.data.videos import clips_below
from visionssm.engine.exported import Graph


class ReadsImages:
    """A predictor of RGB images of any size, whose results are of their size."""

    image_mode: ClassVar[Mode] = "RGB"

    def read(self, path: Path) -> Image.Image:
        """An image file; see `read_image`."""
        return read_image(path, max_pixels=MAX_DECODED_PIXELS)


class TakesClips:
    """A predictor of videos, for which a folder of images is one clip."""

    def samples_below(self, folder: Path) -> list[Path]:
        """The clips in and below a folder, which may be one of frames; see `clips_below`."""
        return clips_below(folder)


@dataclass(frozen=True)
class OfGraph:
    """A predictor whose network is that of an exported file.

    Attributes:
        model: None, in the place that the base of the predictor has for a network of PyTorch.
        graph: the network.
    """

    model: None = field(init=False, default=None, repr=False)
    graph: Graph = field(kw_only=True)
