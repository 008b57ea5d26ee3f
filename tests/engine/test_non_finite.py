"""Training stops at a loss that is not finite, before it reaches the weights, and says where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from tests.engine.tiny import write_config
from visionssm.cli.launch import prepare
from visionssm.engine.checkpoint import load_checkpoint
from visionssm.engine.errors import NonFiniteError
from visionssm.engine.runner import VisionRunner


class Spoil(Hook):
    """Does something harmful before the fourth step."""

    def __init__(self, harm) -> None:
        self.harm = harm

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if runner.iter == 3:
            self.harm(runner, data_batch)


def run_spoiled(folder: Path, harm) -> VisionRunner:
    options = {"default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 1, "by_epoch": False}}
    runner = VisionRunner.from_cfg(prepare(write_config(folder), work_dir=folder, options=options))
    runner.register_hook(Spoil(harm))
    runner.train()
    return runner


def test_broken_parameter_is_named_with_the_step(tmp_path: Path) -> None:
    name = "model.classifier.head.weight"

    def harm(runner, batch) -> None:
        parameters = dict(runner.model.named_parameters())
        found = name if name in parameters else list(parameters)[-2]
        with torch.no_grad():
            parameters[found].view(-1)[0] = float("nan")
        harm.found = found

    with pytest.raises(NonFiniteError, match=r"nan at step 4 .*already made parameter '") as error:
        run_spoiled(tmp_path, harm)
    assert repr(harm.found) in str(error.value)


def test_bad_batch_is_blamed_on_the_gradients_and_leaves_weights_and_checkpoint_finite(tmp_path: Path) -> None:
    def harm(runner, batch) -> None:
        batch["inputs"][0, 0, 0, 0] = float("inf")

    with pytest.raises(
        NonFiniteError, match=r"at step 4 .*All parameters are finite; the gradient of parameter 'model\."
    ):
        run_spoiled(tmp_path, harm)
    weights = load_checkpoint(tmp_path / "iter_3.pth")["state_dict"]
    assert all(torch.isfinite(x).all() for x in weights.values())
    assert not (tmp_path / "iter_4.pth").exists()


def test_checkpoint_with_a_broken_parameter_is_never_written(tmp_path: Path) -> None:
    class Break(Hook):
        priority = "LOW"  # after the step, before the checkpoint

        def after_train_iter(self, runner, **_) -> None:
            if runner.iter == 3:
                next(runner.model.parameters()).data.view(-1)[0] = float("inf")

    options = {"default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 1, "by_epoch": False}}
    runner = VisionRunner.from_cfg(prepare(write_config(tmp_path), work_dir=tmp_path, options=options))
    runner.register_hook(Break())
    with pytest.raises(NonFiniteError, match=r"is not finite after step 4; iter_4.pth is not saved"):
        runner.train()
    assert (tmp_path / "last_checkpoint").read_text() == "iter_3.pth"
