"""EfficientViM is timm's own: pinned to what timm's code gave when it was taken up, and taken by our functions."""

from __future__ import annotations

import pytest
import timm
import torch

import visionssm
from tests.reference_cases import Case, every_case
from visionssm.heads.feature_maps import FeatureMaps

NAME = "efficientvim_m1"

pytestmark = pytest.mark.skipif(not timm.is_model(NAME), reason="EfficientViM came with timm 1.0.31")


def test_no_second_implementation_is_registered() -> None:
    assert not visionssm.list_models("efficientvim*")
    assert timm.create_model(NAME).__class__.__module__ == "timm.models.efficientvim"


@every_case("timm's EfficientViM")
def test_model_is_the_one_that_was_recorded(case: Case) -> None:
    model = visionssm.load_official(timm.create_model(case.data["name"]), case.state_dict()).eval()
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    with torch.no_grad():
        outputs = {"output": model(case.image())}
        maps = model.forward_intermediates(case.image(), intermediates_only=True)
    outputs |= {f"stage{i}": stage for i, stage in enumerate(maps)}
    assert outputs.keys() == case.data["outputs"].keys()
    for name, actual in outputs.items():
        assert case.relative_error(name, actual) <= 1e-4, name


def test_incomplete_file_is_refused() -> None:
    state = timm.create_model(NAME).state_dict()
    missing = next(key for key in state if key.startswith("stages.1"))
    del state[missing]
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        visionssm.load_official(timm.create_model(NAME), state)


def test_detectors_and_segmentors_get_its_three_maps() -> None:
    maps = FeatureMaps(NAME, out_indices=(0, 1, 2))
    assert maps.strides == (16, 32, 64)
    found = maps(torch.randn(1, 3, 128, 192))
    assert [tuple(x.shape[1:]) for x in found] == [(128, 8, 12), (192, 4, 6), (320, 2, 3)]


def test_maps_train_all_but_what_only_the_classifier_reads() -> None:
    maps = FeatureMaps(NAME, out_indices=(0, 1, 2))
    sum(x.square().sum() + x.sin().sum() for x in maps(torch.rand(2, 3, 128, 128))).backward()
    assert [name for name, p in maps.named_parameters() if p.grad is None] == ["model.weights"]
    assert not maps.model.weights.requires_grad  # so that replicas, hooks and shards do not wait for its gradient
