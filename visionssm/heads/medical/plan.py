"""Plans of U-shaped networks: what nnU-Net derives from the spacings and shapes of a data set (arXiv 1904.08128)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionssm.data.arguments import are_numbers, is_number

Axes = tuple[int, ...]

BASE_WIDTH = 32
MOST_WIDTH = {2: 512, 3: 320}
FIRST_PATCH = {2: 2048**2, 3: 256**3}
# Numbers in all maps of a network on one patch that fit the memory planned for, at the batch size they are meant for.
MOST_NUMBERS = {2: 85_000_000, 3: 560_000_000}
REFERENCE_BATCH = {2: 12, 3: 2}
LEAST_BATCH = 2
MOST_OF_DATA = 0.05  # of the data set's voxels, in a batch
LEAST_POOLED, LEAST_POOLED_ALONE = 8, 12  # sides of an axis that is halved, with others or alone
ANISOTROPIC = 3


@dataclass(frozen=True)
class Plan:
    """What fixes a U-shaped network of n stages, and where it comes from a data set, how that is to be resampled.

    Widths, kernels and strides are given for every stage; a number for all axes stands for a tuple.

    Args:
        patch: sides in pixels of what the network is trained on, (H, W) or (D, H, W).
        widths: channels.
        strides: step from the stage before, 1 for the first stage.
        kernels: odd sides of the convolutions; 3 everywhere if left out.
        blocks: residual blocks asked for; the deeper half of the stages has one, whatever is asked for.
        spacing: millimetres between pixels that the data set is resampled to, None where unknown.
        axes: numbers of the images' axes, in the order of `patch`.
        batch_size: patches per step.

    Raises:
        ValueError: the entries are not for the same number of stages or axes, or the patch cannot be divided by the
            strides.

    Examples:
        >>> plan = Plan(patch=(40, 224, 192), widths=(32, 64, 128), strides=(1, (1, 2, 2), 2))
        >>> plan.reduction
        (2, 4, 4)
    """

    patch: Axes
    widths: Axes
    strides: tuple[Any, ...]  # of `Axes`, whatever was given
    kernels: tuple[Any, ...] = ()
    blocks: Axes = (2,)
    spacing: tuple[float, ...] | None = None
    axes: Axes | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        made: dict[str, Any] = {name: _whole(name, getattr(self, name)) for name in ("patch", "widths", "blocks")}
        axes = len(made["patch"])
        if axes not in (2, 3):
            raise ValueError(f"patch={self.patch} has {axes} axes; give (H, W) or (D, H, W)")
        stages = len(made["widths"])
        made["blocks"] *= stages if len(made["blocks"]) == 1 else 1
        for name, entries in (("strides", self.strides), ("kernels", self.kernels or (3,) * stages)):
            if not isinstance(entries, Sequence) or isinstance(entries, str):
                raise ValueError(f"{name}={entries!r} must be a list with one entry per stage")
            made[name] = tuple(_of_axes(name, entry, axes) for entry in entries)
        for name in ("strides", "kernels", "blocks"):
            if len(made[name]) != stages:
                raise ValueError(
                    f"{name}={getattr(self, name)} is for {len(made[name])} stages, but widths={self.widths} for "
                    f"{stages}; give one entry per stage"
                )
        if stages < 2:
            raise ValueError(f"widths={self.widths}: a U-shaped network has at least two stages")
        if set(made["strides"][0]) != {1}:
            raise ValueError(f"strides={self.strides}: the first stage keeps the resolution; begin with 1")
        if any(side % 2 == 0 for kernel in made["kernels"] for side in kernel):
            raise ValueError(f"kernels={self.kernels}: sides must be odd, so that maps keep their size")
        if self.spacing is not None:
            if not are_numbers(self.spacing, axes) or min(self.spacing) <= 0:
                raise ValueError(f"spacing={self.spacing!r} must be {axes} positive numbers, one per axis of the patch")
            made["spacing"] = tuple(self.spacing)
        if self.axes is not None:
            if not are_numbers(self.axes, axes, whole=True):
                raise ValueError(f"axes={self.axes!r} must be {axes} whole numbers, one per axis of the patch")
            made["axes"] = tuple(self.axes)
        if self.batch_size is not None and not (is_number(self.batch_size, whole=True) and self.batch_size >= 1):
            raise ValueError(f"batch_size={self.batch_size!r} must be a whole number, at least 1")
        for name, value in made.items():
            object.__setattr__(self, name, value)
        if any(side % step for side, step in zip(self.patch, self.reduction)):
            raise ValueError(
                f"patch={self.patch} cannot be divided by the strides, which reduce it by {self.reduction}; "
                f"take {tuple(math.ceil(side / step) * step for side, step in zip(self.patch, self.reduction))}"
            )

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.patch)

    @property
    def reduction(self) -> Axes:
        """By how much the deepest map is smaller than the image: the product of the strides."""
        return tuple(math.prod(steps) for steps in zip(*self.strides))

    def positions(self, stage: int) -> int:
        """Pixels of a stage's map of the planned patch."""
        steps = [math.prod(steps) for steps in zip(*self.strides[: stage + 1])]
        return math.prod(side // step for side, step in zip(self.patch, steps))


def _whole(name: str, values: Any) -> Axes:
    if not are_numbers(values) or any(int(value) != value or value < 1 for value in values):
        raise ValueError(f"{name}={values!r} must be positive whole numbers, in a list")
    return tuple(int(value) for value in values)


def _of_axes(name: str, entry: Any, axes: int) -> Axes:
    sides = _whole(name, (entry,) * axes if is_number(entry) else entry)
    if len(sides) != axes:
        raise ValueError(f"{name} has the entry {entry} of {len(sides)} axes, but patch has {axes}")
    return sides


def plan(
    spacings: Sequence[Sequence[float]],
    shapes: Sequence[Sequence[int]],
    *,
    num_classes: int = 2,
    spatial_dims: int | None = None,
) -> Plan:
    """The network, patch, spacing and batch size that nnU-Net's rules give for a data set.

    Args:
        spacings: (cases, axes) millimetres between the pixels of every case.
        shapes: (cases, axes) pixels of every case, cropped to what is not zero.
        num_classes: classes, the background among them, whose logits of every resolution need memory as well.
        spatial_dims: 2 for a network on slices of volumes, across the two finest axes; None for that of the cases.

    Returns:
        A plan whose axes are sorted so that the coarsest comes first.

    Raises:
        ValueError: the two disagree, or are not positive.

    Examples:
        >>> plan([(2.5, 0.8, 0.8)] * 50, [(100, 300, 300)] * 50).strides[1]
        (1, 2, 2)
    """
    mm, sides = np.asarray(spacings, dtype=np.float64), np.asarray(shapes, dtype=np.float64)
    if mm.shape != sides.shape or mm.ndim != 2 or mm.shape[1] not in (2, 3) or not len(mm):
        raise ValueError(
            f"spacings of shape {mm.shape} and shapes of shape {sides.shape}: give both as (cases, 2 or 3 axes)"
        )
    if not (np.isfinite(mm).all() and (mm > 0).all() and (sides >= 1).all()):
        raise ValueError("spacings and shapes must be positive")
    dims = spatial_dims or mm.shape[1]
    if dims not in (2, mm.shape[1]):
        raise ValueError(f"spatial_dims={spatial_dims} of cases with {mm.shape[1]} axes; give 2 or leave it out")

    target = _target_spacing(mm, sides)
    median = np.median(np.round(sides * mm / target), axis=0)
    voxels = float(median.prod()) * len(mm)
    axes = np.argsort(-target, kind="stable")[-dims:]
    spacing, median = target[axes], median[axes]

    inverse = 1 / spacing
    first = np.round(inverse * (FIRST_PATCH[dims] / inverse.prod()) ** (1 / dims))
    patch, strides, kernels = _pooled(np.minimum(first, median), spacing)
    while (numbers := _numbers_in_maps(patch, strides, num_classes)) > MOST_NUMBERS[dims]:
        longest = int(np.argmax(patch / median))
        smaller = patch.copy()
        smaller[longest] -= math.prod(steps[longest] for steps in strides)
        patch, strides, kernels = _pooled(smaller, spacing)
    of_memory = round(MOST_NUMBERS[dims] / numbers * REFERENCE_BATCH[dims])
    of_data = round(MOST_OF_DATA * voxels / float(patch.prod()))
    return Plan(
        patch=tuple(int(side) for side in patch),
        widths=_widths(len(strides), dims),
        strides=tuple(strides),
        kernels=tuple(kernels),
        spacing=tuple(float(s) for s in spacing),
        axes=tuple(int(axis) for axis in axes),
        batch_size=max(LEAST_BATCH, min(of_memory, of_data)),
    )


def _widths(stages: int, dims: int) -> Axes:
    return tuple(min(BASE_WIDTH * 2**i, MOST_WIDTH[dims]) for i in range(stages))


def _target_spacing(mm: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """The median over the cases; of an axis that is much coarser than the others, the 10th percentile."""
    target, median = np.median(mm, axis=0), np.median(sides, axis=0)
    coarsest = int(np.argmax(target))
    others = np.arange(mm.shape[1]) != coarsest
    if (target[coarsest] >= ANISOTROPIC * target[others]).all() and (
        ANISOTROPIC * median[coarsest] <= median[others]
    ).all():
        target[coarsest] = np.percentile(mm[:, coarsest], 10)
    return target


def _pooled(patch: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, list[Axes], list[Axes]]:
    """The patch rounded up so that it can be halved, and strides and kernels of the stages."""
    size, mm = patch.copy(), spacing.copy()
    wide = np.zeros(len(size), dtype=bool)  # axes whose kernels have come to be 3
    strides: list[Axes] = [(1,) * len(size)]
    kernels: list[Axes] = []
    while True:
        long = size >= LEAST_POOLED
        halved = long & (mm < 2 * mm[long].min()) if long.any() else long
        if not halved.any() or (halved.sum() == 1 and size[halved][0] < LEAST_POOLED_ALONE):
            break
        wide |= mm < 2 * mm.min()
        kernels.append(tuple(3 if w else 1 for w in wide))
        strides.append(tuple(2 if h else 1 for h in halved))
        size = np.where(halved, np.ceil(size / 2), size)
        mm = np.where(halved, 2 * mm, mm)
    kernels.append((3,) * len(size))
    divisor = np.prod(strides, axis=0)
    return np.ceil(patch / divisor) * divisor, strides, kernels


def _numbers_in_maps(patch: np.ndarray, strides: list[Axes], num_classes: int) -> float:
    """Numbers in all maps of a plain U-Net.

    There are two convolutions per stage, and in the decoder a transposed one and the logits besides.
    """
    side = patch.astype(np.float64)
    pixels = []
    for step in strides:
        side = side / np.asarray(step)
        pixels.append(float(side.prod()))
    maps = [width * n for width, n in zip(_widths(len(strides), len(patch)), pixels)]
    return 2 * sum(maps) + 3 * sum(maps[:-1]) + num_classes * sum(pixels[:-1])
