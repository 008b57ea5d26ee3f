"""Weights to start from, at an http address."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import write_config
from visionssm.checkpoints import CheckpointError
from visionssm.cli.launch import evaluate, train
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
