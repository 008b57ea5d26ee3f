"""PlainMamba equals the authors' code, and keeps what is particular to it: snakes, directions, vectors that stay."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, check_gradients, every_case
from visionssm.backbones import plainmamba

TOLERANCE = 1e-4


def _check(case: Case) -> None:
    model: Any = timm.create_model(re.sub("_grad$", "", case.data["name"]))
    visionssm.load_official(model, case.state_dict())
    model.eval()
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    patches = model.patch_embed(case.image())
    outputs = {"embed": patches.flatten(1, 2)}
    stream = model.begin(patches)
    for i, layer in enumerate(model.layers):
        stream = layer(stream)
        outputs[f"stage{i}"] = stream.flatten(1, 2)
    features = model.end(stream)
    outputs |= {"output": model.forward_head(features), "pre_logits": model.forward_head(features, pre_logits=True)}
    recorded = [name for name in case.data["outputs"] if not name.endswith("_f64")]
    assert len(recorded) == 8
    for name in recorded:
        assert case.relative_error(name, outputs[name]) <= TOLERANCE, name
    if "grad_norms" in case.data:
        check_gradients(case, model, plainmamba.checkpoint_filter_fn)


@every_case("PlainMamba", slow="l1$|l2|l3")
def test_plainmamba_equals_authors_on_the_cpu_kernels(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data):
        _check(case)


@every_case("PlainMamba", slow=".")
def test_plainmamba_equals_authors_on_the_definition(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data), visionssm.use_backend("reference"):
        _check(case)


@every_case("PlainMamba routes")
def test_snakes_and_their_moves_are_the_authors(case: Case) -> None:
    for size, recorded in case.data["grids"].items():
        height, width = map(int, size.split("x"))
        order = plainmamba.snakes(height, width).order
        assert order[:, 0].tolist() == [route["order"] for route in recorded], size
        assert plainmamba.moves(order, width)[:, 0].tolist() == [route["codes"] for route in recorded], size


def _nano(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("plainmamba_nano_test", **options).eval()


def _image(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def _scanned_by_hand(mixer: plainmamba.SnakeMixer, u: Tensor) -> Tensor:
    """The sum over the routes, step by step in float64: at step t, dt, B and C are those of token t."""
    weights = {name: value.detach().double() for name, value in mixer.state_dict().items()}
    pixels = u.double().flatten(1, 2)
    low, b, c = (pixels @ weights["x_proj.weight"].T).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    step = F.softplus(low @ weights["dt_proj.weight"].T + 2 * weights["dt_proj.bias"])
    a, total = -weights["A_logs"].exp(), torch.zeros_like(pixels)
    order = plainmamba.snakes(u.shape[1], u.shape[2]).order
    for tokens, kinds in zip(order[:, 0].tolist(), plainmamba.moves(order, u.shape[2])[:, 0].tolist(), strict=True):
        h = pixels.new_zeros(pixels.shape[0], pixels.shape[2], mixer.d_state)
        for t, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
            towards = b[:, t] + weights["direction_Bs"][kind]
            h = (step[:, t, :, None] * a).exp() * h + (step[:, t] * pixels[:, token])[..., None] * towards[:, None]
            total[:, token] += (h * c[:, t, None]).sum(-1) + weights["Ds"] * pixels[:, token]
    return total


@pytest.mark.parametrize("size", [(3, 4), (1, 5), (4, 1), (1, 1)])
@torch.no_grad()
def test_scan_is_as_written_out(size: tuple[int, int]) -> None:
    mixer = plainmamba.SnakeMixer(16, d_state=3)
    nn.init.normal_(mixer.direction_Bs)
    u = torch.randn(2, *size, 32)
    torch.testing.assert_close(mixer.scan(u).double(), _scanned_by_hand(mixer, u), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_images_of_another_size_are_filled_up_and_equal_a_model_resampled_for_them() -> None:
    model, other = _nano(), _nano(img_size=(96, 80))
    visionssm.load_official(other, model.state_dict())
    image = _image(91, 70)
    assert model.patch_embed(image).shape == (2, 6, 5, 48)
    torch.testing.assert_close(model(image), other(image))
    model.set_input_size((96, 80))
    torch.testing.assert_close(model(image), other(image))


@torch.no_grad()
def test_convolution_between_layers_has_no_residual() -> None:
    layer = _nano().layers[0]
    nn.init.zeros_(layer.dw[0].weight)
    x = layer(torch.randn(1, 4, 4, 48))
    torch.testing.assert_close(x, F.gelu(layer.dw[1].bias).expand_as(x))


def test_convolutions_of_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"convolved=\(0, 4\).*from 0 to 3"):
        _nano(convolved=(0, 4))


def test_segmentors_backbone_loads_without_the_norms_of_its_outputs() -> None:
    model = _nano(num_classes=0)
    state = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    state = {re.sub(r"patch_embed\.proj\.", "patch_embed.projection.", name): value for name, value in state.items()}
    state = {name.replace("backbone.norm.", "backbone.ln1."): value for name, value in state.items()}
    loaded = visionssm.load_official(_nano(num_classes=0), {**state, "backbone.norm_layer5.weight": torch.ones(48)})
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
