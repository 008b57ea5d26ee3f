"""Configs that ship with mmdet and mmseg are taken as they are; what nothing would read is refused or told."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmcv", reason="needs the openmmlab extra")

import tests.engine.every_task  # noqa: F401  registers all types
from visionssm.engine import top_level
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError, MissingExtraError
from visionssm.extras import extra_of

# First configs of their folders that cannot be built here, and why.
NEED_MMPRETRAIN = {
    "mmdet": {"convnext", "rtmdet", "timm_example"},  # their backbones are mmpretrain's
    "mmseg": {"convnext", "poolformer"},
}
FOLDERS = {"mmdet": 116, "mmseg": 53}
# One of every kind that was refused: helper variables, leftovers of the time before MMEngine, evaluators, loops.
KINDS = [
    "mmseg/ddrnet",
    "mmseg/beit",
    "mmseg/mobilenet_v3",
    "mmdet/guided_anchoring",
    "mmdet/glip",
    "mmdet/solov2",
    "mmdet/deepsort",
]


def folders(package: str) -> list[Path]:
    """Folders of configs in an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    place = Path(spec.origin).parent / ".mim" / "configs"
    return sorted(path for path in place.iterdir() if path.is_dir() and path.name != "_base_")


def first_config(folder: Path) -> Path:
    return min(folder.rglob("*.py"))


def check_swapped(path: Path) -> None:
    """Check a config in which every backbone is one of ours."""
    cfg = load_config(path)

    def swap(section: Any) -> None:
        for key, value in section.items():
            if key == "backbone":
                section[key] = dict(type="VisionSSM", name="vmamba_nano_test")
            elif isinstance(value, dict):
                swap(value)

    swap(cfg.get("model") or {})  # some are there to inherit from, without a model
    check_config(cfg)


@pytest.mark.parametrize("name", KINDS)
def test_shipped_config_of_every_kind_is_taken(name: str) -> None:
    package, folder = name.split("/")
    (path,) = [path for path in folders(package) if path.name == folder]
    check_swapped(first_config(path))


@pytest.mark.slow
@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_first_config_of_every_folder_is_taken(package: str) -> None:
    refused: dict[str, str] = {}
    for folder in folders(package):
        try:
            check_swapped(first_config(folder))
        except (ConfigError, ImportError) as error:
            refused[folder.name] = str(error)
    assert refused.keys() == NEED_MMPRETRAIN[package]
    assert all("mmpretrain" in told for told in refused.values())
    assert len(folders(package)) == FOLDERS[package]


@pytest.mark.parametrize(
    ("base", "swapped"),
    [
        ("mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", "pretrained=None, "),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", ""),
    ],
)
def test_configs_inherit_from_installed_ones(base: str, swapped: str, tmp_path: Path) -> None:
    backbone = "dict(_delete_=True, type='VisionSSM', name='vmamba_nano_test')"
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = {base!r}\nmodel = dict({swapped}backbone={backbone})\n")
    cfg = load_config(path)
    check_config(cfg)
    assert cfg.model.backbone == dict(type="VisionSSM", name="vmamba_nano_test")
    assert cfg.default_scope == base.split("::")[0]
    assert cfg.train_cfg


def test_package_that_a_config_inherits_from_is_named_if_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("_base_ = 'mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py'\n")
    monkeypatch.setattr("mmengine.config.config.is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match=r"mmseg is not installed: pip install 'visionssm\[openmmlab\]'"):
        load_config(path)
    assert extra_of("mmseg") == "openmmlab"


def shipped(**changes: Any) -> Any:
    (folder,) = [path for path in folders("mmdet") if path.name == "retinanet"]
    cfg = load_config(folder / "retinanet_r50_fpn_1x_coco.py")
    cfg.merge_from_dict(changes)
    return cfg


@pytest.mark.parametrize(
    "key", ["trian_cfg", "modle", "optim_warpper", "custom_hook", "val_evaluators", "train_config"]
)
def test_misspelt_keys_among_helper_variables_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key '{key}' at the top level"):
        check_config(shipped(**{key: {}}))


@pytest.mark.parametrize(
    ("key", "successor"),
    [("optimizer", "optim_wrapper"), ("lr_config", "param_scheduler"), ("data", "train_dataloader")],
)
def test_keys_of_old_are_refused_without_successor_and_told_beside_it(
    key: str, successor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(top_level, "print_log", lambda message, logger, level: told.append((message, level)))
    check_config(shipped(**{key: {"type": "x", "lr": 7}}))
    assert told == [(f"nothing reads '{key}' at the top level of the config: '{successor}' counts", logging.WARNING)]
    cfg = shipped(**{key: {"type": "x"}})
    cfg[successor] = None
    with pytest.raises(ConfigError, match=rf"'{key}' .* before MMEngine, and nothing reads it: give '{successor}'"):
        check_config(cfg)


def test_the_helper_that_the_optimizer_was_made_of_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_level, "print_log", lambda *_: pytest.fail("told"))
    cfg = shipped()
    cfg.optimizer = cfg.optim_wrapper.optimizer
    check_config(cfg)


def test_options_for_helper_variables_are_refused_with_the_values_made_of_them() -> None:
    (folder,) = [path for path in folders("mmdet") if path.name == "retinanet"]
    with pytest.raises(ConfigError, match=r"data_root=… would have no effect.*train_dataloader\.dataset\.data_root"):
        load_config(folder / "retinanet_r50_fpn_1x_coco.py", {"data_root": "/elsewhere"})


def test_loops_that_contradict_their_type_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train_cfg\.by_epoch=False, but its type is EpochBasedTrainLoop"):
        check_config(shipped(**{"train_cfg.by_epoch": False}))
