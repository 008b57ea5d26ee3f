"""What a checkpoint says of itself runs nothing, fetches nothing, and builds nothing larger than its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import visionssm  # noqa: F401  registers the models
from visionssm.backbones.convs5 import create_convs5
from visionssm.checkpoints import CheckpointError
from visionssm.engine.description import at_most, check_model, is_plain
from visionssm.heads.detectors import torchvision_detector
from visionssm.heads.segmentors import segmentation_model
from visionssm.pointcloud.variants import create_detector
from visionssm.prediction import load_predictor

NAME = "vmamba_nano_test"
DETECTOR = {"architecture": "FasterRCNN", "name": NAME, "num_classes": 2, "channels": 8, "size": [32, 32]}
SEGMENTOR = {"name": NAME, "num_classes": 3, "channels": 8, "head": "fcn"}
LION = {"name": "lion_mamba_nano", "changes": {"dim": 8, "backbone": {"group_sizes": [32, 32]}}}
CONVS5 = {"name": "convs5_nano", "widths": [8, 8], "dim": 8, "states": 8, "depth": 1}


def _network(task: str) -> tuple[nn.Module, dict[str, Any]]:
    networks = {
        "classification": lambda: (timm.create_model(NAME, num_classes=3), {"name": NAME, "num_classes": 3}),
        "detection": lambda: (torchvision_detector(**DETECTOR), DETECTOR),  # type: ignore[arg-type]
        "segmentation": lambda: (segmentation_model(**SEGMENTOR), SEGMENTOR),  # type: ignore[arg-type]
        "pointcloud": lambda: (create_detector("lion_mamba_nano", **LION["changes"]), LION),  # type: ignore[arg-type]
        "video": lambda: (create_convs5(**CONVS5), CONVS5),
    }
    return networks[task]()


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    return {task: _network(task) for task in ("classification", "detection", "pointcloud", "segmentation", "video")}


def write(folder: Path, network: nn.Module, about: dict[str, Any]) -> Path:
    """A checkpoint of training with this description."""
    weights = {f"model.{key}": x for key, x in network.state_dict().items()}
    torch.save({"meta": {"visionssm": about}, "state_dict": weights}, folder / "file.pth")
    return folder / "file.pth"


@pytest.mark.parametrize("task", ["classification", "detection", "pointcloud", "segmentation", "video"])
def test_honest_description_gives_the_network_with_its_weights(
    task: str, networks: dict[str, tuple[nn.Module, dict[str, Any]]], tmp_path: Path
) -> None:
    network, model = networks[task]
    predictor = load_predictor(write(tmp_path, network, {"task": task, "model": model, "context": 3}))
    (inner,) = [x for x in predictor.model.modules() if type(x) is type(network)]
    assert all(torch.equal(x, inner.state_dict()[key]) for key, x in network.state_dict().items())
    assert not predictor.model.training


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_published_weights_are_not_looked_for(
    task: str, networks: dict[str, tuple[nn.Module, dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *args, **kwargs: asked.append(args))
    timm.create_model(NAME, pretrained=True)
    assert len(asked) == 1
    network, model = networks[task]
    load_predictor(write(tmp_path, network, {"task": task, "model": model}))
    assert len(asked) == 1


@pytest.mark.parametrize("task", ["classification", "detection", "pointcloud", "segmentation", "video"])
@pytest.mark.parametrize(
    "field, value",
    [
        ("data_preprocessor", {"type": "os.system", "command": "touch PWNED"}),
        ("init_cfg", {"type": "os.system", "command": "touch PWNED"}),
        ("pretrained", True),
        ("pretrained_cfg_overlay", {"url": "http://127.0.0.1:9/x", "cache_dir": "PWNED"}),
        ("pretrained_cfg", {"file": "/etc/passwd"}),
        ("checkpoint_path", "PWNED"),
        ("cache_dir", "PWNED"),
        ("features_only", True),
        ("name", "hf-hub:somebody/something"),
        ("name", "local-dir:/tmp"),
        ("name", 3),
        ("name", None),
    ],
)
def test_fields_that_run_fetch_or_read_are_refused_by_name(
    task: str,
    field: str,
    value: Any,
    networks: dict[str, tuple[nn.Module, dict[str, Any]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    network, model = networks[task]
    path = write(tmp_path, network, {"task": task, "model": {**model, field: value}, "context": 3})
    with pytest.raises(CheckpointError, match=field if field != "name" else "model|variant"):
        load_predictor(path)
    if task in ("detection", "segmentation") and field != "name":
        path = write(tmp_path, network, {"task": task, "model": {**model, "backbone": {field: value}}})
        with pytest.raises(CheckpointError, match=field):
            load_predictor(path)
    assert os.listdir(tmp_path) == ["file.pth"]


@pytest.mark.parametrize(
    "task, changes",
    [
        ("classification", {"num_classes": 10**7}),
        ("classification", {"depths": [10**6] * 4}),
        ("detection", {"channels": 2**20}),
        ("pointcloud", {"changes": {"dim": 2**14}}),
        ("pointcloud", {"changes": {**LION["changes"], "bev": {"layers": [10**5, 10**5]}}}),  # type: ignore[dict-item]
        ("segmentation", {"num_classes": 2**22}),
        ("video", {"dim": 2**16}),
        ("video", {"depth": 10**6}),
        ("video", {"states": 2**14}),
    ],
)
def test_nothing_is_built_that_is_larger_than_the_weights(
    task: str, changes: dict[str, Any], networks: dict[str, tuple[nn.Module, dict[str, Any]]], tmp_path: Path
) -> None:
    network, model = networks[task]
    path = write(tmp_path, network, {"task": task, "model": {**model, **changes}, "context": 3})
    with pytest.raises(CheckpointError, match=r"larger than its weights|cannot be built|number of states"):
        load_predictor(path)


def test_building_stops_at_the_first_parameter_beyond_the_limit() -> None:
    with pytest.raises(CheckpointError, match="larger than its weights"), at_most(100):
        nn.Linear(10, 10), nn.Linear(10, 10)
    with at_most(110):
        nn.Linear(10, 10)
    nn.Linear(1000, 1000)  # the limit has gone with its block


@pytest.mark.parametrize(
    "value, plain",
    [
        ([1, 2.5, "x", None, True, {"a": (1,)}], True),
        (float("nan"), False),
        (float("inf"), False),
        (10**9, False),
        ("x" * 1000, False),
        ([[[[[[1]]]]]], False),
        ([0] * 5000, False),
        ({1.5: 2}, False),
        (torch.ones(1), False),
    ],
)
def test_plain_values_are_small_nests_of_numbers_and_texts(value: Any, plain: bool) -> None:
    assert is_plain(value) is plain


def test_arguments_of_the_models_own_class_are_allowed() -> None:
    check_model(NAME, {"num_classes": 5, "in_chans": 1, "drop_rate": 0.1, "drop_path_rate": 0.2})
    check_model("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "global_pool": "avg"})
    with pytest.raises(CheckpointError, match=r"pretrained_cfg.*vit_tiny"):
        check_model("vit_tiny_patch16_224", {"pretrained_cfg": {}})


@pytest.mark.parametrize("about", [[], "text", 5])
def test_description_that_is_no_dictionary_is_refused(about: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load_predictor(write(tmp_path, nn.Linear(1, 1), about))
