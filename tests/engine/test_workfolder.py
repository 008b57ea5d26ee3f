"""One training per work folder, and nothing of a former one is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.children import ROOT, environment
from tests.engine.tiny import assert_equal_weights, logged, write_config
from visionssm.cli.launch import train
from visionssm.engine.checkpoint import LAST, find_last_checkpoint
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.engine.workfolder import check_writable, locked, set_aside


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another training runs in"):
        train(write_config(tmp_path), work_dir=tmp_path)
    with locked(tmp_path):  # it was given back
        pass


def test_a_new_run_leaves_the_files_of_the_former_one_and_can_start_from_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("iter_63.pth", "best.pth", LAST, "learning_curves.png", "notes.txt"):
        (folder / name).write_text(name)
    aside, start = set_aside(folder, str(folder / "best.pth"))
    assert aside is not None
    assert sorted(path.name for path in aside.iterdir()) == ["best.pth", "iter_63.pth", LAST, "learning_curves.png"]
    assert (aside / "iter_63.pth").read_text() == "iter_63.pth"
    assert start == str(aside / "best.pth")
    assert (folder / "notes.txt").exists()
    assert set_aside(folder, "elsewhere.pth") == (None, "elsewhere.pth")
    (folder / "best.pth").touch()
    aside, start = set_aside(folder)
    assert aside is not None
    assert start is None


def test_a_work_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"nothing can be written into the work folder.*--work-dir"):
        check_writable(tmp_path / "file" / "run")


def test_a_full_disk_is_one_sentence_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"nothing can be written into the work folder.*No space left"):
        check_writable(tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    train(write_config(folder), work_dir=folder / "run")
    return folder / "run"


def test_without_the_name_of_the_last_checkpoint_the_newest_that_can_be_read_is_taken(
    trained: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(("epoch_1.pth", "epoch_2.pth")):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
        os.utime(tmp_path / name, (number, number))
    assert find_last_checkpoint(tmp_path) == tmp_path / "epoch_2.pth"
    (tmp_path / "epoch_2.pth").write_bytes(b"half")
    os.utime(tmp_path / "epoch_2.pth", (9, 9))
    assert find_last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"
    (tmp_path / "epoch_1.pth").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        train(write_config(tmp_path), work_dir=tmp_path, resume=True)


def test_resuming_says_what_the_checkpoint_overrides(trained: Path, tmp_path: Path) -> None:
    path = str(trained / "epoch_1.pth")
    options = {"optim_wrapper.optimizer.lr": 5e-4, "optim_wrapper.optimizer.weight_decay": 0.1}
    train(write_config(tmp_path), work_dir=tmp_path, resume=path, options=options)
    (log,) = tmp_path.glob("*/*.log")
    said = log.read_text()
    assert "the optimizer's initial_lr stays 0.001 as in the checkpoint, and does not become 0.0005" in said
    assert "weight_decay stays 0.05" in said


def test_resuming_refuses_other_schedules_and_another_moving_average(trained: Path, tmp_path: Path) -> None:
    path = str(trained / "epoch_1.pth")
    more = "param_scheduler += [dict(type='LinearLR', by_epoch=False, end=2)]\n"
    with pytest.raises(CheckpointError, match="run with 1 schedules in param_scheduler, this one has 2"):
        train(write_config(tmp_path, more), work_dir=tmp_path, resume=path)
    with pytest.raises(CheckpointError, match="without an EMAHook"):
        train(write_config(tmp_path, "custom_hooks = []\n"), work_dir=tmp_path, resume=path)


def test_the_rate_that_is_logged_is_the_one_that_is_used(tmp_path: Path) -> None:
    more = "auto_scale_lr = dict(base_batch_size=2048, enable=True)\nparam_scheduler = []\n"
    train(write_config(tmp_path, more), work_dir=tmp_path, options={"train_cfg.max_epochs": 1})
    rates = {*logged(tmp_path, "lr"), *logged(tmp_path, "base_lr")}
    assert sorted(rates) == [pytest.approx(1e-3 * 16 / 2048)]


def test_loaders_without_workers_may_have_the_settings_of_workers(tmp_path: Path) -> None:
    more = "train_dataloader |= dict(persistent_workers=True, prefetch_factor=4)\n"
    train(write_config(tmp_path, more), work_dir=tmp_path, options={"train_cfg.max_epochs": 1})
    assert (tmp_path / "epoch_1.pth").exists()


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_the_run_after_a_step_and_resuming_ends_as_if_it_had_not_come(
    number: int, status: int, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "from mmengine.hooks import Hook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class SlowHook(Hook):\n"
        "    def before_train_iter(self, runner, **_):\n"
        "        if runner.iter == 3:\n"
        "            pathlib.Path(runner.work_dir, 'there').touch()\n"
        "            while not pathlib.Path(runner.work_dir, 'sent').exists():\n"
        "                time.sleep(0.02)\n"
    )
    more = "custom_imports = dict(imports=['slow'])\ncustom_hooks.append(dict(type='SlowHook'))\n"
    work = tmp_path / "run"
    command = [sys.executable, ROOT / "tools/train.py", write_config(tmp_path, more), "--work-dir", work]
    with (tmp_path / "err").open("wb") as err:
        run = subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=err)
    deadline = time.monotonic() + 300
    while not (work / "there").exists():
        assert run.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(number)
    (work / "sent").touch()
    assert run.wait(timeout=300) == status
    assert "go on with --resume" in (tmp_path / "err").read_text()
    assert (work / LAST).read_text() == "iter_4.pth"
    train(write_config(tmp_path), work_dir=work, resume=True)
    assert_equal_weights(work / "epoch_2.pth", trained / "epoch_2.pth")
