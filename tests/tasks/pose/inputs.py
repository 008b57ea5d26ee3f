"""Small sets of key points that tests change, and a run of seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SPEC = {"size": 64, "train": 8, "val": 3, "test": 2, "most": 2}

CONFIG = """
model = dict(type="PoseEstimator", name="hrvmamba_nano_pose", num_keypoints=14)
_crops = dict(type="Figures", root={root!r}, spec={spec!r}, size=(64, 64), sigma=1.0)
_loader = dict(num_workers=0, collate_fn=dict(type="default_collate"))
train_dataloader = dict(
    batch_size=4, drop_last=True, num_batch_per_epoch=2, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(split="train", augment=dict(), **_crops), **_loader)
val_dataloader = dict(
    batch_size=2, sampler=dict(type="DefaultSampler", shuffle=False), dataset=dict(split="val", **_crops), **_loader)
val_evaluator = dict(type="KeypointMetric")
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=2)
optim_wrapper = dict(constructor="DecayConstructor", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05))
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1, update_buffers=True),
    dict(type="PredictionPicturesHook")]
default_hooks = dict(logger=dict(type="LoggerHook", interval=1),
                     checkpoint=dict(type="SafeCheckpointHook", save_best="ap"))
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""


def write_config(folder: Path) -> Path:
    """A run of four steps on stick figures; returns its path."""
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(root=str(folder.parent / "sets"), spec=SPEC))
    return path


def person(number: int = 1, **changes: Any) -> dict[str, Any]:
    """An annotation with three points in the box (10, 8) to (30, 32) of the first image."""
    return {
        "id": number,
        "image_id": 1,
        "category_id": 1,
        "bbox": [10, 8, 20, 24],
        "area": 300,
        "iscrowd": 0,
        "keypoints": [20, 10, 2, 24, 14, 2, 16, 14, 1],
        **changes,
    }


def write_set(folder: Path, change: Callable[[dict[str, Any]], Any] | None = None) -> dict[str, Any]:
    """Two images of 40×36 pixels, somebody in the first one; returns the arguments of `CocoKeypoints`.

    Args:
        change: of the content, before it is written.
    """
    (folder / "images").mkdir(parents=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (36, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    content: dict[str, Any] = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 36, "width": 40} for n in (1, 2)],
        "annotations": [person()],
        "categories": [
            {
                "id": 1,
                "name": "person",
                "keypoints": ["head", "left_hand", "right_hand"],
                "skeleton": [[1, 2], [1, 3]],
                "sigmas": [0.1, 0.1, 0.1],
            },
            {"id": 2, "name": "car"},
        ],
    }
    if change is not None:
        change(content)
    (folder / "points.json").write_text(json.dumps(content))
    return {"root": folder, "annotations": "points.json", "images": "images", "size": (64, 64)}
