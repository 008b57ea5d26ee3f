"""Training learns, writes what it promises, and resumes to the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from mmengine.runner import ValLoop

from tests.children import ROOT, environment
from tests.engine.tiny import MIXUP, assert_equal_weights, logged, write_config
from visionssm.cli.launch import evaluate, train
from visionssm.engine.checkpoint import load_checkpoint
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.engine.optim import MixedPrecision
from visionssm.tasks.classification.network import build_classifier

BY_ITERATION = {"default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 3, "by_epoch": False}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of 10 steps with dropped paths, mixup, EMA and augmentation."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(write_config(folder), work_dir=folder, options=MIXUP)
    return folder


def test_run_killed_within_an_epoch_resumes_to_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "stall.py").write_text(
        "import pathlib, time\n"
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class StallHook(Hook):\n"
        "    def before_train_iter(self, runner, **_):\n"
        "        if runner.iter == 7:\n"
        "            pathlib.Path(runner.work_dir, 'stalled').touch()\n"
        "            time.sleep(600)\n"
    )
    more = "custom_imports = dict(imports=['stall'])\ncustom_hooks.append(dict(type='StallHook'))\n"
    config = write_config(tmp_path, more)
    options = [f"model.mixup.{key}={value}" for key, value in MIXUP["model.mixup"].items()]
    options += ["default_hooks.checkpoint.interval=3", "default_hooks.checkpoint.by_epoch=False"]
    run = subprocess.Popen(
        [sys.executable, ROOT / "tools/train.py", config, "--work-dir", tmp_path, "--cfg-options", *options],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "stderr").open("wb"),
    )
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "stalled").exists():
            assert run.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert (tmp_path / "last_checkpoint").read_text() == "iter_6.pth"  # the second step of the second epoch

    train(write_config(tmp_path), work_dir=tmp_path, resume=True, options={**MIXUP, **BY_ITERATION})
    assert_equal_weights(uninterrupted / "epoch_2.pth", tmp_path / "iter_10.pth")


def test_run_stopped_before_validation_resumes_to_the_same_bits_and_validates(
    uninterrupted: Path, tmp_path: Path
) -> None:
    train(
        write_config(tmp_path), work_dir=tmp_path, resume=str(uninterrupted / "epoch_1.pth"), options=MIXUP
    )  # epoch_1.pth was written before the validation of epoch 1
    assert_equal_weights(uninterrupted / "epoch_2.pth", tmp_path / "epoch_2.pth")
    assert logged(tmp_path, "top1") == logged(uninterrupted, "top1")


def test_training_does_not_depend_on_the_number_of_loader_workers(uninterrupted: Path, tmp_path: Path) -> None:
    options = {**MIXUP, "train_dataloader.num_workers": 1}
    train(write_config(tmp_path), work_dir=tmp_path, options=options)
    assert_equal_weights(uninterrupted / "epoch_2.pth", tmp_path / "epoch_2.pth")


def test_checkpoint_rebuilds_the_classifier_without_its_config(uninterrupted: Path) -> None:
    checkpoint = load_checkpoint(uninterrupted / "epoch_2.pth")
    model, classes, given = build_classifier(checkpoint)
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    assert classes == [str(digit) for digit in range(10)]
    assert given["size"] == (1, 16, 16)
    assert len(given["mean"]) == len(given["std"]) == 1
    averaged, raw = checkpoint["state_dict"], checkpoint["ema_state_dict"]
    assert all(torch.equal(x, averaged[f"model.{key}"]) for key, x in model.state_dict().items())
    assert any(not torch.equal(x, raw[f"module.{key}"]) for key, x in averaged.items()), (
        "the averaged weights should differ from the raw ones"
    )


def test_evaluation_of_a_checkpoint_gives_the_validation_metrics_and_predictions(
    uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    metrics = evaluate(write_config(tmp_path), uninterrupted / "epoch_2.pth", out=out, work_dir=tmp_path)
    assert metrics["top1"] == pytest.approx(logged(uninterrupted, "top1")[-1], abs=1e-3)
    lines = out.read_text().splitlines()
    assert lines[0].startswith("sample,label,predicted,correct,class_1,score_1")
    correct = [int(line.split(",")[3]) for line in lines[1:]]
    assert 100 * sum(correct) / len(correct) == pytest.approx(metrics["top1"])


def test_checkpoint_of_another_model_is_refused_by_name(uninterrupted: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, model="test_vit2")
    options = {"model.drop_path_rate": None, "model.model_kwargs": {"img_size": 16}}
    with pytest.raises(CheckpointError, match=r"name is 'vmamba_nano_test', the config's 'test_vit2'"):
        evaluate(config, uninterrupted / "epoch_2.pth", work_dir=tmp_path, options=options)


def test_resuming_with_another_number_of_steps_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    options = {**MIXUP, "train_dataloader.num_batch_per_epoch": 4}
    with pytest.raises(ConfigError, match="5 steps an epoch, this one has 4"):
        train(write_config(tmp_path), work_dir=tmp_path, resume=str(uninterrupted / "epoch_1.pth"), options=options)


def test_resuming_an_empty_work_folder_starts_from_the_beginning(tmp_path: Path) -> None:
    options = {"train_cfg.max_epochs": 1, "train_dataloader.num_batch_per_epoch": 1}
    runner = train(write_config(tmp_path), work_dir=tmp_path, resume=True, options=options)
    assert runner.iter == 1
    assert (tmp_path / "epoch_1.pth").exists()


def test_loop_over_iterations_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = {
        "train_cfg": {"_delete_": True, "by_epoch": False, "max_iters": 7, "val_interval": 7},
        "train_dataloader.sampler.type": "InfiniteSampler",
        "default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 4, "by_epoch": False},
        "param_scheduler": [{"type": "PolyLR", "eta_min": 1e-5, "by_epoch": False}],
    }
    config = write_config(tmp_path)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(config, work_dir=whole, options=options)
    train(config, work_dir=resumed, resume=str(whole / "iter_4.pth"), options=options)
    assert_equal_weights(whole / "iter_7.pth", resumed / "iter_7.pth")


def test_loop_over_iterations_validates_at_intervals_that_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "train_cfg": {"by_epoch": False, "max_iters": 6, "val_interval": 5, "dynamic_intervals": [(4, 1)]},
        "default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 6, "by_epoch": False},
        "param_scheduler": [{"type": "PolyLR", "eta_min": 1e-5, "by_epoch": False}],
    }
    options["train_cfg"]["_delete_"] = True  # type: ignore[index]
    seen: list[int] = []
    monkeypatch.setattr(ValLoop, "run", lambda loop: seen.append(loop.runner.iter))
    train(write_config(tmp_path), work_dir=tmp_path, options=options)
    assert seen == [3, 4, 5, 6]  # MMEngine asks which interval the next iteration has


def test_any_timm_model_trains(tmp_path: Path) -> None:
    options = {
        "model.drop_path_rate": None,
        "model.model_kwargs": {"img_size": 16},
        "train_dataloader.num_batch_per_epoch": 2,
        "train_cfg.max_epochs": 1,
    }
    train(write_config(tmp_path, model="test_vit2"), work_dir=tmp_path, options=options)
    model, _, _ = build_classifier(load_checkpoint(tmp_path / "epoch_1.pth"))
    assert type(model) is type(timm.create_model("test_vit2"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_trains_and_resumes_with_its_scaler_on_a_cpu(tmp_path: Path, dtype: str) -> None:
    options = {"optim_wrapper.dtype": dtype, "optim_wrapper.loss_scale": 1024.0, "optim_wrapper.type": "MixedPrecision"}
    options |= {"train_dataloader.num_batch_per_epoch": 3}
    # Size 16 would end in maps of 1×1, of which oneDNN's bfloat16 convolution returns uninitialised weight gradients.
    options |= {"train_dataloader.dataset.size": 32, "val_dataloader.dataset.size": 32}
    config = write_config(tmp_path)
    first = train(config, work_dir=tmp_path / "a", amp=True, options=options)
    second = train(config, work_dir=tmp_path / "b", resume=str(tmp_path / "a/epoch_1.pth"), amp=True, options=options)
    assert first.optim_wrapper.scaler.get_scale() == second.optim_wrapper.scaler.get_scale()
    assert_equal_weights(tmp_path / "a/epoch_2.pth", tmp_path / "b/epoch_2.pth")


def test_a_checkpoint_brings_its_loss_scale_back() -> None:
    def wrapper() -> MixedPrecision:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        return MixedPrecision(dtype="float16", loss_scale=1024.0, optimizer=optimizer)

    old, new = wrapper(), wrapper()
    old.scaler.scale(torch.ones(1))
    old.scaler.update(new_scale=256.0)
    new.load_state_dict(old.state_dict())
    assert new.scaler.get_scale() == 256.0


def test_short_training_is_far_above_chance(tmp_path: Path) -> None:
    options = {
        "train_cfg.max_epochs": 3,
        "train_dataloader.num_batch_per_epoch": 25,
        "optim_wrapper.optimizer.lr": 4e-3,
        "train_cfg.val_interval": 3,
    }
    train(write_config(tmp_path), work_dir=tmp_path, options=options)
    assert logged(tmp_path, "top1")[-1] > 60  # chance is 10
    losses = logged(tmp_path, "loss")
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


@pytest.mark.slow
def test_digits_recipe_reaches_97_percent(tmp_path: Path) -> None:
    train(ROOT / "configs/vmamba_nano_digits.py", work_dir=tmp_path)
    assert logged(tmp_path, "top1")[-1] >= 97
    for name in ("learning_curves.png", "confusion_matrix.png", "best.pth", "last_checkpoint"):
        assert (tmp_path / name).stat().st_size > 0
    assert list(tmp_path.glob("*/vis_data/events.out.tfevents*"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer", {"state": 1}),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("message_hub", [1]),
        ("param_schedulers", [{"last_step": "x"}, 2]),
        ("random_states", [{"python": (3, (1, 2), None)}]),
        ("meta", {"epoch": "many", "iter": -1}),
        ("meta", {"epoch": 1}),
        ("loop", 7),
        ("curves", {"val": 3}),
        ("ema_state_dict", {"module.x": 1}),
    ],
)
def test_checkpoint_whose_state_of_training_is_of_another_kind_is_refused(
    key: str, value: object, uninterrupted: Path, tmp_path: Path
) -> None:
    content = torch.load(uninterrupted / "epoch_1.pth", weights_only=True)
    torch.save({**content, key: value}, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match=r"changed\.pth"):
        train(
            write_config(tmp_path, "custom_hooks.append(dict(type='FiguresHook', metrics=('top1',)))\n"),
            work_dir=tmp_path,
            resume=str(tmp_path / "changed.pth"),
            options=MIXUP,
        )
