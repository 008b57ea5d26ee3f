"""Runs of seconds on a few rendered shapes, for detection and for segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SPEC = {"size": 32, "train": 12, "val": 4, "test": 3, "most": 2}

DETECTOR: dict[str, Any] = {
    "name": "vmamba_nano_test",
    "num_classes": 4,
    "size": (32, 32),
    "channels": 8,
    "anchor_sizes": (6, 10, 16, 24, 32),
}
SEGMENTOR: dict[str, Any] = {
    "name": "vmamba_nano_test",
    "num_classes": 5,
    "channels": 8,
    "atrous_rates": (1, 2),
}

COMMON = """
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
optim_wrapper = dict(constructor="DecayConstructor", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
                     clip_grad=dict(max_norm=5.0))
custom_hooks = [
    dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1, update_buffers=True),
    dict(type="PredictionPicturesHook"), dict(type="FiguresHook", metrics=("{metric}",))]
default_hooks = dict(logger=dict(type="LoggerHook", interval=1),
                     checkpoint=dict(type="SafeCheckpointHook", save_best="{metric}"))
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""

LOADERS = """
train_dataloader = dict(
    batch_size=4, num_workers=0, drop_last=True, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="{dataset}", split="train", root={root!r}, spec={spec!r},
                 transforms=[dict(type="RandomHorizontalFlip")]))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="{dataset}", split="val", root={root!r}, spec={spec!r}))
"""


def write_detection_config(folder: Path, architecture: str = "MaskRCNN") -> Path:
    """A tiny run of a detector; returns the configuration's path."""
    model = {"type": "TorchvisionDetector", "architecture": architecture, **DETECTOR}
    return _write(folder, model, "ShapesDetection", "DetectionMetric", "box_ap50")


def write_segmentation_config(folder: Path) -> Path:
    """A tiny run of a segmentation model; returns the configuration's path."""
    return _write(
        folder, {"type": "TorchvisionSegmentor", **SEGMENTOR}, "ShapesSegmentation", "SegmentationMetric", "miou"
    )


def _write(folder: Path, model: dict[str, Any], dataset: str, evaluator: str, metric: str) -> Path:
    path = folder / "tiny.py"
    loaders = LOADERS.format(dataset=dataset, root=str(folder.parent / "sets"), spec=SPEC)
    text = f"model = dict({model!r})\n{loaders}\nval_evaluator = dict(type={evaluator!r})\n"
    path.write_text(text + COMMON.replace("{metric}", metric))
    return path
