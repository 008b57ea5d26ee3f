"""The recorded cases of VM-UNet and of the networks in its shape: outputs, stage maps and gradient norms."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import visionssm
from tests.reference_cases import Case, gradient_norms, relative_gradient_error
from visionssm.heads.medical.vmunet import VMUNet


def taps(model: VMUNet, image: Tensor) -> dict[str, Tensor]:
    """Everything that the cases record of a network, NCHW: the stem, all stages, the map before the last layer."""
    maps: list[Tensor] = []
    modules = [model.patch_embed, *model.encoder, *model.decoder, model.final_up]
    hooks = [module.register_forward_hook(lambda _module, _args, y: maps.append(y)) for module in modules]
    logits = model(image)
    for hook in hooks:
        hook.remove()
    answer = logits.sigmoid() if model.num_classes == 1 else logits
    return {
        "output": answer,
        "logits": logits,
        **{f"stage{i}": level.permute(0, 3, 1, 2) for i, level in enumerate(maps)},
    }


def case_model(case: Case, name: str, dtype: torch.dtype) -> VMUNet:
    """Our model with the case's weights, with as many parameters as the authors'."""
    channels = case.data["input"]["shape"][1]
    model = visionssm.create_segmenter(name, in_chans=channels)
    assert isinstance(model, VMUNet)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    return visionssm.load_official(model, case.state_dict()).eval().to(dtype)


def check_outputs(case: Case, found: dict[str, Tensor], suffix: str, tolerance: float) -> None:
    """Every recorded output with the suffix is as recorded, relative to its largest value."""
    names = {name for name in case.data["outputs"] if name.endswith("_f64") == (suffix == "_f64")}
    assert names
    assert names <= {name + suffix for name in found}
    for name in sorted(names):
        error = case.relative_error(name, found[name.removesuffix(suffix)])
        assert error <= tolerance, f"{name}: off by {error:.1e}"


def check_gradient_norms(case: Case, model: VMUNet, output: Tensor, recorded: str, tolerance: float) -> None:
    """Gradients of the case's scalar have the recorded norms."""
    (output * case.cotangent(output)).sum().backward()
    key_map = sys.modules[type(model).__module__].checkpoint_filter_fn
    norms = gradient_norms(case, model, key_map, recorded)
    assert norms
    errors = {name: relative_gradient_error(*pair) for name, pair in norms.items()}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= tolerance, f"{worst}: {norms[worst]}"
