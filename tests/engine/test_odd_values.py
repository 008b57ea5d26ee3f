"""Wrong values in a configuration, whatever they are, end in an error that names where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import write_config
from visionssm.cli.launch import train
from visionssm.data.errors import DatasetError
from visionssm.engine.building import building
from visionssm.engine.config import load_config
from visionssm.engine.errors import ConfigError
from visionssm.engine.runner import VisionRunner
from visionssm.tasks.classification.data import check_transform, usable_transform


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model", None, "model must be a dict"),
        ("model", 5, "model must be a dict"),
        ("model.name", 5, "model cannot be built"),
        ("model.label_smoothing", 2, "model.label_smoothing must be a number from 0"),
        ("model.drop_path_rate", 2, "model.drop_path_rate must be a number from 0"),
        ("model.drop_rate", "abc", "model.drop_rate must be a number from 0"),
        ("train_cfg", None, "train_cfg: None, but train_dataloader and optim_wrapper: given"),
        ("optim_wrapper", None, "optim_wrapper: None, but"),
        ("val_dataloader", None, "val_dataloader: None, but"),
        ("val_evaluator", None, "val_evaluator: None, but"),
        ("train_dataloader.dataset", None, "train_dataloader.dataset must be a dict"),
        ("train_dataloader.dataset.type", None, "dataset.type=None is not registered"),
        ("train_dataloader.collate_fn", None, "a data loader cannot be built"),
        ("optim_wrapper.optimizer", None, "optim_wrapper cannot be built"),
        ("optim_wrapper.optimizer.lr", "abc", "optim_wrapper cannot be built"),
        ("optim_wrapper.optimizer.lr", -1, "optim_wrapper cannot be built.*-1"),
        ("optim_wrapper.clip_grad.max_norm", "abc", "optim_wrapper cannot be built.*abc"),
        ("optim_wrapper.clip_grad", {"max_norms": 1.0}, "optim_wrapper cannot be built.*max_norm"),
        ("optim_wrapper.constructor", "Foo", "optim_wrapper cannot be built.*Foo"),
        ("custom_hooks.0.momentum", 5, "custom_hooks .* cannot be built.*momentum"),
        ("default_hooks.checkpoint.interval", "abc", "cannot be built"),
        ("default_hooks.logger.interval", 0, "cannot be built.*interval"),
        ("randomness.seed", -1, "randomness.seed must be a whole number"),
        ("randomness.seed", "abc", "randomness.seed must be a whole number"),
        ("env_cfg.cpu_threads", -3, "cannot be built.*positive"),
        ("log_level", "FOO", "cannot be built.*FOO"),
        ("load_from", 5, "load_from must be a path.*./NAME"),
        ("resume", "epoch_1.pth", "resume must be True or False.*--resume PATH"),
        ("auto_scale_lr", {"base_batch_size": 0, "enable": True}, "auto_scale_lr cannot be built"),
        ("param_scheduler.0.eta_min_ratio", "abc", r"param_scheduler.* eta_min_ratio must be a number, got 'abc'"),
        ("val_evaluator.keep", "abc", "val_evaluator cannot be built.* keep must be a number, got 'abc'"),
        ("optim_wrapper.optimizer.lr", "fast", "optim_wrapper cannot.* optimizer.lr must be a number, got 'fast'"),
        ("optim_wrapper.optimizer.weight_decay", "abc", " optimizer.weight_decay must be a number, got 'abc'"),
        ("model.num_classes", "ten", "model.num_classes must be a whole number, got 'ten'"),
        ("model.in_chans", "3 or so", "model.in_chans must be a whole number, got '3 or so'"),
        ("custom_imports", {"imports": ["nowhere"]}, "custom_imports=… would have no effect"),
    ],
)
def test_wrong_value_is_told_with_its_place(
    option: str, value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionRunner, "stop_if_asked", lambda _: pytest.fail("a step was done"))
    with pytest.raises(ConfigError, match=message):
        train(write_config(tmp_path), work_dir=tmp_path, options={option: value})


@pytest.mark.parametrize("section", ["env_cfg", "randomness"])
def test_sections_that_have_defaults_may_be_none(section: str, tmp_path: Path) -> None:
    cfg = load_config(write_config(tmp_path), {section: None})
    cfg.work_dir = str(tmp_path)
    assert isinstance(VisionRunner.from_cfg(cfg).seed, int)


def test_the_innermost_section_names_itself_and_what_users_can_mend_is_told_as_it_is() -> None:
    told = "inner cannot be built from the config: KeyError: 'x'"
    with pytest.raises(ConfigError, match=told), building("outer"), building("inner"):
        raise KeyError("x")
    with pytest.raises(DatasetError, match="no data"), building("outer"):
        raise DatasetError("no data")
    with pytest.raises(KeyboardInterrupt), building("outer"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "transform",
    [
        {"input_size": 0},
        {"input_size": "abc"},
        {"scale": 5},
        {"interpolation": "foo"},
        {"auto_augment": "foo"},
        {"mean": [1, 2]},
        {"std": 0},
    ],
)
def test_transforms_that_cannot_be_used_are_told_when_they_are_made(transform: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match="transform cannot be used"):
        usable_transform(transform, training=True)


@pytest.mark.parametrize(("key", "value"), [("hflip", 7), ("vflip", -1), ("re_prob", "abc"), ("grayscale_prob", 1.5)])
def test_probabilities_of_a_transform_are_at_most_1(key: str, value: Any) -> None:
    with pytest.raises(DatasetError, match=f"{key} of the data set's transform is a probability"):
        check_transform({key: value})


def test_a_transform_is_a_dict() -> None:
    with pytest.raises(DatasetError, match="must be a dict, got 5"):
        check_transform(5)  # type: ignore[arg-type]
