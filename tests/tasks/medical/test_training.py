"""Trainings on the head that nilearn ships: in half precision, and resumed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.children import ROOT, environment
from tests.configs import shipped_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.cli.launch import train

VMUNET = pytest.param("vmunet_nano_mni152", marks=pytest.mark.slow)
UMAMBA = "umamba_enc3d_nano_mni152"
NETWORKS: dict[str, dict[str, Any]] = {
    "vmunet_nano_mni152": {"model.changes": {"dim": 8}},
    UMAMBA: {"model.changes.plan.widths": (4, 8, 8, 8)},
}
"""Shipped configs, and what makes them smaller; the transforms stay, which draw at random."""

STEPS: dict[str, Any] = {
    "train_dataloader.batch_size": 2,
    "train_dataloader.num_batch_per_epoch": 2,
    "train_cfg.max_epochs": 2,
    "val_dataloader": None,
    "val_evaluator": None,
    "val_cfg": None,
    "param_scheduler": [],
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 1, "by_epoch": False},
    "custom_hooks": [],
    "env_cfg": {"cpu_threads": 1},
}
"""Two epochs of two steps, with a checkpoint after each step."""


def moved(before: Path, after: Path) -> float:
    """The part of the weight matrices that differ in two checkpoints; all but the coarsest logits' should."""
    a, b = (torch.load(path, weights_only=True)["state_dict"] for path in (before, after))
    matrices = [key for key, x in a.items() if x.ndim > 1]
    return sum(not torch.equal(a[key], b[key]) for key in matrices) / len(matrices)


@pytest.mark.parametrize("name", [VMUNET, UMAMBA])
def test_training_that_ended_within_an_epoch_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    config, options = shipped_config(name), {**STEPS, **NETWORKS[name]}
    train(config, work_dir=tmp_path / "whole", options=options)
    train(config, work_dir=tmp_path / "resumed", resume=str(tmp_path / "whole/iter_3.pth"), options=options)
    assert_equal_weights(tmp_path / "whole/iter_4.pth", tmp_path / "resumed/iter_4.pth")
    assert moved(tmp_path / "whole/iter_3.pth", tmp_path / "whole/iter_4.pth") > 0.9


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "stall.py").write_text(
        "import pathlib, time\n"
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class StallHook(Hook):\n"
        "    def before_train_iter(self, runner, **_):\n"
        "        if runner.iter == 3:\n"
        "            pathlib.Path(runner.work_dir, 'stalled').touch()\n"
        "            time.sleep(600)\n"
    )
    options = {**STEPS, **NETWORKS[UMAMBA]}
    config = tmp_path / "config.py"
    changes = "".join(
        f"{key} = {value!r}\n"
        for key, value in {
            "custom_imports": {"imports": ["stall"]},
            "custom_hooks": [{"type": "StallHook"}],
            "val_dataloader": None,
            "val_evaluator": None,
            "val_cfg": None,
            "param_scheduler": [],
            "default_hooks": {"checkpoint": {**options["default_hooks.checkpoint"], "_delete_": True}},
        }.items()
    )
    config.write_text(f"_base_ = {str(shipped_config(UMAMBA))!r}\n{changes}")
    given = [
        f"{key}={value}" for key, value in options.items() if not isinstance(value, dict | list) and value is not None
    ]
    paths = map(str, (ROOT / "tools/train.py", config, "--work-dir", tmp_path / "run"))
    command = [sys.executable, *paths, "--cfg-options", *given]
    with (tmp_path / "stderr").open("wb") as told:
        run = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=told)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run/stalled").exists():
            assert run.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert (tmp_path / "run/last_checkpoint").read_text() == "iter_3.pth"
    train(shipped_config(UMAMBA), work_dir=tmp_path / "run", resume=True, options=options)
    train(shipped_config(UMAMBA), work_dir=tmp_path / "whole", options=options)
    assert_equal_weights(tmp_path / "whole/iter_4.pth", tmp_path / "run/iter_4.pth")


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [VMUNET, UMAMBA])
def test_training_in_half_precision_has_finite_losses_and_weights(name: str, dtype: str, tmp_path: Path) -> None:
    options = {**STEPS, **NETWORKS[name], "optim_wrapper.dtype": dtype, "train_cfg.max_epochs": 1}
    options["optim_wrapper.loss_scale"] = 256.0  # the first gradients are too large for the usual 65536
    runner = train(shipped_config(name), work_dir=tmp_path, amp=True, options=options)
    assert runner.optim_wrapper.dtype == getattr(torch, dtype)
    assert torch.tensor(logged(tmp_path, "loss")).isfinite().all()
    assert all(
        x.isfinite().all() for x in torch.load(tmp_path / "iter_2.pth", weights_only=True)["state_dict"].values()
    )
    assert moved(tmp_path / "iter_1.pth", tmp_path / "iter_2.pth") > 0.9
    if dtype == "float16":
        assert runner.optim_wrapper.scaler.get_scale() == 256  # no step was left out


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_umamba_learns_in_half_precision(dtype: str, tmp_path: Path) -> None:
    options = {**STEPS, **NETWORKS[UMAMBA], "train_cfg.max_epochs": 1, "optim_wrapper.dtype": dtype}
    options["train_dataloader.num_batch_per_epoch"] = 30
    runner = train(shipped_config(UMAMBA), work_dir=tmp_path, amp=True, options=options)
    losses = torch.tensor(logged(tmp_path, "loss"))
    assert losses.isfinite().all()
    assert losses[-5:].mean() < losses[:5].mean() - 0.3
    if dtype == "float16":
        assert 1 <= runner.optim_wrapper.scaler.get_scale() < 2.0**16
