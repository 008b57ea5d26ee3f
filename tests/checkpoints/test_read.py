"""Reading of checkpoint files, without running code from them, and unwrapping."""

from __future__ import annotations

import collections
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.checkpoints.files import (
    RunsCode,
    authors_state,
    saved,
    write,
)
from visionssm.checkpoints import (
    CheckpointError,
    read_checkpoint,
    unwrap_state_dict,
)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_pytorch_files_of_both_formats_are_read(tmp_path: Path, options: dict[str, bool]) -> None:
    state = authors_state()
    read = read_checkpoint(write(tmp_path / "file.bin", saved({"model": state}, **options)))
    assert read["model"].keys() == state.keys()
    torch.testing.assert_close(read["model"], state)


def test_safetensors_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path / "weights.pth", safetensors.torch.save({"w": torch.arange(6.0)})))
    torch.testing.assert_close(read["w"], torch.arange(6.0))


def test_configuration_objects_of_missing_packages_do_not_hinder_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMamba's and Swin's trainers store a yacs CfgNode beside the weights."""

    class CfgNode(dict):  # type: ignore[type-arg]
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = CfgNode(MODEL=CfgNode(NAME="vssm"))
    config.__dict__["__immutable__"] = True
    numbers = {"accuracy": np.float32(82.6), "steps": np.int64(3), "curve": np.arange(3.0)}
    path = write(tmp_path / "file.pth", saved({"model": {"w": torch.ones(2)}, "config": config, **numbers}))
    monkeypatch.undo()
    read = read_checkpoint(path)
    assert type(read["config"]) is collections.OrderedDict
    assert read["config"]["MODEL"]["NAME"] == "vssm"
    assert read["accuracy"] == np.float32(82.6)
    np.testing.assert_array_equal(read["curve"], np.arange(3.0))


def test_checkpoint_of_an_mmengine_runner_is_read(tmp_path: Path) -> None:
    """Its message hub keeps training curves in objects of its own."""
    mmengine = pytest.importorskip("mmengine", reason="part of the train extra")
    hub = mmengine.logging.MessageHub.get_instance("test_checkpoints")
    hub.update_scalar("train/loss", 0.5)
    content = {"state_dict": {"w": torch.ones(2)}, "message_hub": hub.state_dict(), "meta": {"epoch": 1}}
    read = read_checkpoint(write(tmp_path / "epoch_1.pth", saved(content)))
    assert unwrap_state_dict(read).keys() == {"w"}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "proof"
    content = saved({"model": RunsCode(proof)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"wants to run code.*(posix|nt)\.mkdir"):
        read_checkpoint(write(tmp_path / "file.pth", content))
    assert not proof.exists()


GOOD = {"zip": saved({"w": torch.ones(4000)}), "safetensors": safetensors.torch.save({"w": torch.ones(4000)})}
GOOD["legacy"] = saved({"w": torch.ones(4000)}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("kind", sorted(GOOD))
@settings(deadline=None)
@given(share=st.floats(0, 0.999))
def test_every_truncation_is_an_error_of_ours(
    kind: str, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "file.pth"
    with pytest.raises(CheckpointError, match=r"empty|truncated|damaged|text"):
        read_checkpoint(write(path, GOOD[kind][: int(share * len(GOOD[kind]))]))


@settings(deadline=None)
@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(write(tmp_path_factory.mktemp("bytes") / "file.pth", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b'{"message": "Not Found"}', "text file"),
        (b"PK\x03\x04 not an archive", "truncated or damaged"),
    ],
)
def test_usual_impostors_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write(tmp_path / "file.pth", content))


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_checkpoint(tmp_path)


@settings(deadline=None)
@given(
    wrappers=st.lists(st.sampled_from(["model", "state_dict", "model_ema", "ema_model", "module"]), max_size=3),
    prefixes=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=3),
)
def test_wrappers_and_prefixes_are_removed_however_often(wrappers: list[str], prefixes: list[str]) -> None:
    state = {"stem.weight": torch.ones(1), "model.head.bias": torch.zeros(1)}
    wrapped: Any = {"".join(prefixes) + key: value for key, value in state.items()}
    for key in wrappers:
        wrapped = {"epoch": 3, "args": None, key: wrapped}
    assert unwrap_state_dict(wrapped) == state


def test_prefix_of_some_keys_only_is_a_name_and_stays() -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert unwrap_state_dict(state) == state


def test_counter_of_an_averaged_model_is_dropped_with_its_prefix() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 1))
    assert unwrap_state_dict(averaged.state_dict()).keys() == {"weight", "bias"}


def test_first_preferred_wrapper_wins() -> None:
    both = {"model_ema": {"w": torch.ones(1)}, "model": {"w": torch.zeros(1)}}
    assert unwrap_state_dict(both)["w"] == 0
    assert unwrap_state_dict(both, prefer=("model_ema", "model"))["w"] == 1


def test_unknown_wrapper_is_an_error_that_lists_the_keys() -> None:
    with pytest.raises(CheckpointError, match=r"epoch, weights.*`prefer`"):
        unwrap_state_dict({"epoch": 1, "weights": {"w": torch.ones(1)}})
    with pytest.raises(CheckpointError, match="holds a list"):
        unwrap_state_dict([torch.ones(1)])
