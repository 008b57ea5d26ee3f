"""An exported network for medical segmentation applied to images and volumes, without PyTorch and MONAI.

Preparation, sliding windows and mirroring are those of `visionssm.tasks.medical.preparation` and `.inference`, which
have them from PyTorch and MONAI, in NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from visionssm.data.arguments import checked
from visionssm.data.errors import DatasetError
from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.engine.predictors import OfGraph
from visionssm.extras import needs_extra
from visionssm.tasks.medical.base import BaseMedicalSegmenter
from visionssm.tasks.medical.scan import Scan
from visionssm.tasks.medical.settings import Inference, PreparationSettings

Network = Callable[[np.ndarray], np.ndarray]

_LARGEST_WINDOW = 2**28  # numbers of a channel
_LEAST_WEIGHT = 1e-3  # of a window's corners


@dataclass(frozen=True)
class ArrayPreparation(PreparationSettings):
    __doc__ = PreparationSettings.__doc__

    def image(self, pixels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """(C, *sides) pixels to (C, *new sides) float32.

        Args:
            pixels: of an image, or of a volume with the slices first.
            spacing: of the pixels, in mm, one number a side.
        Raises:
            ValueError: it would become unreasonably large.
        """
        x = np.stack([self._intensities(channel) for channel in pixels.astype(np.float32)])
        if self.intensity == "minmax":
            low, high = x.min(), x.max()
            x = (x - low) / (high - low) * np.float32(255) if high > low else x * 0
        sides = self.new_sides(x.shape[1:], spacing)
        if sides is None:
            return x
        if self.order == 3:
            return _zoomed(_zoomed(x, self.spaced(x.shape[1:], spacing), order=3, grid_mode=True), sides, order=3)
        return _resized(x, sides)

    def restored(self, scores: np.ndarray, sides: Sequence[int], threshold: float) -> np.ndarray:
        """(*sides) class numbers at the pixels' own grid of (K, *new sides) probabilities."""
        if tuple(scores.shape[1:]) != tuple(sides) and self.order == 3 and self.size is not None:
            numbers = _numbers(scores, threshold)[None].astype(np.float32)
            return _zoomed(numbers, sides, order=0)[0].astype(np.int64)
        return _numbers(_resized(scores, sides), threshold)

    def _intensities(self, x: np.ndarray) -> np.ndarray:
        """Of one channel; "minmax" is over all of them."""
        if self.percentiles is not None:
            low, high = np.percentile(x, self.percentiles)
            x = x.clip(np.float32(low), np.float32(high))
        if self.window is not None:
            x = x.clip(np.float32(self.window[0]), np.float32(self.window[1]))
        if self.intensity == "window":
            assert self.window is not None
            return ((x - self.window[0]) / (self.window[1] - self.window[0])).astype(np.float32)
        if self.intensity == "unit":
            return x / np.float32(255)
        if self.intensity == "fixed":
            return ((x - self.mean) / self.std).astype(np.float32)
        if self.intensity in ("zscore", "nonzero"):
            counted = x != 0 if self.intensity == "nonzero" else np.ones(x.shape, bool)
            if counted.any():
                mean, std = x[counted].mean(dtype=np.float64), x[counted].std(dtype=np.float64)
                x = np.where(counted, (x - mean) / (std or 1.0), x).astype(np.float32)
        return x


@dataclass(frozen=True)
class ExportedMedicalSegmenter(OfGraph, BaseMedicalSegmenter):
    """An exported network for medical segmentation.

    Attributes:
        graph: (1, C, *sides) prepared images or volumes to `probabilities`, (1, K, *sides); K = 1 stands for the
            foreground alone.
    """

    preparation: ArrayPreparation

    @property
    def spatial_dims(self) -> int:
        """2 for a network of images, 3 for one of volumes."""
        return _dims(self.graph)

    @property
    def of_one_class(self) -> bool:
        """Whether the network tells the probability of the foreground alone."""
        return "threshold" in self.graph.about

    def numbers(self, scan: Scan, threshold: float) -> np.ndarray:
        """(*sides) class numbers at the grid of a scan; `threshold` is that of networks with a single class."""
        inputs = self.preparation.image(scan.pixels, scan.spacing)
        found = probabilities(self._network, inputs, self.spatial_dims, self.inference)
        numbers = self.preparation.restored(found, scan.pixels.shape[1:], threshold)
        if numbers.max() >= len(self.classes):
            raise ExportedFileError(f"the file gives {len(found)} classes, and {len(self.classes)} names")
        return numbers

    def _network(self, inputs: np.ndarray) -> np.ndarray:
        found = self.graph.output(inputs, "probabilities").astype(np.float32)
        if found.shape[2:] != inputs.shape[2:]:
            raise ExportedFileError(f"the file gives {found.shape[2:]} pixels for {inputs.shape[2:]}")
        return found


def probabilities(network: Network, inputs: np.ndarray, dims: int, how: Inference) -> np.ndarray:
    """(K, *sides) probabilities of the classes at every pixel.

    Args:
        network: (1, C, *sides) to probabilities (1, K, *sides).
        inputs: (C, *sides), an image or a volume.
        dims: spatial dimensions of the network; 2 for a volume means slice by slice.
        how: see `Inference`.
    """

    def mirrored(x: np.ndarray) -> np.ndarray:
        subsets = itertools.chain.from_iterable(
            itertools.combinations(how.mirror, count) for count in range(len(how.mirror) + 1)
        )
        found = []
        for subset in subsets:
            places = tuple(axis + 2 for axis in subset)
            found.append(np.flip(network(np.ascontiguousarray(np.flip(x, places))), places))
        return np.asarray(np.mean(found, 0, dtype=np.float32))

    if inputs.ndim - 1 == dims:
        return _windows(mirrored, inputs[None], how)[0]
    slices = [_windows(mirrored, inputs[None, :, z], how)[0] for z in range(inputs.shape[1])]
    return np.stack(slices, 1)


def _windows(network: Network, x: np.ndarray, how: Inference) -> np.ndarray:
    """The mean over windows, in which pixels count by a Gaussian around the middle, as MONAI has it."""
    sides = x.shape[2:]
    if how.patch is None or how.patch == sides:
        return network(x)
    missing = [max(window - side, 0) for window, side in zip(how.patch, sides, strict=True)]
    x = np.pad(x, [(0, 0), (0, 0), *((n // 2, n - n // 2) for n in missing)])
    starts = [_starts(*both, how.overlap) for both in zip(x.shape[2:], how.patch, strict=True)]
    weights = _importance(how.patch)
    total, count = None, np.zeros(x.shape[2:], np.float32)
    for corner in itertools.product(*starts):
        place = tuple(slice(start, start + window) for start, window in zip(corner, how.patch, strict=True))
        found = network(np.ascontiguousarray(x[(slice(None), slice(None), *place)]))
        total = np.zeros((1, found.shape[1], *x.shape[2:]), np.float32) if total is None else total
        total[(slice(None), slice(None), *place)] += found * weights
        count[place] += weights
    assert total is not None
    inside = tuple(slice(n // 2, n // 2 + side) for n, side in zip(missing, sides, strict=True))
    whole: np.ndarray = (total / count)[(slice(None), slice(None), *inside)]
    return whole


def _starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side; the last ones are moved back to end at its end."""
    step = window if side == window else max(1, int(window * (1 - overlap)))
    count = next(n for n in itertools.count(1) if (n - 1) * step + window >= side)
    return list(dict.fromkeys(min(n * step, side - window) for n in range(count)))


def _importance(window: Sequence[int]) -> np.ndarray:
    """How much the pixels of a window count: a Gaussian, whose deviation is an eighth of the side."""
    weights = np.ones((), np.float32)
    for side in window:
        x = np.arange(side, dtype=np.float32) - (side - 1) / 2
        weights = weights[..., None] * np.exp(x**2 / (-2 * (0.125 * side) ** 2)).astype(np.float32)
    return weights.clip(max(float(weights.min()), _LEAST_WEIGHT))


def _resized(x: np.ndarray, sides: Sequence[int]) -> np.ndarray:
    """(C, *sides) by linear interpolation between the middles of pixels, in float32, one axis after another."""
    for axis, new in enumerate(sides, start=1):
        old = x.shape[axis]
        if new == old:
            continue
        place = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0)
        low = np.floor(place).astype(int).clip(0, old - 1)
        shape = [-1 if n == axis else 1 for n in range(x.ndim)]
        share = (place - low).astype(np.float32).reshape(shape)
        x = x.take(low, axis) * (1 - share) + x.take((low + 1).clip(0, old - 1), axis) * share
    return x


def _zoomed(x: np.ndarray, sides: Sequence[int], *, order: int, grid_mode: bool = False) -> np.ndarray:
    """(C, *sides) by SciPy's splines; slices one by one if only their size changes."""
    if tuple(x.shape[1:]) == tuple(sides):
        return x
    with needs_extra("medical", "resampling by splines"):
        from scipy.ndimage import zoom

    keeps = x.ndim == 4 and x.shape[1] == sides[0]
    parts = x.reshape(-1, *x.shape[2:]) if keeps else x
    factors = [new / old for new, old in zip(sides[-parts.ndim + 1 :], parts.shape[1:], strict=True)]
    mode = "nearest" if grid_mode else "constant"
    found = [zoom(part, factors, order=order, mode=mode, grid_mode=grid_mode) for part in parts]
    return np.stack(found).reshape(x.shape[0], *sides)


def _numbers(scores: np.ndarray, threshold: float) -> np.ndarray:
    numbers: np.ndarray = (scores[0] >= threshold).astype(np.int64) if len(scores) == 1 else scores.argmax(0)
    return numbers


def _dims(graph: Graph) -> int:
    dims: int = graph.number("dims", 2, 3, whole=True)
    return dims


def exported_medical_segmenter(graph: Graph) -> ExportedMedicalSegmenter:
    """The network in a file.

    Raises:
        ExportedFileError: it does not say how images are prepared or the network is applied.
    """
    dims = _dims(graph)

    def preparation() -> ArrayPreparation:
        return checked(ArrayPreparation, "preparation", graph.fact("preparation"))

    def inference() -> Inference:
        patch = graph.fact("patch") if "patch" in graph.about else None
        sides = (patch or []) if isinstance(patch, (list, type(None))) else [0]
        if any(type(side) is not int for side in sides) or np.prod(sides, dtype=float) > _LARGEST_WINDOW:
            raise DatasetError(f"patch={patch!r:.60} must be sides of a window")
        threshold = graph.number("threshold", 0, 1) if "threshold" in graph.about else 0.5
        mirror = graph.fact("mirror", usual=[])
        if not isinstance(mirror, list) or len(mirror) > dims:
            raise DatasetError(f"mirror={mirror!r:.60} must be axes")
        how = Inference(patch, graph.number("overlap", 0, 0.99), tuple(mirror), threshold=threshold)
        how.check(dims)
        return how

    return ExportedMedicalSegmenter(
        graph.classes(0),
        graph.made(preparation, "how images are prepared"),
        graph.made(inference, "how it is applied"),
        graph=graph,
    )
