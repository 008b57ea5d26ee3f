"""The published sizes of every family: how many parameters they have, and which of them a class builds by itself."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import visionssm

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
