"""Rendered shapes with stripes, checks and dots as a data set of restoration: no download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.generated import SPLITS, PicturesSpec, checked_spec, generated_folder
from visionssm.data.painting import background, coverage_of, grid
from visionssm.data.shapes import SHAPES
from visionssm.tasks.restoration.data import RestorationFolder

VERSION = 1
"""Part of the folder's name; changes with anything that changes the pictures."""


@dataclass(frozen=True)
class TexturesSpec(PicturesSpec):
    """What decides every pixel of a set: see `PicturesSpec`."""

    kind = "textures"
    version = VERSION
    least_size = 32

    size: int = 96
    train: int = 240
    val: int = 20
    test: int = 60
    most: int = 6


def render(spec: TexturesSpec, split: str, index: int) -> np.ndarray:
    """(size, size, 3) uint8, a function of its arguments alone.

    Shapes of random place, size and angle on a shaded background with thin lines, each of one colour or with a texture
    of two: stripes, checks or dots at least five pixels apart. All edges are anti-aliased.

    Raises:
        DatasetError: (a ValueError) there is no such split.
    """
    checked_spec(TexturesSpec, split, None)
    generator = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    points = grid(spec.size)
    canvas = background(generator, points)
    outlines = list(SHAPES.values())
    for _ in range(int(generator.integers(max(1, spec.most // 2), spec.most + 1))):
        radius = spec.size * generator.uniform(0.12, 0.35)
        turn = _rotation(generator.uniform(0, 2 * np.pi))
        outline = outlines[int(generator.integers(len(outlines)))]
        place = generator.uniform(0, spec.size, 2)
        coverage = coverage_of(points, radius * outline @ turn + place, 0.0)[..., None]
        first, second = generator.random((2, 3))
        share = _texture(generator, points)[..., None]
        canvas = canvas + coverage * (first + share * (second - first) - canvas)
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


def _texture(generator: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(H, W) share of a second colour."""
    kind = int(generator.integers(4))
    if kind == 0:
        return np.zeros(points.shape[:2])
    period = generator.uniform(5, 16)
    waves = np.sin(2 * np.pi / period * (points @ _rotation(generator.uniform(0, np.pi))) + generator.uniform(0, 6, 2))
    if kind == 1:
        wave = waves[..., 0]
    elif kind == 2:
        wave = waves[..., 0] * waves[..., 1]
    else:
        wave = waves.sum(-1) - 1
    return (0.5 + period / (2 * np.pi) * wave).clip(0, 1)  # about the distance from the edge, in pixels


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def write_textures(folder: str | Path, spec: TexturesSpec) -> Path:
    """Write a set, {train,val,test}/000000.png, or do nothing if it is there.

    Returns:
        the folder.
    Raises:
        DatasetError: the folder holds something else.
        OSError: the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        for split in SPLITS:
            (temporary / split).mkdir()
            for number in range(getattr(spec, split)):
                Image.fromarray(render(spec, split, number)).save(temporary / split / f"{number:06d}.png")

    return generated_folder(folder, {"version": VERSION, **asdict(spec)}, write)


class RenderedTextures(RestorationFolder):
    """Rendered shapes and textures, and what a degradation makes of them.

    Args:
        split: "train", "val" or "test".
        root: folder for the set; by default the cache folder.
        spec: fields of `TexturesSpec` other than its defaults.
        options: `degradation`, `channels`, `patch`, `repeat` and `seed` of `RestorationFolder`.

    Raises:
        DatasetError: an argument is wrong.
    """

    def __init__(
        self, split: str, *, root: str | None = None, spec: Mapping[str, int] | None = None, **options: Any
    ) -> None:
        checked = checked_spec(TexturesSpec, split, spec)
        super().__init__(write_textures(checked.folder(root), checked), images=split, **options)

    @staticmethod
    def check_available(  # type: ignore[override]
        *arguments: Any, split: str = "train", spec: Mapping[str, int] | None = None, **_: Any
    ) -> None:
        """Nothing can be missing, as the set is made when it is first used; looks at the arguments.

        Raises:
            DatasetError: an argument is wrong.
        """
        checked_spec(TexturesSpec, split, spec)
