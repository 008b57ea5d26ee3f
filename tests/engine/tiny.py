"""A run of seconds: a tiny model, small digits, a few steps; what the tests of training start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG = """
model = dict(type="ImageClassifier", name="{model}", num_classes=10, in_chans=1, drop_path_rate=0.2)
train_dataloader = dict(
    batch_size=16, num_workers=0, drop_last=True, num_batch_per_epoch=5,
    sampler=dict(type="DefaultSampler", shuffle=True), collate_fn=dict(type="default_collate"),
    dataset=dict(type="DigitsDataset", split="train", size=16, augment=dict(degrees=10.0, translate=0.05)))
val_dataloader = dict(
    batch_size=100, num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False), collate_fn=dict(type="default_collate"),
    dataset=dict(type="DigitsDataset", split="val", size=16, val_fraction=0.05))
val_evaluator = dict(type="ClassificationMetric")
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
optim_wrapper = dict(constructor="DecayConstructor", optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
                     clip_grad=dict(max_norm=5.0))
param_scheduler = [dict(type="CosineAnnealingLR", eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True)]
default_hooks = dict(logger=dict(type="LoggerHook", interval=1), checkpoint=dict(type="SafeCheckpointHook"))
custom_hooks = [dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1, update_buffers=True)]
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""

MIXUP = {"model.mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}}
"""Config options that make training draw from NumPy's global generator too."""


def write_config(folder: Path, more: str = "", model: str = "vmamba_nano_test") -> Path:
    """The tiny configuration with lines added at its end; returns its path."""
    path = folder / "tiny.py"
    path.write_text(CONFIG.replace("{model}", model) + more)
    return path


def weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint that training changes: averaged and raw weights, optimizer moments."""
    content = torch.load(path, weights_only=True)
    found = {f"state.{key}": x for key, x in content["state_dict"].items()}
    found |= {f"ema.{key}": x for key, x in content.get("ema_state_dict", {}).items()}
    for number, state in content["optimizer"]["state"].items():
        found |= {f"optimizer.{number}.{key}": x for key, x in state.items()}
    return found


def assert_equal_weights(first: Path, second: Path) -> None:
    """Every bit of two checkpoints' tensors agrees."""
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different, f"{len(different)} of {len(a)} differ, first {different[:3]}"


def logged(work_dir: Path, key: str) -> list[Any]:
    """Values of a scalar that MMEngine logged in the only run of a work folder, in order."""
    (path,) = work_dir.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row[key] for row in rows if key in row]
