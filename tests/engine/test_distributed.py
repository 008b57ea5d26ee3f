"""Two gloo processes on CPUs compute what one process with the doubled batch computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.processes import run_on_two_processes
from tests.engine.tiny import logged, weights, write_config
from tests.forks import run_forked
from visionssm.cli.launch import train


def train_on_two_copies(config: Path, work_dir: Path, options: Mapping[str, Any]) -> None:
    def work(rank: int) -> None:
        train(config, work_dir=work_dir, launcher="pytorch", options=options)

    ended = run_forked(2, work, work_dir.parent / "said")
    assert [x.status for x in ended] == [0, 0], "".join(x.err[-3000:] for x in ended)


def train_under_torchrun(config: Path, work_dir: Path, options: Mapping[str, Any]) -> None:
    texts = [f"{key}={value}" for key, value in options.items()]
    run_on_two_processes(config, "--work-dir", str(work_dir), "--cfg-options", *texts)


@pytest.mark.parametrize(
    "train_on_two", [train_on_two_copies, pytest.param(train_under_torchrun, marks=pytest.mark.slow)]
)
def test_two_processes_equal_one_with_the_doubled_batch(train_on_two: Callable[..., None], tmp_path: Path) -> None:
    write_config(tmp_path)
    options = {"train_dataloader.num_batch_per_epoch": 3, "model.drop_path_rate": 0.0}
    one, two = tmp_path / "one", tmp_path / "two"
    train(tmp_path / "tiny.py", work_dir=one, options={**options, "train_dataloader.batch_size": 32})
    train_on_two(tmp_path / "tiny.py", two, options)

    losses = logged(one, "loss")
    assert len(losses) == 6
    assert logged(two, "loss") == pytest.approx(losses, abs=1e-4)
    assert logged(two, "top1") == pytest.approx(logged(one, "top1"), abs=3)  # of 90 images, two near a tie may change
    expected = weights(one / "epoch_2.pth")
    for key, value in weights(two / "epoch_2.pth").items():
        if key.startswith("state."):
            torch.testing.assert_close(
                value, expected[key], atol=1e-3, rtol=1e-2, msg=lambda text, k=key: f"{k}: {text}"
            )
    assert len(torch.load(two / "epoch_2.pth", weights_only=True)["random_states"]) == 2
