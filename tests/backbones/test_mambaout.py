"""MambaOut is timm's own: its registered models load the official files and our functions take them as any other."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import visionssm
from tests.backbones.test_reference_cases import model_name
from tests.reference_cases import Case, find_cases, recorded_case

CASES = [case for case in find_cases("classifier") if case.path.parent.name == "mambaout"]


def _official(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.randn(shape) for key, shape in recorded_case("mambaout", name).data["state"].items()}


def test_no_second_implementation_is_registered() -> None:
    assert not visionssm.list_models("mambaout*")
    assert timm.create_model("mambaout_femto").__class__.__module__ == "timm.models.mambaout"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_hidden_widths_are_those_of_the_recorded_variants(case: Case) -> None:
    with torch.device("meta"):
        model = timm.create_model(model_name(case))
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    depths = [len(stage.blocks) for stage in model.stages]
    assert depths == list(case.meta["init"]["depths"])


def test_official_widths_are_rounded_down() -> None:
    with torch.device("meta"):
        model = timm.create_model("mambaout_base")
    hidden = [stage.blocks[0].fc2.in_features for stage in model.stages]
    assert hidden == [341, 682, 1365, 2048]  # ⌊8/3·C⌋


@pytest.mark.parametrize("wrapper", [None, "model"])
def test_official_norms_of_the_head_keep_apart(wrapper: str | None) -> None:
    state = _official("mambaout_femto")
    source: dict[str, Any] = {wrapper: state} if wrapper else state
    model = visionssm.load_official(timm.create_model("mambaout_femto"), source)
    torch.testing.assert_close(model.head.norm.weight, state["norm.weight"])
    torch.testing.assert_close(model.head.pre_logits.norm.weight, state["head.norm.weight"])
    torch.testing.assert_close(model.head.fc.weight, state["head.fc2.weight"])


def test_incomplete_and_foreign_files_are_refused() -> None:
    state = _official("mambaout_femto")
    del state["stages.0.0.conv.weight"]
    with pytest.raises(ValueError, match=r"stages\.0\.blocks\.0\.conv\.weight"):
        visionssm.load_official(timm.create_model("mambaout_femto"), state)
    with pytest.raises(ValueError, match="mambaout_femto"):
        visionssm.load_official(timm.create_model("mambaout_kobe"), _official("mambaout_femto"))


def test_it_works_as_a_feature_extractor_beside_ours() -> None:
    maps = timm.create_model("test_mambaout", features_only=True)(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape[-2:]) for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)] or [
        tuple(x.shape[1:3]) for x in maps
    ] == [(16, 24), (8, 12), (4, 6), (2, 3)]
