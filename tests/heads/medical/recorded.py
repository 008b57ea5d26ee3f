"""What the recorded cases of networks for medical images are compared with: maps at modules, and gradient norms."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.heads.medical.u_cases import check_outputs
from tests.reference_cases import Case, gradient_norms, relative_gradient_error

NOISE = 1e-4


def maps_of(model: nn.Module, modules: Mapping[str, nn.Module], image: Tensor) -> dict[str, Tensor]:
    """What the named modules give, and the logits of all resolutions: "output", "aux1", …

    Deep supervision wants the training mode, which nothing but stochastic depth tells from the other.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, y: Tensor) -> None:
            found[name] = y

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    logits = model.train()(image)
    for handle in hooks:
        handle.remove()
    levels = [logits] if isinstance(logits, Tensor) else logits
    return found | dict(zip(("output", "aux1", "aux2", "aux3"), levels, strict=False))


def check_case(
    case: Case,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    filter_fn: Any,
    *,
    dtype: torch.dtype,
    output_tolerance: float,
    gradient_tolerance: float,
    channels_last: str = "",
) -> None:
    """Parameters are as many as the authors'; maps, logits and gradient norms are as recorded.

    Args:
        case: with `n_params`.
        model: with the case's weights.
        modules: what gives the recorded maps, by their names.
        filter_fn: the network's `checkpoint_filter_fn`.
        dtype: float64 compares with what was recorded in float64.
        output_tolerance: relative to the largest value.
        gradient_tolerance: of a norm, relative to it.
        channels_last: pattern of the names of maps that are (B, H, W, C).
    """
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    suffix = "_f64" if dtype == torch.float64 else ""
    with torch.set_grad_enabled("grad_norms" in case.data):
        found = maps_of(model.to(dtype), modules, case.image().to(dtype))
    for name in found:
        if channels_last and re.match(channels_last, name):
            found[name] = found[name].permute(0, 3, 1, 2)
    check_outputs(case, found, suffix, output_tolerance)
    if "grad_norms" in case.data:
        y = found["output"]
        (y * case.cotangent(y)).sum().backward()
        norms = gradient_norms(case, model, filter_fn, f"grad_norms{suffix}")
        assert norms
        largest = max(norm for _, norm in norms.values())
        for name in [name for name in norms if case.data["grad_norms_f64"][name] < 1e-9]:  # of biases before a norm
            ours, theirs = norms.pop(name)
            assert max(ours, theirs) <= NOISE * largest, f"{name}: {ours}, and nothing but rounding is left of it"
        errors = {name: relative_gradient_error(*pair) for name, pair in norms.items()}
        worst = max(errors, key=errors.__getitem__)
        assert errors[worst] <= gradient_tolerance, f"{worst}: {norms[worst]}"
