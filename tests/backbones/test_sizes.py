"""The published sizes of every family: how many parameters they have, and which of them a class builds by itself."""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import pkgutil
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import visionssm
import visionssm.layers

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
# | family | `name` | parameters: ours | published | …
COUNTED = dict(re.findall(r"(?m)^\|[^|]*\| `(\w+)` \| ([\d.]+M) \|", README))
NAMES = [name for name in visionssm.list_models() if not name.endswith("_nano_test")]
FAMILIES = sorted({name.split("_")[0] for name in NAMES})


@functools.cache
def build(name: str) -> nn.Module:
    """Without memory."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
        return model


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in model.state_dict().values()]


@pytest.mark.parametrize("name", [name for name in NAMES if name in COUNTED])
def test_published_size_has_the_parameters_of_the_model_table(name: str) -> None:
    assert f"{sum(x.numel() for x in build(name).parameters()) / 1e6:.2f}M" == COUNTED[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_class_without_arguments_is_a_published_size(family: str) -> None:
    sizes = [build(name) for name in NAMES if name.split("_")[0] == family]
    with torch.device("meta"):
        default = type(sizes[0])()
    assert shapes(default) in [shapes(model) for model in sizes]


@pytest.mark.parametrize("name", visionssm.list_models())
def test_pooled_map_is_as_large_as_the_model_makes_it(name: str) -> None:
    model, cfg = build(name), timm.get_pretrained_cfg(name)
    stride = model.feature_info[-1]["reduction"]
    grid = getattr(model, "grid_size", None) or tuple(side // stride for side in cfg.input_size[1:])
    assert cfg.pool_size == grid
    assert 0.8 <= cfg.crop_pct <= 1


@pytest.mark.parametrize("name", visionssm.list_models())
def test_default_image_is_square_and_of_whole_patches(name: str) -> None:
    _, height, width = timm.get_pretrained_cfg(name).input_size
    assert height == width
    assert height % build(name).feature_info[-1]["reduction"] == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("vim_", "plstm_"))])
def test_feature_maps_of_plain_models_are_four_at_even_distances(name: str) -> None:
    depth = len(build(name).feature_info)
    with torch.device("meta"):
        maps = timm.create_model(name, features_only=True)
    assert [*maps.feature_info.out_indices] == [math.ceil(depth * quarter / 4) - 1 for quarter in (1, 2, 3, 4)]


def test_nothing_is_dropped_unless_it_is_asked_for() -> None:
    found = 0
    for package in (visionssm.backbones, visionssm.layers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if issubclass(kind, nn.Module) and kind.__module__ == module.name:
                    given = {k: x.default for k, x in inspect.signature(kind).parameters.items() if "drop" in k}
                    defaults = {k: x for k, x in given.items() if x is not inspect.Parameter.empty}
                    assert all(x in (0, None) for x in defaults.values() if not callable(x)), (kind, defaults)
                    found += len(defaults)
    assert found > 10
