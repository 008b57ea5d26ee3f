"""Weights to start from, at an http address."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.registry import DATASETS

from tests.engine.tiny import write_config
from visionssm.checkpoints import CheckpointError, sealed
from visionssm.cli.launch import evaluate, train
from visionssm.data.digits import DigitsDataset
from visionssm.engine.checkpoint import give_new_head, load_checkpoint
from visionssm.engine.errors import USER_ERRORS


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a server of the folder `served`; downloads go to a cache of their own."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    handler = functools.partial(_Files, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _run(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    options = {"train_cfg.max_epochs": 1, "train_dataloader.num_batch_per_epoch": 1, "randomness.seed": seed}
    train(write_config(folder), work_dir=folder, options=options)
    return folder / "epoch_1.pth"


def test_weights_of_an_address_are_started_from_and_two_files_of_one_name_are_two(address: str, tmp_path: Path) -> None:
    sources = [_run(tmp_path / "served" / name, seed) for name, seed in (("one", 1), ("two", 2))]
    loaded = []
    for number, source in enumerate(sources):
        folder = tmp_path / f"started{number}"
        folder.mkdir()
        url = f"{address}/{source.parent.name}/{source.name}"
        options = {"load_from": url, "optim_wrapper.optimizer.lr": 0.0, "custom_hooks": []}
        runner = train(write_config(folder), work_dir=folder, options=options)
        wanted = torch.load(source, weights_only=True)["state_dict"]
        loaded.append(dict(runner.model.state_dict()))
        different = [key for key, value in wanted.items() if not torch.equal(value, loaded[-1][key])]
        assert not different, "without a learning rate, the weights are those that were loaded"
    assert any(not torch.equal(loaded[0][key], loaded[1][key]) for key in loaded[0])
    assert len(list((tmp_path / "cache" / "hub" / "checkpoints").glob("*epoch_1.pth"))) == 2


def test_wrong_addresses_and_contents_are_told(address: str, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "served" / "page.pth").write_text("<html>not found</html>")
    for name, message in (("missing.pth", "404"), ("page.pth", "is not the published checkpoint|not a checkpoint")):
        with pytest.raises(USER_ERRORS, match=message) as caught:
            train(config, work_dir=tmp_path, options={"load_from": f"{address}/{name}"})
        assert name in str(caught.value)
    assert not list((tmp_path / "cache" / "hub" / "checkpoints").glob("*.pth"))


def test_files_of_another_model_are_refused(address: str, tmp_path: Path) -> None:
    _run(tmp_path / "served" / "run", 1)
    options = {"model.name": "vssd_nano_test", "load_from": f"{address}/run/epoch_1.pth"}
    with pytest.raises(CheckpointError, match=r"vmamba_nano_test.*vssd_nano_test"):
        train(write_config(tmp_path), work_dir=tmp_path, options=options)
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "tiny.py", tmp_path / "nothing.pth")


def test_checkpoint_of_other_classes_gives_all_but_the_head(tmp_path: Path) -> None:
    source = _run(tmp_path / "source", 1)
    folder = tmp_path / "started"
    folder.mkdir()
    names = [f"kind {number}" for number in range(3)]
    three = "val_dataloader['dataset'].update(type='FewDigits'); train_dataloader['dataset'].update(type='FewDigits')\n"
    options = {"model.num_classes": 3, "load_from": str(source), "optim_wrapper.optimizer.lr": 0.0}
    options |= {"train_cfg.max_epochs": 1, "train_dataloader.num_batch_per_epoch": 1}
    runner = train(write_config(folder, three), work_dir=folder, options=options)
    wanted, state = torch.load(source, weights_only=True)["state_dict"], runner.model.state_dict()
    different = {
        key for key, value in wanted.items() if value.shape != state[key].shape or not torch.equal(value, state[key])
    }
    assert different == {"model.head.fc.weight", "model.head.fc.bias"}
    assert state["model.head.fc.weight"].shape[0] == 3
    assert load_checkpoint(folder / "epoch_1.pth")["meta"]["visionssm"]["classes"] == names
    (log,) = folder.glob("*/*.log")
    assert "has 10 classes, this run 3: the head is new, untrained: model.head.fc.weight, model.head.fc.bias" in (
        log.read_text()
    )
    del options["load_from"]
    with pytest.raises(CheckpointError, match=r"num_classes is 10, the config's 3"):
        train(write_config(folder, three), work_dir=folder, resume=str(source), options=options)
    with pytest.raises(CheckpointError, match=r"num_classes is 10, the config's 3"):
        evaluate(write_config(folder, three), source, options={"model.num_classes": 3})


@DATASETS.register_module()
class FewDigits(DigitsDataset):
    """Digits told apart by their remainder of 3."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return sample | {"labels": sample["labels"] % 3}

    @property
    def metainfo(self) -> dict[str, Any]:
        return super().metainfo | {"classes": [f"kind {number}" for number in range(3)]}


def test_all_layers_are_loaded_from_a_checkpoint_that_names_no_classes() -> None:
    model = torch.nn.Linear(8, 11)
    state = {"weight": torch.zeros(1, 8), "bias": torch.zeros(1)}
    checkpoint: dict[str, Any] = {"meta": {"visionssm": {}}, "state_dict": state}
    assert give_new_head(checkpoint, model, [str(x) for x in range(10)]) == []
    assert checkpoint["state_dict"] == state


@pytest.mark.parametrize(
    ("theirs", "ours", "new"),
    [
        (
            {"cls": (81, 4), "box": (320, 4), "body": (9, 9)},
            {"cls": (4, 4), "box": (12, 4), "body": (9, 9)},
            ["cls", "box"],
        ),
        ({"cls": (80, 4), "body": (9, 9)}, {"cls": (3, 4), "body": (8, 9)}, ["cls"]),
        ({"cls": (80, 4)}, {"cls": (3, 5)}, []),
        ({"cls": (80, 4)}, {"cls": (7, 4)}, []),
    ],
)
def test_layers_stay_new_only_where_their_sizes_follow_the_class_count(
    theirs: dict[str, tuple[int, int]], ours: dict[str, tuple[int, int]], new: list[str]
) -> None:
    model = torch.nn.Module()
    for key, shape in ours.items():
        model.register_buffer(key, torch.ones(shape))
    state = {key: torch.zeros(shape) for key, shape in theirs.items()}
    about = {"model": {"num_classes": 80}, "classes": [str(x) for x in range(80)]}
    checkpoint: dict[str, Any] = {"meta": {"visionssm": about}, "state_dict": state}
    assert give_new_head(checkpoint, model, ["a", "b", "c"]) == new
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(value, getattr(model, key) if key in new else state[key])


def test_best_weights_lie_beside_the_checkpoint_in_the_layout_of_timm(tmp_path: Path) -> None:
    options = {"train_cfg.max_epochs": 1, "train_dataloader.num_batch_per_epoch": 1}
    options |= {"default_hooks.checkpoint": {"type": "SafeCheckpointHook", "save_best": "top1"}}
    train(write_config(tmp_path), work_dir=tmp_path, options=options)
    best = load_checkpoint(tmp_path / "best.pth")
    path = tmp_path / "best.safetensors"
    model = timm.create_model("vmamba_nano_test", checkpoint_path=str(path), num_classes=10, in_chans=1)
    for key, value in model.state_dict().items():
        assert torch.equal(value, best["state_dict"]["model." + key])
    again = load_checkpoint(path)
    assert again["state_dict"].keys() == best["state_dict"].keys()
    assert again["meta"]["visionssm"]["classes"] == best["meta"]["visionssm"]["classes"]
    metadata = sealed.read_metadata(path)
    assert (metadata["architecture"], metadata["num_classes"]) == ("vmamba_nano_test", "10")
    assert evaluate(tmp_path / "tiny.py", path, work_dir=tmp_path / "a")["top1"] == pytest.approx(
        evaluate(tmp_path / "tiny.py", tmp_path / "best.pth", work_dir=tmp_path / "b")["top1"]
    )
