"""Our backbones are the authors': values, stage features and gradient norms of the recorded cases."""

from __future__ import annotations

import re
import sys

import pytest
import timm
import torch
from torch import Tensor

import visionssm
from tests.reference_cases import Case, check_gradients, find_cases

FAMILIES = (
    "efficientvmamba", "groupmamba", "hrvmamba", "mambaout", "msvmamba", "plstm", "spatialmamba", "vmamba", "vssd",
)  # fmt: skip
TOLERANCE = 1e-4  # of outputs and stage maps, relative to the largest value
# no classifiers: the tests of their families read them
SPECIAL = re.compile(
    "^dcnv4_|_distill_loss|_pose|_seg|_backbone$|^plstm_(op4?|layer|block|vision_block)_|^arrow_pointing$"
)
LARGE = re.compile(
    "small|base|(vssd|spatialmamba)_(micro|tiny)$|msvmamba_(micro|tiny|v3_tiny)$|plstm_vis_[sb]$"
)  # a minute each: with -m slow


def _parameters() -> list:
    cases = [case for family in FAMILIES for case in find_cases(family) if not SPECIAL.search(case.path.stem)]
    return [
        pytest.param(case, id=case.path.stem, marks=[pytest.mark.slow] if LARGE.search(case.path.stem) else [])
        for case in cases
    ]


def load_case_model(case: Case) -> torch.nn.Module:
    """Our model of a case's name with the case's weights."""
    name = re.sub("(_odd)?_grad$|_fusion$|_(192|384)$", "", case.data["name"])
    model = timm.create_model(name, pretrained=False)
    visionssm.load_official(model, case.state_dict())
    return model.eval()


def recorded_maps(model: torch.nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the cases record of a model: its output and its stage maps."""
    features, stages = model.forward_intermediates(image)
    if hasattr(model, "forward_stages"):  # parallel resolutions: several maps a stage
        stages = [branch for stage in model.forward_stages(image) for branch in stage]
    return model.forward_head(features), stages


def _check(case: Case) -> None:
    model = load_case_model(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    output, stages = recorded_maps(model, case.image())
    assert case.relative_error("output", output) <= TOLERANCE
    for i, stage in enumerate(stages):
        assert case.relative_error(f"stage{i}", stage) <= TOLERANCE, f"stage {i}"
    if "grad_norms" not in case.data:
        return
    check_gradients(case, model, sys.modules[type(model).__module__].checkpoint_filter_fn)


@pytest.mark.parametrize("case", _parameters())
def test_backbone_equals_authors_on_the_cpu_kernels(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data):
        _check(case)


@pytest.mark.parametrize("case", _parameters())
def test_backbone_equals_authors_on_the_definition(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data), visionssm.use_backend("reference"):
        _check(case)
