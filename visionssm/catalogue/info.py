"""What is known of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from visionssm.data.spelling import closest


@dataclass(frozen=True)
class ModelInfo:
    """What is published of a model or of one checkpoint of it, and what is counted here; None where not known.

    Attributes:
        name: with which it is made; with the checkpoint's tag, where it has several (`vssd_tiny.authors_mesa_in1k`).
        task: one of `visionssm.catalogue.TASKS`.
        parameters: counted here.
        multiply_adds: of one input of `input_size`, counted here: what papers call FLOPs.
        published_parameters: as the authors print it.
        published_gflops: as the authors print it.
        scores: what the authors publish by name of the measure, in percent where it has no other unit; not measured
            here.
        input_size: (channels, height, width) that it was trained on; of videos (channels, frames, height, width).
        crop_pct: side of the evaluated part of an image ÷ side of the whole.
        interpolation: with which images are resized.
        mean: of the channels, of images between 0 and 1.
        std: of the channels.
        paper: link to it, or name where there is none.
        license: of the weights; None where the authors state none.
        origin: page of the authors.
        weights: address of the file, or page from which a person downloads it; None where there is none.
        download: "automatic", "by hand", or None where there are no weights.
        sha256: of the file; None while unknown.

    Examples:
        >>> import visionssm
        >>> info = visionssm.model_info("vmamba_tiny_s1l8")
        >>> f"{info.parameters / 1e6:.1f}M, {info.multiply_adds / 1e9:.2f} G, published top-1 {info.scores['top1']} %"
        '30.2M, 4.88 G, published top-1 82.6 %'
    """

    name: str
    task: str
    parameters: int | None = None
    multiply_adds: int | None = None
    published_parameters: str | None = None
    published_gflops: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    input_size: tuple[int, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    paper: str | None = None
    license: str | None = None
    origin: str | None = None
    weights: str | None = None
    download: str | None = None
    sha256: str | None = None

    @property
    def counted_as(self) -> str:
        """Task and name of the network that was counted: of videos every checkpoint's, with its frames and classes."""
        return f"{self.task}/{self.name if self.task == 'video_classification' else self.architecture}"

    @property
    def architecture(self) -> str:
        """The name without the checkpoint's tag."""
        return self.name.partition(".")[0]


def named_among(infos: Iterable[ModelInfo], name: str, task: str | None = None) -> ModelInfo:
    """The first model of a name, or of an architecture, among some.

    Raises:
        ValueError: there is none.
    """
    known = set()
    for info in infos:
        if name in (info.name, info.architecture) and task in (None, info.task):
            return info
        known |= {info.name, info.architecture}
    raise ValueError(f"there is no model {name!r}; closest: {closest(name, known)}; `visionssm models` lists all")
