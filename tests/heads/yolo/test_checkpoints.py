"""Weights of Mamba-YOLO are read from state dicts and from modules that were pickled whole, without their classes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, recorded_case
from visionssm.checkpoints import CheckpointError, read_checkpoint
from visionssm.heads.yolo import create_yolo


@pytest.fixture(scope="module")
def case() -> Case:
    return recorded_case("mambayolo", "mambayolo_t_grad")


@pytest.fixture
def foreign() -> Iterator[type[nn.Module]]:
    """A class as a file of another package names it; the package is not there once the file is written."""
    yield from _class_of("ultralytics.nn.tasks")


def _class_of(place: str) -> Iterator[type[nn.Module]]:
    parents = [place.rsplit(".", n)[0] for n in range(place.count(".") + 1)]
    kind = type("DetectionModel", (nn.Module,), {"__module__": place})
    for name in parents:
        sys.modules[name] = ModuleType(name)
    sys.modules[place].DetectionModel = kind  # type: ignore[attr-defined]
    yield kind
    for name in parents:
        sys.modules.pop(name, None)


def as_modules(state: Mapping[str, Tensor], kind: type[nn.Module]) -> nn.Module:
    """A tree of modules with this state dict."""
    root = kind()
    for name, value in state.items():
        *path, last = name.split(".")
        place: Any = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, kind())
            place = place._modules[part]
        if value.is_floating_point() and "running" not in last:
            place.register_parameter(last, nn.Parameter(value))
        else:
            place.register_buffer(last, value)
    root.register_buffer("scratch", torch.ones(3), persistent=False)
    return root


def _forget(place: str) -> None:
    for name in [x for x in sys.modules if x.split(".")[0] == place]:
        del sys.modules[name]


def test_moving_average_in_a_pickled_module_is_loaded(case: Case, foreign: type[nn.Module], tmp_path: Path) -> None:
    weights = case.state_dict()
    raw = as_modules({name: value * 0 for name, value in weights.items()}, foreign)
    file = tmp_path / "best.pt"
    torch.save({"epoch": 3, "model": raw, "ema": as_modules(weights, foreign).half(), "optimizer": None}, file)
    torch.save({"model": as_modules(weights, foreign), "ema": None}, tmp_path / "raw.pt")
    _forget("ultralytics")
    expected = visionssm.load_official(create_yolo("mambayolo_t"), weights).state_dict()
    averaged = visionssm.load_official(create_yolo("mambayolo_t"), file).state_dict()
    without = visionssm.load_official(create_yolo("mambayolo_t"), tmp_path / "raw.pt").state_dict()
    for name, value in expected.items():
        assert torch.equal(averaged[name], value.half().to(value.dtype)), name
        assert torch.equal(without[name], value), name


@pytest.mark.parametrize("place", ["elsewhere.nn", "ultralytics_plus.nn", "torch.hub"])
def test_class_of_another_package_is_refused_and_named(tmp_path: Path, place: str) -> None:
    if place == "torch.hub":
        kind = type("DetectionModel", (nn.Module,), {"__module__": place})
        torch.hub.DetectionModel = kind  # type: ignore[attr-defined]
        torch.save({"model": kind()}, tmp_path / "model.pt")
        del torch.hub.DetectionModel  # type: ignore[attr-defined]
    else:
        for kind in _class_of(place):
            torch.save({"model": kind()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=rf"refused: it refers to {place}\.DetectionModel"):
        read_checkpoint(tmp_path / "model.pt")


def test_backbone_takes_its_part_of_a_detectors_file(case: Case) -> None:
    detector = visionssm.load_official(create_yolo("mambayolo_t"), case.state_dict())
    for source in (case.state_dict(), detector.state_dict()):
        maps = visionssm.load_official(timm.create_model("mambayolo_t", features_only=True), source)
        assert maps.feature_info.reduction() == [8, 16, 32]
        for name, value in maps.model.state_dict().items():
            assert torch.equal(value, detector.backbone.state_dict()[name]), name


def test_own_layout_passes_unchanged_and_other_bins_are_refused(case: Case) -> None:
    model = create_yolo("mambayolo_nano", 3)
    again = visionssm.load_official(create_yolo("mambayolo_nano", 3), model.state_dict()).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    state = case.state_dict()
    state["model.21.dfl.conv.weight"] = torch.arange(16.0).view(1, 16, 1, 1) + 1
    with pytest.raises(CheckpointError, match="must hold the distances 0, 1, 2"):
        visionssm.load_official(create_yolo("mambayolo_t"), state)


def test_file_of_another_size_is_refused(case: Case) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        visionssm.load_official(create_yolo("mambayolo_b"), case.state_dict())
