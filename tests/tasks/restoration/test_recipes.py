"""The published recipes of restoration: each takes a step at a reduced size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm
from tests.configs import CONFIGS
from tests.engine.tiny import logged
from visionssm.cli import train
from visionssm.engine.config import load_config
from visionssm.heads.restoration import VARIANTS

FOLDER = CONFIGS / "restoration"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py") if "textures" not in path.name)
REDUCED = {"dim": 8, "depths": (1,), "d_state": 2}


def write_images(folder: Path, side: int) -> None:
    """Two images with edges in each folder that the recipes read."""
    for name in ("DIV2K", "DF2K", "DFWB", "Set5", "Urban100", "CBSD68", "LIVE1", "Classic5"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            blocks = np.random.default_rng(number).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(folder / name / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_take_a_step_at_a_reduced_size(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESTORATION_ROOT", str(tmp_path / "images"))
    cfg = load_config(FOLDER / f"{recipe}.py")
    patch, scale = 8, cfg.train_dataloader.dataset.degradation.get("scale", 1)
    write_images(tmp_path / "images", 8 * 3 * scale)
    start = cfg.model.get("body", cfg.model.get("pretrained"))
    if start:  # what the recipe before this one would have written
        other = cfg.model.name.replace("x3", "x2").replace("x4", "x2")
        Path(start).parent.mkdir(parents=True)
        torch.save(visionssm.create_restorer(other, **REDUCED).state_dict(), start)
    lines = [f"_base_ = {str(FOLDER / f'{recipe}.py')!r}", f"model = dict(changes={REDUCED!r})"]
    lines.append(f"train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(patch={patch}))")
    lines += [f"{part}_dataloader = dict(num_workers=0)" for part in ("val", "test")]
    (tmp_path / "config.py").write_text("\n".join(lines))
    work = tmp_path / "run"
    options = ["--cfg-options", "train_cfg.max_iters=1", "train_cfg.val_interval=1", "default_hooks.logger.interval=1"]
    assert train.main([str(tmp_path / "config.py"), "--work-dir", str(work), *options]) == 0
    state = torch.load(work / "iter_1.pth", weights_only=True)
    assert all(bool(x.isfinite().all()) for x in state["state_dict"].values())
    (group,) = state["optimizer"]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (cfg.optim_wrapper.optimizer.lr, 0.0)
    assert logged(work, "loss_pixels")[0] > 0
    assert logged(work, "psnr")[-1] > 5


def test_every_published_network_has_a_recipe_and_those_for_other_strengths_start_from_the_one_before() -> None:
    configs = {recipe: load_config(FOLDER / f"{recipe}.py").model for recipe in RECIPES}
    published = {name for name, variant in VARIANTS.items() if variant.parameters}
    assert {model.name for model in configs.values()} == published
    for recipe, model in configs.items():
        start = model.get("body", model.get("pretrained"))
        if start is None:
            assert recipe.endswith(("_15", "_40", "x2_div2k", "x2_df2k"))
            continue
        first = Path(start).parent.name
        assert first.startswith(recipe.split("_x")[0].rstrip("0123456789"))
        assert ("body" in model) == (configs[first].name != model.name)
