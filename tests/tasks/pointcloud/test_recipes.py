"""The published recipes: they fit their networks, and each takes a step at a reduced size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import CONFIGS
from tests.tasks.pointcloud.converted import converted
from visionssm.cli import train
from visionssm.engine.config import check_config, load_config
from visionssm.pointcloud.variants import VARIANTS
from visionssm.tasks.pointcloud.scenes import ScenesSpec, write_scenes

RECIPES = sorted(name for name in VARIANTS if not name.endswith("_nano"))
FOLDER = CONFIGS / "pointcloud"

PUBLISHED = {
    "kitti": (80, 0.01, 0.4, 10.0, 10.0),
    "waymo": (24, 0.05, 0.1, 100.0, 10.0),
    "nuscenes": (36, 0.05, 0.4, 10.0, 35.0),
    "argoverse2": (12, 0.05, 0.1, 100.0, 10.0),
    "once": (80, 0.01, 0.4, 10.0, 35.0),
}
"""Epochs, weight decay, share of the rise, highest rate over the first, largest gradient."""


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_published_settings_and_fit_their_networks(name: str) -> None:
    cfg = load_config(FOLDER / f"{name}.py")
    check_config(cfg)
    variant = VARIANTS[name]
    assert cfg.model.name == name
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert tuple(loader.dataset.point_range) == tuple(variant["point_range"])
        classes = loader.dataset.get("classes", ("Car", "Pedestrian", "Cyclist"))
        assert tuple(classes) == tuple(variant["classes"])
    assert set(cfg.train_dataloader.dataset.get("pasting", {"counts": {}})["counts"]) <= set(variant["classes"])
    wrapper, cycle = cfg.optim_wrapper, cfg.param_scheduler
    told = (cycle.end, wrapper.optimizer.weight_decay, cycle.pct_start, cycle.div_factor, wrapper.clip_grad.max_norm)
    assert told == PUBLISHED[name.rsplit("_", 1)[1]]
    assert (wrapper.optimizer.lr, wrapper.optimizer.betas) == (3e-3, (0.95, 0.99))


def reduced(name: str) -> dict[str, Any]:
    """Changes to a network that keep its parts and are quick."""
    low, high = VARIANTS[name]["point_range"][:3], VARIANTS[name]["point_range"][3:]
    size = [(b - a) / cells for a, b, cells in zip(low, high, (32, 32, 8), strict=True)]
    small = {"windows": ((5, 5, 8), (5, 5, 4)), "group_sizes": (64, 32)}
    changes: dict[str, Any] = {"dim": 16, "voxel_size": size, "backbone": small}
    if VARIANTS[name]["bev"]:
        levels = len(VARIANTS[name]["bev"]["layers"])
        changes["bev"] = {"layers": (1,) * levels, "channels": (8,) * levels, "up_channels": (8,) * levels}
    return changes


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_take_a_step_at_a_reduced_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = name.rsplit("_", 1)[1]
    monkeypatch.setenv("VISIONSSM_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "set"
    if source == "kitti":
        write_scenes(root, ScenesSpec(train=3, val=1, test=1, columns=100))
    else:
        converted(root, source)
    monkeypatch.setenv(f"{source.upper()}_ROOT", str(root))
    lines = [f"_base_ = {str(FOLDER / f'{name}.py')!r}", f"model = dict(changes={reduced(name)!r})"]
    lines += [f"{part}_dataloader = dict(batch_size=1, num_workers=0)" for part in ("train", "val", "test")]
    (tmp_path / "config.py").write_text("\n".join(lines))
    work = tmp_path / "run"
    options = ["--cfg-options", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
    options += ["train_dataloader.num_batch_per_epoch=1"]
    assert train.main([str(tmp_path / "config.py"), "--work-dir", str(work), *options]) == 0
    state = torch.load(work / "epoch_1.pth", weights_only=True)
    weights = state["state_dict"]
    assert all(bool(x.isfinite().all()) for x in weights.values())
    decays = {group["weight_decay"] for group in state["optimizer"]["param_groups"]}
    expected = {PUBLISHED[source][1]}
    assert decays == (expected | {0.0} if "_mamba_" in name else expected)
