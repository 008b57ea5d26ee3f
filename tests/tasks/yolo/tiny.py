"""A run of seconds on a few rendered shapes."""

from __future__ import annotations

from pathlib import Path

from tests.engine.shapes import SPEC

TEXT = """
model = dict(type="YoloDetector", name="mambayolo_nano", num_classes=4, size=32)
train_dataloader = dict(
    batch_size=4, num_workers=0, drop_last=True, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="MosaicDetection", size=32,
                 dataset=dict(type="ShapesDetection", split="train", root={root!r}, spec={spec!r})))
val_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ShapesDetection", split="val", root={root!r}, spec={spec!r}))
val_evaluator = dict(type="DetectionMetric", threshold=0.0)
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, dict()
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
optim_wrapper = dict(constructor="BiasConstructor", optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.1),
                     clip_grad=dict(max_norm=10.0))
param_scheduler = dict(type="LinearWithWarmup", warmup=1, least_warmup=4, end=2, convert_to_iter_based=True)
custom_hooks = {hooks!r}
default_hooks = dict(logger=dict(type="LoggerHook", interval=1),
                     checkpoint=dict(type="SafeCheckpointHook", save_best="box_ap50"))
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""

HOOKS_OF_A_RUN = [
    dict(type="EMAHook", ema_type="RampedAverage", ramp=4, update_buffers=True),
    dict(type="CloseMosaicHook", epochs=1),
    dict(type="PredictionPicturesHook"),
    dict(type="FiguresHook", metrics=("box_ap50",)),
]


def write_yolo_config(folder: Path, more: str = "") -> Path:
    """A tiny run of Mamba-YOLO; returns the configuration's path."""
    path = folder / "tiny.py"
    path.write_text(TEXT.format(root=str(folder.parent / "sets"), spec=SPEC, hooks=HOOKS_OF_A_RUN) + more)
    return path
