"""Checkpoints are written whole or not at all, hold plain types, and say clearly what is wrong with them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.registry import HOOKS

from tests.engine.tiny import weights, write_config
from visionssm.cli.launch import train
from visionssm.engine.checkpoint import (
    LAST,
    find_last_checkpoint,
    load_checkpoint,
    load_strictly,
    save_checkpoint,
    write_atomically,
)
from visionssm.engine.errors import CheckpointError, CheckpointWriteError
from visionssm.engine.plain import restore_histories, to_plain
from visionssm.tasks.classification.network import build_classifier

resource = pytest.importorskip("resource", reason="limits on file sizes stand in for a full disk; POSIX only")
FULL = 1 << 20  # bytes of a file that is refused


def test_plain_state_survives_weights_only_loading(tmp_path: Path) -> None:
    buffer = HistoryBuffer([1.0, 2.5], [1, 2])
    state = {"a": (1, [2.0, None]), "b": np.float32(3), "c": np.arange(3), "hub": {"x": buffer}, 5: torch.ones(2)}
    save_checkpoint({"state_dict": {}, **state}, tmp_path / "x.pth")
    loaded = torch.load(tmp_path / "x.pth", weights_only=True)
    assert loaded["a"] == (1, [2.0, None])
    assert loaded["b"] == 3.0
    assert loaded["c"].tolist() == [0, 1, 2]
    restored = restore_histories(loaded["hub"])["x"]
    assert [x.tolist() for x in restored.data] == [x.tolist() for x in buffer.data]


def test_state_that_is_not_plain_is_refused_by_its_place() -> None:
    with pytest.raises(TypeError, match=r"checkpoint\.meta\.hook is a object"):
        to_plain({"meta": {"hook": object()}})


def test_failing_write_leaves_the_file_from_before_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"before")

    def fill_disk(file) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointWriteError, match=r"No space left.*untouched"):
        write_atomically(path, fill_disk)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda data: data[: len(data) // 2], "truncated|damaged|not"),
        (lambda data: b"", "empty"),
        (lambda data: b"hello there, no checkpoint", "not"),
        (lambda data: pickle.dumps({"state_dict": {"x": print}}), "."),
    ],
)
def test_damaged_or_foreign_file_is_refused(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "x.pth"
    save_checkpoint({"state_dict": {"x": torch.ones(1000)}}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        load_checkpoint(tmp_path / "nothing.pth")


def test_official_file_without_state_dict_is_told(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.ones(1)}}, tmp_path / "official.pth")
    with pytest.raises(CheckpointError, match="load_official"):
        load_checkpoint(tmp_path / "official.pth")


def test_checkpoint_of_another_task_is_no_classifier() -> None:
    with pytest.raises(CheckpointError, match="does not describe a classifier"):
        build_classifier({"meta": {}, "state_dict": {}})


def test_weights_that_do_not_fit_are_listed() -> None:
    model = torch.nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"1 missing.*bias.*1 not in.*gain.*1 of another shape.*weight"):
        load_strictly(model, {"weight": torch.ones(5, 2), "gain": torch.ones(1)}, "x.pth")


def test_last_checkpoint_is_found_after_the_folder_was_moved_and_after_a_kill(tmp_path: Path) -> None:
    assert find_last_checkpoint(tmp_path) is None
    (tmp_path / "epoch_3.pth").touch()
    (tmp_path / LAST).write_text("/old/place/epoch_3.pth")
    assert find_last_checkpoint(tmp_path) == tmp_path / "epoch_3.pth"
    (tmp_path / LAST).write_text("epoch_2.pth")
    assert find_last_checkpoint(tmp_path) == tmp_path / "epoch_3.pth"


@HOOKS.register_module()
class FullDiskHook(Hook):
    """Makes every file of over a megabyte one that the operating system refuses, from the second epoch on."""

    def before_train_epoch(self, runner: Any) -> None:
        if runner.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_full_disk_while_training_leaves_the_previous_checkpoint_usable(tmp_path: Path) -> None:
    """A limit on the size of files, set after the first checkpoint, makes the operating system refuse the second."""
    config = write_config(tmp_path, "custom_hooks.append(dict(type='FullDiskHook'))\n")
    options = {"default_hooks.checkpoint.max_keep_ckpts": 1, "train_dataloader.num_batch_per_epoch": 2}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointWriteError, match="cannot write"):
            train(config, work_dir=tmp_path, options=options)
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == FULL
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert find_last_checkpoint(tmp_path) == tmp_path / "epoch_1.pth"
    assert not list(tmp_path.glob(".*.tmp*"))
    runner = train(
        write_config(tmp_path), work_dir=tmp_path, resume=True, options={"train_dataloader.num_batch_per_epoch": 2}
    )
    assert runner.epoch == 2
    assert weights(tmp_path / "epoch_2.pth")


def test_old_checkpoints_go_only_as_many_as_configured(tmp_path: Path) -> None:
    options = {
        "train_cfg.max_epochs": 4,
        "train_dataloader.num_batch_per_epoch": 1,
        "default_hooks.checkpoint": {"type": "SafeCheckpointHook", "max_keep_ckpts": 2, "save_best": "top1"},
    }
    train(write_config(tmp_path), work_dir=tmp_path, options=options)
    assert sorted(path.name for path in tmp_path.glob("epoch_*.pth")) == ["epoch_3.pth", "epoch_4.pth"]
    best = load_checkpoint(tmp_path / "best.pth")
    assert "optimizer" not in best
    assert best["meta"]["metrics"]["top1"] >= 0
    with pytest.raises(CheckpointError, match="weights only"):
        train(write_config(tmp_path), work_dir=tmp_path, resume=str(tmp_path / "best.pth"), options=options)
