"""Our backbones are the authors': values, stage features and gradient norms of the recorded cases."""

from __future__ import annotations

import sys

import timm
import torch
from torch import Tensor

import visionssm
from tests.reference_cases import Case, Unset, check_gradients, every_case

TOLERANCE = 1e-4  # of outputs and stage maps, relative to the largest value
HEAVY = (
    "small|base|mambavision_tiny2?$|(vssd|spatialmamba)_(micro|tiny)$|msvmamba_(micro|tiny|v3_tiny)$|plstm_vis_[sb]$"
)
# The definition takes the steps of a scan one by one. Of a family it runs the lightest cases; the kernels run all.
HEAVY_ON_THE_DEFINITION = (
    "hrvmamba_(nano_grad|nano_plain|tiny|tiny_plain)$|groupmamba_tiny_grad$|v3_tiny_grad$|plstm_vis_t_"
    "|mambavision_tiny_odd$|plstm_ape_384$"
)
every_classifier = every_case("classifier", slow=HEAVY)


def model_name(case: Case) -> str:
    """The registered model that a case is of: its name, or what comes before `_grad`, a size and the like.

    Raises:
        ValueError: there is none.
    """
    name = case.data["name"]
    while not timm.is_model(name):
        if "_" not in name:
            wanted = case.data["name"]
            raise ValueError(f"{case.path} is of {wanted}, which is no model; tests.reference_cases has other kinds")
        name = name.rpartition("_")[0]
    return name


def load_case_model(case: Case) -> torch.nn.Module:
    """Our model of a case's name with the case's weights."""
    with Unset():
        model = timm.create_model(model_name(case), pretrained=False)
    visionssm.load_official(model, case.state_dict())
    return model.eval()


def recorded_maps(model: torch.nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the cases record of a model: its output and its stage maps."""
    features, stages = model.forward_intermediates(image)
    if hasattr(model, "forward_stages"):  # parallel resolutions: several maps a stage
        stages = [branch for stage in model.forward_stages(image) for branch in stage]
    return model.forward_head(features), stages


def _heads(model: torch.nn.Module, image: Tensor) -> dict[str, Tensor]:
    """What the cases of distilled models record beside: pooled features, and each head's answer."""
    pooled = model.forward_head(model.forward_features(image), pre_logits=True)
    heads = model.get_classifier()
    assert isinstance(heads, tuple)
    return {"pooled": pooled, **{name: head(pooled) for name, head in zip(("head", "dist_head"), heads, strict=True)}}


def _check(case: Case) -> None:
    model = load_case_model(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    output, stages = recorded_maps(model, case.image())
    outputs = {"output": output, **{f"stage{i}": stage for i, stage in enumerate(stages)}}
    if "pre_logits" in case.data["outputs"]:
        outputs["pre_logits"] = model.forward_head(model.forward_features(case.image()), pre_logits=True)
    elif case.data["outputs"].keys() - outputs:
        outputs |= _heads(model, case.image())
    assert outputs.keys() == case.data["outputs"].keys()
    for name, actual in outputs.items():
        assert case.relative_error(name, actual) <= TOLERANCE, name
    if "grad_norms" not in case.data:
        return
    check_gradients(case, model, sys.modules[type(model).__module__].checkpoint_filter_fn)


@every_classifier
def test_backbone_equals_authors_on_the_cpu_kernels(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data):
        _check(case)


@every_case("classifier", slow=f"{HEAVY}|{HEAVY_ON_THE_DEFINITION}")
def test_backbone_equals_authors_on_the_definition(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data), visionssm.use_backend("reference"):
        _check(case)
