"""Our backbones are the authors': values, stage features and gradient norms of the recorded cases."""

from __future__ import annotations

import re
import sys

import pytest
import timm
import torch

import visionssm
from tests.reference_cases import Case, find_cases, gradient_norm_errors

TOLERANCE = {"vmamba": 1e-4}
LARGE = re.compile("small|base")  # a minute each: with -m slow


def _parameters() -> list:
    cases = [(family, case) for family in TOLERANCE for case in find_cases(family)]
    return [
        pytest.param(family, case, id=case.path.stem, marks=[pytest.mark.slow] if LARGE.search(case.path.stem) else [])
        for family, case in cases
    ]


def _model(case: Case) -> torch.nn.Module:
    name = case.data["name"].removesuffix("_grad")
    model = timm.create_model(name, pretrained=False)
    visionssm.load_official(model, case.state_dict())
    return model.eval()


def _check(case: Case, tolerance: float) -> None:
    model = _model(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    image = case.image()
    features, stages = model.forward_intermediates(image)
    output = model.forward_head(features)
    assert case.relative_error("output", output) <= tolerance
    for i, stage in enumerate(stages):
        assert case.relative_error(f"stage{i}", stage) <= tolerance, f"stage {i}"
    if "grad_norms" not in case.data:
        return
    (output * case.cotangent(output)).sum().backward()
    filter_fn = sys.modules[type(model).__module__].checkpoint_filter_fn
    errors = gradient_norm_errors(case, model, filter_fn)
    assert errors
    for name, (actual, expected) in errors.items():
        assert actual == pytest.approx(expected, rel=tolerance, abs=tolerance * 1e-2), name


@pytest.mark.parametrize("family,case", _parameters())
def test_backbone_equals_authors_on_the_cpu_kernels(family: str, case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data):
        _check(case, TOLERANCE[family])


@pytest.mark.parametrize("family,case", _parameters())
def test_backbone_equals_authors_on_the_definition(family: str, case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data), visionssm.use_backend("reference"):
        _check(case, TOLERANCE[family])
