"""The report at the end of training: it is of the best weights, and of the data that the config names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.configs import shipped_config
from tests.engine.tiny import logged, write_config
from visionssm.cli.launch import evaluate, train
from visionssm.engine.errors import ConfigError

TEST = """
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
default_hooks["checkpoint"]["save_best"] = "top1"
custom_hooks.append(dict(type="FinalTestHook", datasets=dict(same=dict(), more=dict(val_fraction=0.2))))
"""


def test_report_is_of_the_best_weights_on_each_of_the_data_sets(tmp_path: Path) -> None:
    config = write_config(tmp_path, TEST)
    runner = train(config, work_dir=tmp_path)
    report = json.loads((tmp_path / "final_test.json").read_text())
    assert report["same"]["top1"] == pytest.approx(max(logged(tmp_path, "top1")))
    separately = evaluate(config, tmp_path / "best.pth", options={"test_dataloader.dataset.val_fraction": 0.2})
    assert report["more"] == pytest.approx(separately)
    assert report["more"]["nll"] != report["same"]["nll"]
    raw = torch.load(tmp_path / "epoch_2.pth", weights_only=True)["ema_state_dict"]  # while training, beside their mean
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, raw[f"module.{key}"]), key
    (log,) = tmp_path.glob("*/*.log")
    assert "final test of the best weights, more: top1" in log.read_text()


def test_missing_test_data_are_told_before_the_training(tmp_path: Path) -> None:
    more = 'custom_hooks.append(dict(type="FinalTestHook", datasets=dict(same=dict())))\n'
    with pytest.raises(ConfigError, match="test_dataloader and test_evaluator"):
        train(write_config(tmp_path, more), work_dir=tmp_path)
    assert not list(tmp_path.glob("*.pth"))


def test_empty_datasets_are_refused(tmp_path: Path) -> None:
    more = 'custom_hooks.append(dict(type="FinalTestHook", datasets=dict()))\n'
    with pytest.raises(ConfigError, match="empty"):
        train(write_config(tmp_path, more), work_dir=tmp_path)


@pytest.mark.parametrize("name", ["plstm_arrow_pointing", "vit_arrow_pointing"])
def test_arrow_pointing_ends_with_the_extrapolation_accuracy(name: str, tmp_path: Path) -> None:
    options = {
        "train_cfg.max_epochs": 1,
        "train_dataloader.dataset.samples": 32,
        "val_dataloader.dataset.samples": 8,
        "test_dataloader.dataset.samples": 8,
        "param_scheduler": [],
        "model.model_kwargs.depth": 1,
    }
    train(shipped_config(name), work_dir=tmp_path, options=options)
    report = json.loads((tmp_path / "final_test.json").read_text())
    assert report.keys() == {"test", "extrapolation"}
    assert all(0 <= metrics["top1"] <= 100 for metrics in report.values())
