"""Video prediction in the engine: losses, metrics, figures, and a run from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.engine.tiny import logged
from visionssm.backbones.convs5 import next_frame_losses
from visionssm.cli.launch import evaluate, train
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.tasks.video.data import MovingDigits
from visionssm.tasks.video.metric import NextFrameMetric
from visionssm.tasks.video.model import NextFramePredictor
from visionssm.tasks.video.pictures import draw_frames, draw_grid

SIZES: dict[str, Any] = {"widths": (4, 8), "dim": 8, "states": 8, "depth": 1, "groups": 4}

CONFIG = f"""
model = dict(type="NextFramePredictor", name="convs5_nano", context=3, model_kwargs={SIZES!r})
train_dataloader = dict(
    batch_size=4, num_workers=0, drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True), collate_fn=dict(type="default_collate"),
    dataset=dict(type="MovingDigits", split="train", clips=40, frames=6, size=16))
val_dataloader = dict(
    batch_size=4, num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False), collate_fn=dict(type="default_collate"),
    dataset=dict(type="MovingDigits", split="val", clips=6, frames=6, size=16))
val_evaluator = dict(type="NextFrameMetric", keep=2)
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=2, val_interval=1)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-2), clip_grad=dict(max_norm=10.0))
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="SafeCheckpointHook", save_best="error", rule="less"))
custom_hooks = [dict(type="PredictedFramesHook", scale=1), dict(type="FiguresHook", metrics=("error", "copy_error"))]
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""


@pytest.fixture(scope="module")
def clips() -> Tensor:
    data = MovingDigits("val", clips=3, frames=6, size=16)
    return torch.stack([data[number]["inputs"] for number in range(3)])


@pytest.fixture(scope="module")
def task() -> NextFramePredictor:
    torch.manual_seed(0)
    return NextFramePredictor("convs5_nano", context=3, model_kwargs=SIZES).eval()


def test_run_learns_and_writes_curves_a_grid_a_gif_and_the_best_weights(tmp_path: Path) -> None:
    config = tmp_path / "tiny.py"
    config.write_text(CONFIG)
    train(config, work_dir=tmp_path / "run")
    losses = logged(tmp_path / "run", "loss")
    assert np.mean(losses[-6:-1]) < 0.7 * losses[0]
    with Image.open(tmp_path / "run" / "predicted_frames.png") as image:
        assert image.size == (6 * 16 + 5 * 2, 4 * 16 + 3 * 2)  # two clips of two rows
        assert np.asarray(image).std() > 5
    with Image.open(tmp_path / "run" / "predicted_frames.gif") as image:
        assert getattr(image, "n_frames", 1) == 6
        assert image.size == (2 * 16 + 2, 2 * 16 + 2)
    assert (tmp_path / "run" / "learning_curves.png").exists()
    metrics = evaluate(config, tmp_path / "run" / "best.pth", work_dir=tmp_path / "test")
    best = torch.load(tmp_path / "run" / "best.pth", weights_only=True)["meta"]["metrics"]
    assert metrics["error"] == pytest.approx(best["error"], rel=1e-5)


def test_modes_give_predictions_losses_and_evaluated_clips(task: NextFramePredictor, clips: Tensor) -> None:
    with torch.no_grad():
        predicted = task(clips)
        losses = task(clips, mode="loss")
        rows = task(clips, torch.arange(3), mode="predict")
    assert predicted.shape == (3, 5, 16, 16, 1)
    assert losses["loss"].item() == pytest.approx(next_frame_losses(predicted, clips[:, 1:])["loss"].item())
    assert np.mean([row["error"] for row in rows]) == pytest.approx(losses["loss"].item(), rel=1e-5)
    copied = next_frame_losses(clips[:, :-1], clips[:, 1:])["loss"].item()
    assert np.mean([row["copy_error"] for row in rows]) == pytest.approx(copied, rel=1e-5)
    torch.testing.assert_close(rows[1]["generated"], task.model.generate(clips[:, :3], 3)[1], rtol=0, atol=1e-5)


def test_psnr_is_that_of_values_in_0_to_1(clips: Tensor) -> None:
    task = NextFramePredictor("convs5_nano", context=1, model_kwargs=SIZES)
    still = clips[:, :1].expand(-1, 4, -1, -1, -1)
    dimmed = torch.cat([still[:, :3], still[:, 3:] - 0.2], 1)  # the last frame differs by 0.1 of the range
    (row, *_) = task(dimmed, mode="predict")
    assert row["copy_psnr"] == pytest.approx((100 + 100 + 20) / 3, rel=1e-4)


def test_metric_averages_and_keeps_the_first_clips_of_the_data_set(clips: Tensor) -> None:
    metric = NextFrameMetric(keep=2)
    names = ("error", "copy_error", "psnr", "rollout_psnr", "copy_psnr")
    for index in (2, 1, 0):
        row = dict.fromkeys(names, float(index))
        metric.process(None, [{"index": index, **row, "clip": clips[index], "generated": clips[index, 3:]}])
    assert metric.compute_metrics(metric.results) == dict.fromkeys(names, 1.0)
    assert len(metric.clips) == 2
    assert torch.equal(metric.clips[0][0], clips[0])


def test_grid_shows_the_truth_above_what_was_given_and_generated(clips: Tensor) -> None:
    generated = -clips[0, 4:]
    grid = draw_grid([(clips[0], generated)])
    assert grid.dtype == torch.uint8
    levels = ((clips[0] + 1) * 127.5).round().to(torch.uint8)
    for t in range(6):
        column = grid[:, 18 * t : 18 * t + 16]
        assert torch.equal(column[:16], levels[t])
        below = levels[t] if t < 4 else ((generated[t - 4] + 1) * 127.5).round().to(torch.uint8)
        assert torch.equal(column[18:], below)
    assert len(draw_frames([(clips[0], generated)])) == 6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "convs5_nan"}, "closest: 'convs5_nano'"),
        ({"context": 0}, "context=0"),
        ({"model_kwargs": {"width": 3}}, "ConvS5Config"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NextFramePredictor(**{"name": "convs5_nano", "model_kwargs": SIZES, **arguments})


def test_clips_and_checkpoints_that_do_not_fit_are_refused(task: NextFramePredictor, clips: Tensor) -> None:
    with pytest.raises(ConfigError, match="divisible by 2"):
        task.checkpoint_meta(MovingDigits("val", size=17), None)
    with pytest.raises(ConfigError, match="nothing is left to generate"):
        task(clips[:, :3], mode="predict")
    meta = {"visionssm": task.checkpoint_meta(None, None)}
    task.check_checkpoint(meta, "x.pth")
    meta["visionssm"]["model"]["name"] = "convs5_mnist300"
    with pytest.raises(CheckpointError, match="convs5_mnist300"):
        task.check_checkpoint(meta, "x.pth")
