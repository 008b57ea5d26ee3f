"""What an exporter needs to know of a network beside its computation."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import visionssm

IMAGE_AXES: Mapping[int, str] = {0: "batch", 2: "height", 3: "width"}
"""Axes of (B, C, H, W) images that may be left open."""

VOLUME_AXES: Mapping[int, str] = {0: "batch", 2: "depth", 3: "height", 4: "width"}
"""The same of (B, C, D, H, W) volumes."""


LIMIT = 1e-4
"""Largest difference of a file in float32 to eager PyTorch."""

HALF_LIMIT = 1e-2
"""The same of a file in float16, whose numbers have eleven bits, to the network in float32."""


class ExportError(RuntimeError):
    """A model could not be exported, or the exported model computes something else."""


def relative_difference(actual: Sequence[Tensor], expected: Any) -> float:
    """The largest difference of one or several tensors, relative to the largest value of each; inf of other shapes."""
    pairs = list(zip(actual, as_list(expected), strict=True))
    if any(x.shape != y.shape for x, y in pairs):
        return math.inf
    return largest(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


def largest(differences: Iterable[float]) -> float:
    """The largest of some differences, NaN if one is: `max` takes another in its place. 0 of none."""
    found = list(differences)
    return math.nan if any(map(math.isnan, found)) else max(found, default=0.0)


def as_list(outputs: Any) -> list[Tensor]:
    """One or several tensors as a list."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


@dataclass(frozen=True)
class Exportable:
    """A network in the form that a file holds, and how that file is checked.

    Attributes:
        network: of one tensor to a tensor or a tuple of tensors, in evaluation mode.
        outputs: names of what it gives; None leaves them to the exporter.
        input: name of what it takes.
        axes: of the input that may have other sizes, with their names.
        multiple: of which open sides of images are multiples.
        can_open: whether one file may serve several sizes.
        always_open: whether these axes are open without being asked for.
        refused: kinds of files, "onnx" or "pt2", that cannot hold the network, and why.
        shape: of an input for which the network was made, where that is known.
        expected: of an input to what the model itself finds, without export.
        difference: of the outputs of the file to that; 0 where they are equal, and at most `limit` for a kept file.
        limit: see `difference`.
        probe: of an input to values of buffers of the network, by name, with which a file is checked too; for networks
            that may find nothing in most inputs.
        sample: makes a random input of a shape, and of a `generator`.
        doubt: a sentence for the case that a file differs: what else than a wrong file may be the cause.
        about: what the file says of itself, in strings.
    """

    network: nn.Module
    outputs: tuple[str, ...] | None = None
    input: str = "image"
    axes: Mapping[int, str] = field(default_factory=lambda: IMAGE_AXES)
    multiple: int = 1
    can_open: bool = True
    always_open: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    expected: Callable[[Tensor], Any] | None = None
    difference: Callable[[Sequence[Tensor], Any], float] = relative_difference
    limit: float = LIMIT
    probe: Callable[[Tensor], Mapping[str, float]] | None = None
    sample: Callable[..., Tensor] = torch.randn
    doubt: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    @torch.no_grad()
    def compared(self, actual: Sequence[Tensor], example: Tensor) -> float:
        """The difference of a file's outputs for an example to what the model finds."""
        return self.difference(actual, (self.expected or self.network)(example))


def in_half(exportable: Exportable) -> Exportable:
    """The same network in float16, input and outputs too, which is compared with the one in float32.

    Raises:
        ExportError: more than the network is exported, as of detectors, whose boxes need float32.
    """
    if exportable.expected is not None or exportable.probe is not None:
        raise ExportError(
            "--half is for files that hold a network alone, as of a classifier: what is computed after it, boxes and "
            "the best class of every pixel, needs float32. Export without --half"
        )
    network = exportable.network
    return replace(
        exportable,
        network=copy.deepcopy(network).half(),
        sample=lambda *shape, **options: exportable.sample(*shape, **options).half(),
        expected=lambda image: network(image.float()),
        difference=lambda actual, expected: exportable.difference([x.float() for x in actual], expected),
        limit=HALF_LIMIT,
        about={**exportable.about, "dtype": "float16"},
    )


def description(classes: Sequence[str], first: int = 0, **facts: Any) -> dict[str, str]:
    """What a file says of itself: the package, its classes by number, and facts, as JSON unless they are strings.

    Args:
        classes: class names.
        first: number of the first one.
        facts: those that are None are left out.
    """
    about = {"producer": f"visionssm {visionssm.__version__}"}
    named: dict[str, Any] = {"classes": {str(first + number): name for number, name in enumerate(classes)}, **facts}
    for name, fact in named.items():
        if fact is not None:
            about[name] = fact if isinstance(fact, str) else json.dumps(fact, ensure_ascii=False)
    return about


def as_exportable(model: nn.Module | Exportable, dims: int = 4) -> Exportable:
    """A module of one tensor, an image or with five dimensions a volume, as it is; in evaluation mode."""
    axes = VOLUME_AXES if dims == 5 else IMAGE_AXES
    exportable = model if isinstance(model, Exportable) else Exportable(model, axes=axes)
    exportable.network.eval()
    return exportable
