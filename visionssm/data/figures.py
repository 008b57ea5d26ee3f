"""Rendered stick figures with 14 joints: data for pose estimation without a download.

`write_figures` writes a complete set in COCO's format for key points:

    images/{train,val,test}/000000.png                  RGB
    annotations/person_keypoints_{train,val,test}.json  COCO: images, annotations (box, area, key points), categories

Beside COCO's `keypoints` and `skeleton`, the category says `flip_pairs`, pairs of names that swap in a mirror, and
`sigmas`, which COCO's evaluation of its own 17 points has as constants; see `visionssm.data.keypoints`.

All people face the viewer, so that a mirrored picture is one of the same kind. Coordinates of joints are such that
the middle of the first pixel is (0, 0).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.generated import SPLITS, PicturesSpec, checked_spec, generated_folder
from visionssm.data.masks import extent
from visionssm.data.painting import background, coverage_of, grid, painted

VERSION = 1
"""Part of the folder's name; changes with anything that changes the pictures."""

JOINTS = (
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck"),
)
"""Names in the order of CrowdPose (Li et al. 2019, arXiv 1812.00324); the head is its top."""

FLIP_PAIRS = tuple((name, name.replace("left", "right")) for name in JOINTS if name.startswith("left"))

SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079)
"""CrowdPose's."""

SKELETON = (
    *(("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"), ("left_hip", "right_hip")),
    *(("left_shoulder", "left_hip"), ("right_shoulder", "right_hip")),
    *(("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("left_hip", "left_knee")),
    *(("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"), ("right_hip", "right_knee")),
    *(("left_knee", "left_ankle"), ("right_knee", "right_ankle")),
)

_LEAST_VISIBLE = 0.6
_LEAST_JOINTS = 8


@dataclass(frozen=True)
class FiguresSpec(PicturesSpec):
    """What decides every pixel of a set: see `PicturesSpec`; `most` is of people."""

    kind = "figures"
    version = VERSION
    least_size = 48

    size: int = 128
    train: int = 2000
    val: int = 100
    test: int = 300


@dataclass(frozen=True)
class People:
    """An image with its people.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, the visible pixels of every person; they do not overlap.
        joints: (n, 14, 2) x and y.
        visibility: (n, 14), COCO's: 0 outside of the image, 1 hidden behind somebody or something, 2 visible.
    """

    image: np.ndarray
    masks: np.ndarray
    joints: np.ndarray
    visibility: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) left, top, width, height of the visible pixels."""
        return np.array([extent(mask) for mask in self.masks], dtype=np.int64).reshape(-1, 4)


def render_figures(spec: FiguresSpec, split: str, index: int) -> People:
    """One image, a function of its arguments alone.

    People of random place, size, posture and colours stand on a shaded, noisy background with thin lines, some behind
    a plank. They may cover each other and be cut off by the border, but at least 60 % of each stays visible, and at
    least eight joints are in the image.

    Raises:
        DatasetError: (a ValueError) there is no such split.
    """
    checked_spec(FiguresSpec, split, None)
    generator = np.random.default_rng([spec.seed, SPLITS.index(split), index])
    points = grid(spec.size)
    canvas = background(generator, points)
    wanted = int(generator.integers(1, spec.most + 1))
    masks: list[np.ndarray] = []
    areas: list[int] = []
    joints: list[np.ndarray] = []
    attempts = 0
    while len(masks) < wanted and (attempts < 30 or not masks):
        attempts += 1
        body = _placed(generator, spec.size, crowd=wanted > 1)
        parts = _parts(body, points)
        mask = np.maximum.reduce(parts) > 0.5
        left = [seen & ~mask for seen in masks]
        if mask.sum() < _LEAST_VISIBLE * _full_area(body, parts) or _within(body, spec.size).sum() < _LEAST_JOINTS:
            continue
        if any(seen.sum() < _LEAST_VISIBLE * area for seen, area in zip(left, areas, strict=True)):
            continue
        masks, areas = [*left, mask], [*areas, int(mask.sum())]
        joints.append(body)
        canvas = _dressed(generator, canvas, parts)
    if generator.random() < 0.35:
        plank = _plank(generator, points)
        left = [mask & ~(plank > 0.5) for mask in masks]
        if all(seen.sum() >= _LEAST_VISIBLE * area for seen, area in zip(left, areas, strict=True)):
            masks, canvas = left, painted(generator, canvas, plank)
    canvas = canvas + generator.normal(0, 0.02, canvas.shape)
    image = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    found = np.stack(joints)
    return People(image, np.stack(masks), found - 0.5, np.stack([_seen(*x) for x in zip(found, masks, strict=True)]))


def _within(body: np.ndarray, size: int) -> np.ndarray:
    """(14,) which joints are in the image."""
    return np.all((body >= 0) & (body < size), axis=1)


def _seen(body: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """COCO's visibility of joints of a person of whom this mask is seen."""
    inside = _within(body, len(mask))
    x, y = np.where(inside[:, None], body, 0).astype(int).T
    return np.where(inside, 1 + mask[y, x], 0)


def _towards(angle: float, side: int = 1) -> np.ndarray:
    """Unit vector: 0 points down, 90 degrees to the person's own side, which is on the viewer's other one."""
    return np.array([side * np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])


def _placed(generator: np.random.Generator, size: int, crowd: bool) -> np.ndarray:
    """(14, 2) joints of somebody in a random posture, in pixels from the image's corner."""

    def length(whole: float) -> float:
        return whole * generator.uniform(0.8, 1.05)  # bones that do not lie in the picture's plane look shorter

    body = dict.fromkeys(JOINTS, np.zeros(2))
    hips = np.zeros(2)
    body["neck"] = hips - np.array([generator.uniform(-0.04, 0.04), length(0.32)])
    body["head"] = body["neck"] - length(0.2) * _towards(generator.uniform(-20, 20))
    shoulder, hip = length(0.12), length(0.075)
    for name, side in (("left", 1), ("right", -1)):  # who faces us has the left hand on our right
        body[f"{name}_shoulder"] = body["neck"] + np.array([side * shoulder, 0.03])
        body[f"{name}_hip"] = hips + np.array([side * hip, 0.0])
        arm = generator.uniform(5, 150)
        body[f"{name}_elbow"] = body[f"{name}_shoulder"] + length(0.17) * _towards(arm, side)
        arm += generator.uniform(-20, 100)
        body[f"{name}_wrist"] = body[f"{name}_elbow"] + length(0.16) * _towards(arm, side)
        leg = generator.uniform(-5, 50)
        body[f"{name}_knee"] = body[f"{name}_hip"] + length(0.24) * _towards(leg, side)
        leg -= generator.uniform(-5, 60)
        body[f"{name}_ankle"] = body[f"{name}_knee"] + length(0.24) * _towards(leg, side)
    tilt = np.deg2rad(generator.normal(0, 12))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    height = size * (generator.uniform(0.4, 0.7) if crowd else generator.uniform(0.5, 0.9))
    joints = height * np.stack([body[name] for name in JOINTS]) @ turn
    low, high = joints.min(0), joints.max(0)
    spare = 0.12 * (high - low)
    first, last = -low - spare, size - high + spare
    return joints + generator.uniform(np.minimum(first, last), np.maximum(first, last))


def _bones(body: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Outlines of a body's parts and how much wider each is made: legs, trunk, arms, neck, head."""
    at = dict(zip(JOINTS, body, strict=True))
    unit = float(np.linalg.norm(at["neck"] - (at["left_hip"] + at["right_hip"]) / 2)) / 0.32
    trunk = np.stack([at["left_shoulder"], at["right_shoulder"], at["right_hip"], at["left_hip"]])
    head = at["neck"] + np.outer([0.5, 0.66], at["head"] - at["neck"])  # an oval whose top is the joint
    radius = 0.38 * float(np.linalg.norm(at["head"] - at["neck"]))

    def limbs(upper: str, lower: str, margin: float) -> list[tuple[np.ndarray, float]]:
        return [(np.stack([at[f"{side}_{upper}"], at[f"{side}_{lower}"]]), margin * unit) for side in ("left", "right")]

    parts = [*limbs("hip", "knee", 0.04), *limbs("knee", "ankle", 0.034), (trunk, 0.03 * unit)]
    parts += [*limbs("shoulder", "elbow", 0.032), *limbs("elbow", "wrist", 0.028)]
    return [*parts, (np.stack([at["neck"], head[0]]), 0.03 * unit), (head, radius)]


def _parts(body: np.ndarray, points: np.ndarray) -> list[np.ndarray]:
    """(H, W) coverage of what has one colour: legs, trunk, arms, head; the last ones are painted over the others."""
    covered = [coverage_of(points, outline, margin) for outline, margin in _bones(body)]
    groups = (covered[:4], covered[4:5], covered[5:9], covered[9:])
    return [np.maximum.reduce(group) for group in groups]


def _full_area(body: np.ndarray, parts: list[np.ndarray]) -> float:
    """Pixels of the whole person, those beyond the border too."""
    size = len(parts[0])
    low, high = body.min(0) - 0.1 * size, body.max(0) + 0.1 * size
    if low.min() < 0 or high.max() > size:
        parts = _parts(body - low, grid(int(np.ceil((high - low).max()))))
    return float((np.maximum.reduce(parts) > 0.5).sum())


def _dressed(generator: np.random.Generator, canvas: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """The canvas with a person: trousers, a shirt whose sleeves are as long as the arms or bare arms, a head."""
    legs, trunk, arms, head = parts
    layers = [legs, np.maximum(trunk, arms), head] if generator.random() < 0.5 else [legs, trunk, arms, head]
    for layer in layers:
        if layer.sum() > 0:
            canvas = painted(generator, canvas, layer)
    return canvas


def _plank(generator: np.random.Generator, points: np.ndarray) -> np.ndarray:
    """(H, W) share of every pixel that a plank of random place and angle covers."""
    size = len(points)
    ends = generator.uniform(0, size, 2) + np.outer(
        [-1, 1], size * generator.uniform(0.1, 0.5) * _towards(generator.uniform(0, 180))
    )
    return coverage_of(points, ends, size * generator.uniform(0.02, 0.05))


def write_figures(folder: str | Path, spec: FiguresSpec) -> Path:
    """Write a set, or do nothing if it is there; the folder is complete or absent, also with several processes.

    Returns:
        the folder.
    Raises:
        DatasetError: the folder holds something else, for example a set of another specification.
        OSError: the folder cannot be written.
    """

    def write(temporary: Path) -> None:
        (temporary / "annotations").mkdir()
        for split in SPLITS:
            _write_split(temporary, spec, split)

    return generated_folder(folder, {"version": VERSION, **asdict(spec)}, write)


def _write_split(folder: Path, spec: FiguresSpec, split: str) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / "images" / split).mkdir(parents=True)
    for number in range(getattr(spec, split)):
        people = render_figures(spec, split, number)
        name = f"{number:06d}.png"
        Image.fromarray(people.image).save(folder / "images" / split / name)
        images.append({"id": number, "file_name": name, "height": spec.size, "width": spec.size})
        for mask, box, joints, seen in zip(
            people.masks, people.boxes.tolist(), people.joints, people.visibility, strict=True
        ):
            labelled = np.where(seen[:, None] > 0, joints.round(2), 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "num_keypoints": int((seen > 0).sum()),
                    "keypoints": np.column_stack([labelled, seen]).reshape(-1).tolist(),
                }
            )
    content = {
        "info": {"description": "rendered stick figures", **asdict(spec)},
        "images": images,
        "annotations": annotations,
        "categories": [category()],
    }
    (folder / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def category() -> dict[str, Any]:
    """The category of the figures, as their file has it."""
    return {
        "id": 1,
        "name": "person",
        "keypoints": list(JOINTS),
        "skeleton": [[JOINTS.index(a) + 1, JOINTS.index(b) + 1] for a, b in SKELETON],
        "flip_pairs": [list(pair) for pair in FLIP_PAIRS],
        "sigmas": list(SIGMAS),
    }
