"""Processes that load data: killed, they are told in a sentence; signals that are for the training pass them by."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image

from tests.children import ROOT, environment
from tests.engine.tiny import write_config
from visionssm.cli.launch import train
from visionssm.cli.train import main
from visionssm.engine.checkpoint import LAST
from visionssm.engine.errors import LoaderError
from visionssm.engine.workers import naming_lost_workers

WORKERS = "_one = dict(num_workers=1, persistent_workers=True)\ntrain_dataloader |= _one\nval_dataloader |= _one\n"


@HOOKS.register_module()
class KillLoaderHook(Hook):
    """Kill the newest process of this one, before a step or an iteration of a validation."""

    def __init__(self, mode: str, number: int = signal.SIGKILL) -> None:
        self.mode = mode
        self.number = number

    def _before_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        if mode == self.mode and batch_idx == 1:
            children = multiprocessing.active_children()
            os.kill(max(child.pid or 0 for child in children), self.number)
            time.sleep(0.5)


@pytest.mark.parametrize("mode", ["train", "val"])
def test_a_killed_loader_process_is_one_sentence(mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = f"custom_hooks.append(dict(type='KillLoaderHook', mode='{mode}'))\n"
    small = ["--cfg-options", "val_dataloader.batch_size=20"]
    assert main([str(write_config(tmp_path, WORKERS + more)), "--work-dir", str(tmp_path), *small]) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "data-loading process " in told
    assert "was killed, as by the system when memory runs out" in told
    assert "train_dataloader.num_workers=0" in told


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "process 12, 13 was killed"),
        ("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible", "no shared memory left.*--shm"),
        ("DataLoader worker (pid 12) is killed by signal: Segmentation fault. ", "12 ended by Segmentation fault;.*=0"),
        ("DataLoader worker (pid 12) exited unexpectedly with exit code 3. Details", "12 ended with status 3;.*=0"),
    ],
)
def test_what_ended_a_loader_process_is_told(message: str, told: str) -> None:
    with pytest.raises(LoaderError, match=told), naming_lost_workers():
        raise RuntimeError(message)


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), naming_lost_workers():
        raise RuntimeError("size mismatch")


def test_what_users_can_mend_comes_from_loader_processes_without_a_traceback(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(8):
                Image.new("L", (16, 16)).save(tmp_path / part / name / f"{number}.png")
    (tmp_path / "train/a/3.png").write_bytes(b"no image")
    more = (
        "train_dataloader |= dict(batch_size=16, num_batch_per_epoch=None)\nmodel['num_classes'] = 2\n"
        "_images = dict(input_size=(1, 16, 16), mean=(0.5,), std=(0.5,))\n"
        f"_data = dict(type='TimmDataset', root={str(tmp_path)!r}, corrupt='raise', transform=_images)\n"
        "train_dataloader['dataset'] = dict(split='train', **_data)\n"
        "val_dataloader['dataset'] = dict(split='val', **_data)\n"
    )
    with pytest.raises(ValueError, match=r"^image 'a/3\.png' cannot be read.*in the data set's config$"):
        train(write_config(tmp_path, WORKERS + more), work_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "status", "place", "saved"),
    [
        pytest.param(signal.SIGINT, 130, "before_train_iter", "iter_4.pth", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "before_train_iter", "iter_4.pth", marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "before_val_iter", "epoch_1.pth"),
    ],
)
def test_a_signal_to_the_whole_process_group_ends_the_run_with_a_checkpoint(
    number: int, status: int, place: str, saved: str, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class SlowHook(Hook):\n"
        f"    def {place}(self, runner, batch_idx, data_batch=None):\n"
        "        there = pathlib.Path(runner.work_dir, 'there')\n"
        "        if runner.iter in (3, 5) and not there.exists():\n"
        "            there.touch()\n"
        "            while not there.with_name('sent').exists():\n"
        "                time.sleep(0.02)\n"
    )
    more = WORKERS + "custom_imports = dict(imports=['slow'])\ncustom_hooks.append(dict(type='SlowHook'))\n"
    work = tmp_path / "run"
    command = [sys.executable, ROOT / "tools/train.py", write_config(tmp_path, more), "--work-dir", work]
    with (tmp_path / "err").open("wb") as err:
        run = subprocess.Popen(
            command, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=err, start_new_session=True
        )
    deadline = time.monotonic() + 300
    while not (work / "there").exists():
        assert run.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(run.pid, number)
    (work / "sent").touch()
    assert run.wait(timeout=300) == status, (tmp_path / "err").read_text()
    told = (tmp_path / "err").read_text()
    assert "Traceback" not in told
    assert told.rstrip().endswith(f"{saved}; go on with --resume")
    assert (work / LAST).read_text() == saved
    with pytest.raises(ProcessLookupError):  # nothing of it is left
        os.killpg(run.pid, 0)
