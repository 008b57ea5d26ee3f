"""Keys at the top level of a configuration: those that are read, helper variables, and mistakes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError

_RUNNER_KEYS = """
model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg test_cfg auto_scale_lr optim_wrapper
param_scheduler val_evaluator test_evaluator default_hooks custom_hooks data_preprocessor load_from resume launcher
env_cfg log_processor log_level visualizer default_scope randomness experiment_name cfg runner_type custom_imports
model_wrapper_cfg find_unused_parameters sync_bn compile activation_checkpointing efficient_conv_bn_eval
"""
RUNNER_KEYS = frozenset(_RUNNER_KEYS.split())
"""Top-level keys that mean something to the Runner."""

_SUCCESSORS = {
    "optimizer": "optim_wrapper",
    "optimizer_config": "optim_wrapper",
    "fp16": "optim_wrapper",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "runner": "train_cfg",
    "total_epochs": "train_cfg",
    "workflow": "train_cfg",
    "data": "train_dataloader",
    "evaluation": "val_evaluator",
    "checkpoint_config": "default_hooks",
    "log_config": "default_hooks",
    "resume_from": "load_from",
}
"""Keys of the time before MMEngine, which nothing reads any more, and those that took their places."""


def check_top_level(cfg: Mapping[str, Any], known: Collection[str], free: bool) -> None:
    """Refuse top-level keys that look as if they meant something and do not.

    Args:
        cfg: the configuration.
        known: keys that are read.
        free: helper variables may have any name, as in configs of mmdet and mmseg, but for those that look like a
            misspelt key, and for keys of the time before MMEngine that have no successor in the config; where they have
            one that says otherwise, the log says that it counts. Else helper variables start with an underscore.
    Raises:
        ConfigError: naming the key and the closest valid one.
    """
    for key in cfg:
        if key.startswith("_") or key in known:
            continue
        successor = _SUCCESSORS.get(key)
        if not free or (successor is None and _is_misspelt(key, known)):
            raise ConfigError(
                f"unknown key {key!r} at the top level of the config; closest: {closest(key, known)}. "
                "(Helper variables start with an underscore.)"
            )
        if successor is None:
            continue
        if cfg.get(successor) is None:
            raise ConfigError(
                f"{key!r} at the top level of the config is of the time before MMEngine, and nothing reads it: give "
                f"{successor!r} instead"
            )
        if key != "optimizer" or cfg[key] != cfg[successor].get("optimizer"):
            print_log(f"nothing reads {key!r} at the top level of the config: {successor!r} counts", "current", 30)


def check_parts(cfg: Mapping[str, Any]) -> None:
    """Refuse sections that are no sections, and parts of a training, validation or test without the others.

    Raises:
        ConfigError: naming the key, and what it must be.
    """
    if "model" in cfg and not isinstance(cfg["model"], Mapping):
        raise ConfigError(f"model must be a dict with a type, got {cfg['model']!r}")
    for together in _TOGETHER:
        missing = [key for key in together if cfg.get(key) is None]
        there = [key for key in together if key not in missing]
        if there and any(key in cfg for key in missing):
            raise ConfigError(
                f"{' and '.join(missing)}: None, but {' and '.join(there)}: given; give all of them or none"
            )
        loader = cfg.get(together[0])
        if isinstance(loader, Mapping) and "dataset" in loader and loader["dataset"] is None:
            raise ConfigError(f"{together[0]}.dataset must be a dict with a type, got None")
    if not isinstance(cfg.get("resume", False), bool):
        raise ConfigError(f"resume must be True or False, got {cfg['resume']!r}; a checkpoint: --resume PATH")
    if not isinstance(cfg.get("load_from"), (str, Path, type(None))):
        raise ConfigError(f"load_from must be a path, got {cfg['load_from']!r}; a name made of digits: ./NAME")
    seed = (cfg.get("randomness") or {}).get("seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 1 << 32):
        raise ConfigError(f"randomness.seed must be a whole number from 0 to 2³² − 1, got {seed!r}")


_TOGETHER = (
    ("train_dataloader", "train_cfg", "optim_wrapper"),
    ("val_dataloader", "val_cfg", "val_evaluator"),
    ("test_dataloader", "test_cfg", "test_evaluator"),
)


def check_options(options: Collection[str], cfg: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse options for helper variables: what was made of these when the file was read stays as it is.

    Args:
        options: dotted names.
        cfg: the configuration before they are merged into it.
        known: keys that are read.
    Raises:
        ConfigError: naming the values that the helper variable went into.
    """
    for option in options:
        key = option.split(".")[0]
        if key in _READ_WITH_THE_FILE:
            raise ConfigError(f"--cfg-options {option}=… would have no effect: {key!r} acts when the file is read")
        if key in cfg and key not in known:
            places = [place for place in _places(cfg[key], cfg, known) if place]
            told = f" (here: {', '.join(places[:4])})" if places else ""
            raise ConfigError(
                f"--cfg-options {option}=… would have no effect: {key!r} only helps to write the config. Give the "
                f"values that are made of it{told}"
            )


def _places(value: Any, cfg: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """Dotted names of the values that are equal to that of a helper variable."""
    found: list[str] = []

    def look(where: str, there: Any) -> None:
        if type(there) is type(value) and there == value:
            found.append(where)
        elif isinstance(there, Mapping):
            for key, item in there.items():
                look(f"{where}.{key}", item)
        elif isinstance(there, (list, tuple)):
            for number, item in enumerate(there):
                look(f"{where}.{number}", item)

    for key in cfg:
        if key in known:
            look(key, cfg[key])
    return found


def _is_misspelt(key: str, known: Collection[str]) -> bool:
    """Whether a key looks like one of the known ones; `val_evaluator_dice` is made of one on purpose."""
    likely = [name for name in known if not key.startswith(f"{name}_")]
    return any(sorted(key) == sorted(name) or SequenceMatcher(None, key, name).ratio() >= _ALIKE for name in likely)


_READ_WITH_THE_FILE = ("custom_imports", "_base_")

_ALIKE = 0.85
"""Closer to a known key is no helper variable of the configs that ship with mmdet and mmseg."""
