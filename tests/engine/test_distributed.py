"""Two gloo processes on CPUs compute what one process with the doubled batch computes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import logged, weights, write_config
from visionssm.engine.launch import train

ROOT = Path(__file__).parents[2]


def run_on_two_processes(folder: Path, *arguments: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", str(ROOT / "tools/train.py"), str(folder / "tiny.py"), "--launcher", "pytorch"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    write_config(tmp_path)
    options = {"train_dataloader.num_batch_per_epoch": 3, "model.drop_path_rate": 0.0}
    texts = [f"{key}={value}" for key, value in options.items()]
    one, two = tmp_path / "one", tmp_path / "two"
    train(tmp_path / "tiny.py", work_dir=one, options={**options, "train_dataloader.batch_size": 32})
    run_on_two_processes(tmp_path, "--work-dir", str(two), "--cfg-options", *texts)

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
