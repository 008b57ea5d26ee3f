"""Published recipes: every config is known to the engine, and its network is the published one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch.optim import AdamW

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm
from tests.configs import CONFIGS
from visionssm.engine.config import check_config, check_data, load_config
from visionssm.engine.errors import DatasetError
from visionssm.heads.medical.registry import PUBLISHED
from visionssm.tasks.medical.losses import loss_named
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.medical.transforms import build_transforms

RECIPES = sorted(path for path in (CONFIGS / "medical").glob("*.py") if "mni152" not in path.name)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_is_complete_and_asks_for_its_data(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    with pytest.raises(DatasetError, match="data set not found: looked for"):
        check_data(cfg)
    assert PUBLISHED[cfg.model.name].parameters or "umamba" in path.stem
    assert callable(loss_named(cfg.model.loss))
    assert build_transforms(cfg.train_dataloader.dataset.transforms) is not None
    for loader in (cfg.val_dataloader, cfg.test_dataloader):  # as the network is trained
        assert loader.dataset.prepare == cfg.train_dataloader.dataset.prepare
    Preparation(**cfg.train_dataloader.dataset.prepare)
    assert cfg.val_dataloader.dataset != cfg.test_dataloader.dataset  # nothing is chosen by the test set
    assert cfg.model.name in visionssm.list_segmenters()


@pytest.mark.parametrize(("name", "period"), [("vmunet_isic", 50), ("vmunet_synapse", 100)])
def test_learning_rate_goes_down_and_up_again_without_a_restart(name: str, period: int) -> None:
    from mmengine.registry import PARAM_SCHEDULERS
    from torch import nn

    cfg = load_config(CONFIGS / f"medical/{name}.py")
    optimizer = AdamW(nn.Linear(1, 1).parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    (schedule,) = cfg.param_scheduler
    scheduler = PARAM_SCHEDULERS.build({**schedule, "optimizer": optimizer})
    for epoch in range(cfg.train_cfg.max_epochs):
        expected = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / period)) / 2
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
        optimizer.step()
        scheduler.step()
