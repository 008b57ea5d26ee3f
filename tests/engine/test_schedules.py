"""Schedules follow the length of a training, or the mismatch is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from visionssm.cli.launch import prepare
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.engine.schedules import check_schedules, follow_length

ROOT = Path(__file__).parents[2]


def test_a_shorter_training_has_a_shorter_warm_up_and_comes_down_to_its_end() -> None:
    cfg = load_config(ROOT / "configs/vmamba_t_imagenet.py", {"train_cfg.max_epochs": 100})
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up["end"], cosine["begin"], cosine["end"]) == (7, 7, 100)


def test_a_training_of_one_epoch_has_no_warm_up() -> None:
    cfg = load_config(ROOT / "configs/vmamba_t_imagenet.py", {"train_cfg.max_epochs": 1})
    (cosine,) = cfg.param_scheduler
    assert (cosine["begin"], cosine["end"]) == (0, 1)


def test_schedules_that_are_given_stay_and_must_fit() -> None:
    options = {"train_cfg.max_epochs": 100, "param_scheduler.0.end": 5}
    cfg = prepare(ROOT / "configs/vmamba_t_imagenet.py", options=options)
    assert cfg.param_scheduler[1]["end"] == 300
    with pytest.raises(ConfigError, match=r"param_scheduler\[1\].*ends at epoch 300, the training at 100"):
        check_config(cfg)


def test_milestones_and_iterations_follow_their_own_length() -> None:
    cfg = {
        "train_cfg": {"max_iters": 50},
        "param_scheduler": [
            {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 10},
            {"type": "MultiStepLR", "by_epoch": False, "begin": 10, "end": 100, "milestones": [60, 80]},
            {"type": "LinearLR", "by_epoch": True, "begin": 0, "end": 3},
        ],
    }
    assert follow_length(cfg, {"max_iters": 100})
    assert cfg["param_scheduler"][0]["end"] == 5
    assert cfg["param_scheduler"][1] == {
        "type": "MultiStepLR", "by_epoch": False, "begin": 5, "end": 50, "milestones": [30, 40]
    }  # fmt: skip
    assert cfg["param_scheduler"][2]["end"] == 3


def test_a_schedule_that_ends_where_it_begins_is_named() -> None:
    cfg = {"param_scheduler": {"type": "CosineAnnealingLR", "begin": 4, "end": 4}}
    with pytest.raises(ConfigError, match=r"CosineAnnealingLR\) ends at epoch 4 but begins at 4"):
        check_schedules(cfg)


@pytest.mark.parametrize("value", [0, -1, 1.5, "two", True])
@pytest.mark.parametrize("key", ["train_cfg.max_epochs", "train_cfg.val_interval", "train_dataloader.batch_size"])
def test_a_length_that_is_no_count_is_named(key: str, value: object) -> None:
    cfg = prepare(ROOT / "configs/vmamba_nano_digits.py", options={key: value})
    with pytest.raises(ConfigError, match=rf"{key} must be a whole number, 1 or more, got"):
        check_config(cfg)


def test_a_negative_number_of_workers_is_named() -> None:
    cfg = prepare(ROOT / "configs/vmamba_nano_digits.py", options={"val_dataloader.num_workers": -1})
    with pytest.raises(ConfigError, match=r"val_dataloader\.num_workers must be a whole number, 0 or more, got -1"):
        check_config(cfg)
