"""Rendered shapes with boxes, masks and pixel labels: data for detection and segmentation without a download.

`write_shapes` writes a complete set in the two formats that detection and segmentation code reads:

    images/{train,val,test}/000000.png           RGB
    labels/{train,val,test}/000000.png           a class number per pixel, 0 = background
    annotations/instances_{train,val,test}.json  COCO: images, annotations (box, area, run-length mask), categories

"val" is for choosing (the best weights, settings), "test" for the figure that is told in the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.generated import SPLITS, PicturesSpec, checked_spec, generated_folder
from visionssm.data.masks import extent, uncompressed_rle
from visionssm.data.painting import background, coverage_of, grid, painted

VERSION = 4
"""Part of the folder's name; changes with anything that changes the pictures."""

BACKGROUND = "background"


def _regular(corners: int, inner: float | None = None) -> np.ndarray:
    """(V, 2) vertices on the unit circle; with `inner`, a star whose notches lie on that radius."""
    count = corners if inner is None else 2 * corners
    angles = 2 * np.pi * np.arange(count) / count
    radii = np.where((np.arange(count) % 2 == 1) & (inner is not None), inner or 1.0, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


_ARM, _END = 0.26, 0.96
_CORNER = np.array([[_END, -_ARM], [_END, _ARM], [_ARM, _ARM]])
_TURN = np.array([[0.0, 1.0], [-1.0, 0.0]])

SHAPES: Mapping[str, np.ndarray] = {
    "circle": _regular(32),
    "square": _regular(4),
    "triangle": _regular(3),
    "cross": np.concatenate([_CORNER @ np.linalg.matrix_power(_TURN, quarter) for quarter in range(4)]),
}
"""Outline of each class in the unit circle; its place in this table, from 1, is its number."""


@dataclass(frozen=True)
class ShapesSpec(PicturesSpec):
    """What decides every pixel of a set: see `PicturesSpec`."""

    kind = "shapes"
    version = VERSION
    least_size = 32

    size: int = 64
    train: int = 1000
    val: int = 100
    test: int = 300


@dataclass(frozen=True)
class Scene:
    """An image with its objects.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, the visible pixels of every object; they do not overlap.
        labels: (n,) class numbers, from 1.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) left, top, width, height of the visible pixels."""
        return np.array([extent(mask) for mask in self.masks], dtype=np.int64).reshape(-1, 4)

    @property
    def label_map(self) -> np.ndarray:
        """(H, W) uint8 class number of every pixel, 0 where there is no object."""
        return (self.masks * self.labels[:, None, None]).sum(0).astype(np.uint8)


def render(spec: ShapesSpec, split: str, index: int) -> Scene:
    """One image, a function of its arguments alone.

    Shapes of random place, size, angle and colour lie on a shaded, noisy background with thin lines; edges are
    anti-aliased. Shapes may cover each other, but at least 60 % of each stays visible.

    Raises:
        DatasetError: (a ValueError) there is no such split.
    """
    checked_spec(ShapesSpec, split, None)
    generator = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    points = grid(spec.size)
    canvas = background(generator, points)
    wanted = int(generator.integers(1, spec.most + 1))
    masks: list[np.ndarray] = []
    areas: list[int] = []
    labels: list[int] = []
    attempts = 0
    while len(masks) < wanted and (attempts < 40 or not masks):
        attempts += 1
        label = int(generator.integers(len(SHAPES)))
        coverage = _place(generator, list(SHAPES.values())[label], points)
        mask = coverage > 0.5
        left = [seen & ~mask for seen in masks]
        if any(seen.sum() < 0.6 * area for seen, area in zip(left, areas, strict=True)):
            continue
        masks = [*left, mask]
        areas.append(int(mask.sum()))
        labels.append(label + 1)
        canvas = painted(generator, canvas, coverage)
    canvas = canvas + generator.normal(0, 0.02, canvas.shape)
    image = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return Scene(image, np.stack(masks), np.array(labels))


def _place(generator: np.random.Generator, outline: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(H, W) share of every pixel that a shape of random size, angle and place covers; it lies inside the image."""
    size = len(points)
    radius = size * generator.uniform(0.15, 0.28)
    angle = generator.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = generator.uniform(radius + 1, size - radius - 1, 2)
    return coverage_of(points, radius * outline @ turn + centre, 0.0)


def write_shapes(folder: str | Path, spec: ShapesSpec) -> Path:
    """Write a set, or do nothing if it is there; the folder is complete or absent, also with several processes.

    Returns:
        the folder.
    Raises:
        DatasetError: the folder holds something else, for example a set of another specification.
        OSError: the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        for split in SPLITS:
            _write_split(temporary, spec, split)

    return generated_folder(folder, {"version": VERSION, **asdict(spec)}, write)


def _write_split(folder: Path, spec: ShapesSpec, split: str) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number in range(getattr(spec, split)):
        scene = render(spec, split, number)
        name = f"{number:06d}.png"
        Image.fromarray(scene.image).save(folder / "images" / split / name)
        Image.fromarray(scene.label_map).save(folder / "labels" / split / name)
        images.append({"id": number, "file_name": name, "height": spec.size, "width": spec.size})
        for mask, box, label in zip(scene.masks, scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": uncompressed_rle(mask),
                }
            )
    content = {
        "info": {"description": "rendered shapes", **asdict(spec)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(SHAPES, start=1)],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
