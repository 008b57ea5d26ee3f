"""Spatial-Mamba's own features: states of one scan, fused with their neighbours' before they are read."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, every_case
from visionssm.backbones.spatialmamba import DILATIONS, StateFusion, StructureAwareSSM

sides = st.integers(1, 8)


@pytest.fixture
def fusion() -> StateFusion:
    return _random_fusion()


def _random_fusion(dim: int = 3) -> StateFusion:
    torch.manual_seed(0)
    fusion = StateFusion(dim).double()
    for parameter in fusion.parameters():
        nn.init.normal_(parameter)
    return fusion


def _map(height: int, width: int, channels: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, height, width, channels, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backend", ["auto", "reference"])
@every_case("Spatial-Mamba for dense tasks")
def test_dense_outputs_are_the_authors(case: Case, backend: str) -> None:
    state = case.state_dict()
    norms = [(state.pop(f"outnorm{i}.weight"), state.pop(f"outnorm{i}.bias")) for i in range(4)]
    model = timm.create_model(case.data["name"].removesuffix("_backbone"), num_classes=0).eval()
    unused = {name: value for name, value in model.state_dict().items() if name.startswith("head.norm.")}
    visionssm.load_official(model, state | unused)
    with torch.no_grad(), visionssm.use_backend(backend):
        maps = model.forward_intermediates(case.image(), output_fmt="NHWC", intermediates_only=True)
    for i, (x, (weight, bias)) in enumerate(zip(maps, norms, strict=True)):
        output = F.layer_norm(x, weight.shape, weight, bias, 1e-5).permute(0, 3, 1, 2)
        assert case.relative_error(f"out{i}", output) <= 1e-4


# ---------------------------------------------------------------------------------------------- the fusion


@settings(max_examples=20, deadline=None)
@given(sides, sides)
def test_fusion_repeats_the_border_however_small_the_map(height: int, width: int) -> None:
    fusion, h = _random_fusion(), _map(height, width, 3)
    expected = torch.zeros_like(h)
    for weight, dilation, kernel in zip(
        fusion.alpha, DILATIONS, (fusion.kernel_3, fusion.kernel_3_1, fusion.kernel_3_2), strict=True
    ):
        for i in range(3):
            for j in range(3):
                rows = (torch.arange(height) + (i - 1) * dilation).clamp(0, height - 1)
                columns = (torch.arange(width) + (j - 1) * dilation).clamp(0, width - 1)
                expected = expected + weight * kernel[:, 0, i, j] * h[:, rows][:, :, columns]
    for training in (False, True):
        torch.testing.assert_close(fusion.train(training)(h), expected)


def test_fusion_starts_as_the_sum_of_27_taps() -> None:
    torch.testing.assert_close(StateFusion(4)(torch.ones(1, 6, 5, 4)), torch.full((1, 6, 5, 4), 27.0))


def test_fusion_in_evaluation_follows_every_change_of_its_weights(fusion: StateFusion) -> None:
    h = _map(6, 7, 3)
    fusion.eval()(h)  # would fill a cache
    with torch.no_grad():
        fusion.alpha.mul_(2)
    torch.testing.assert_close(fusion.eval()(h), fusion.train()(h))
    fusion.eval()
    fusion.load_state_dict({name: torch.randn_like(value) for name, value in fusion.state_dict().items()})
    torch.testing.assert_close(fusion(h), fusion.train()(h))
    other = StateFusion(3).double().eval()
    other.load_state_dict(fusion.state_dict())
    torch.testing.assert_close(other(h), fusion(h))
    assert set(fusion.state_dict()) == {"kernel_3", "kernel_3_1", "kernel_3_2", "alpha"}


def test_fusion_has_the_same_gradients_in_evaluation_as_in_training(fusion: StateFusion) -> None:
    gradients = []
    for training in (False, True):
        h = _map(6, 7, 3).requires_grad_()
        fusion.train(training)(h).square().sum().backward()
        gradients.append([h.grad, *(p.grad.clone() for p in fusion.parameters() if p.grad is not None)])
        fusion.zero_grad()
    assert len(gradients[0]) == 5
    for merged, apart in zip(*gradients, strict=True):
        torch.testing.assert_close(merged, apart)


# ---------------------------------------------------------------------------------------------- the mixer


@pytest.mark.parametrize("dtype,tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_mixer_is_the_published_formula(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    mixer = StructureAwareSSM(6).double()
    for name in ("Ds", "A_logs", "out_norm.weight", "out_norm.bias", "state_fusion.alpha", "in_proj.weight"):
        nn.init.normal_(mixer.get_parameter(name))
    x = _map(3, 5, 6)
    u, z = F.linear(x, mixer.in_proj.weight).split([12, 12], dim=-1)
    u = F.silu(F.conv2d(u.permute(0, 3, 1, 2), mixer.conv2d.weight, mixer.conv2d.bias, padding=1, groups=12))
    u = u.flatten(2)  # (B, D, L)
    dt, b, c = torch.einsum("rd,bdl->brl", mixer.x_proj_weight[0], u).split([1, 1, 1], dim=1)
    steps = torch.einsum("dr,brl->bdl", mixer.dt_projs_weight[0], dt) + mixer.dt_projs_bias[0][:, None]
    delta = steps.exp().log1p()
    h, states = torch.zeros(2, 12, dtype=torch.float64), []
    for t in range(15):
        h = torch.exp(delta[..., t] * -mixer.A_logs[:, 0].exp()) * h + delta[..., t] * b[..., t] * u[..., t]
        states.append(h)
    fused = mixer.state_fusion(torch.stack(states, 1).view(2, 3, 5, 12)).flatten(1, 2)  # (B, L, D)
    y = fused * c.transpose(1, 2) + u.transpose(1, 2) * mixer.Ds
    y = F.layer_norm(y, (12,), mixer.out_norm.weight, mixer.out_norm.bias, 1e-5).view(2, 3, 5, 12) * F.silu(z)
    expected = (y @ mixer.out_proj.weight.T).detach()
    actual = mixer.to(dtype)(x.to(dtype)).detach()
    assert float((actual - expected).abs().max() / expected.abs().max()) < tolerance


def test_a_pixel_reads_pixels_that_the_scan_visits_later() -> None:
    mixer = StructureAwareSSM(4).double()
    nn.init.normal_(mixer.in_proj.weight)
    x = _map(9, 9, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x)[0, 0, 0].sum(), x)
    reached = gradient[0].abs().amax(-1) > 0
    assert reached[6, 6]  # 5 by the fusion, 1 by the convolution
    assert not reached[7:].any()


def test_initial_values_are_the_published_ones() -> None:
    mixer = StructureAwareSSM(32)
    assert (mixer.A_logs == 0).all()
    assert (mixer.Ds == 1).all()
    step = F.softplus(mixer.dt_projs_bias)
    assert step.min() >= 0.99e-3
    assert step.max() <= 1.01e-1
    assert mixer.x_proj_weight.abs().max() <= 64**-0.5
    assert mixer.dt_projs_weight.abs().max() <= 2**-0.5


# ---------------------------------------------------------------------------------------------- the model


def test_state_matrix_and_fusion_kernels_are_decayed_but_not_one_dimensional_parameters() -> None:
    model = timm.create_model("spatialmamba_nano_test")
    undecayed, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    names = {id(p): name.rsplit(".", 1)[-1] for name, p in model.named_parameters()}
    of_mixers = {"Ds", "alpha", "dt_projs_bias", "A_logs", "x_proj_weight", "dt_projs_weight"}
    kernels = {"kernel_3", "kernel_3_1", "kernel_3_2"}
    kept, shrunk = ({names[id(p)] for p in group["params"]} for group in (undecayed, decayed))
    assert kept & (of_mixers | kernels) == {"Ds", "alpha", "dt_projs_bias"}
    assert shrunk == {"weight", "A_logs", "x_proj_weight", "dt_projs_weight"} | kernels


def test_authors_and_own_files_load_into_the_same_model() -> None:
    model, other = (timm.create_model("spatialmamba_nano_test").eval() for _ in range(2))
    authors = {}
    for name, value in model.state_dict().items():
        name = name.replace("norm1", "ln_1").replace("norm2", "ln_2").replace("mixer", "self_attention")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        authors[name] = value[0] if name.endswith(("x_proj_weight", "dt_projs_weight", "dt_projs_bias")) else value
    assert authors["layers.0.blocks.0.self_attention.x_proj_weight"].shape == (4, 40)
    for source in (authors, model.state_dict()):
        visionssm.load_official(other, {"model": source})
        image = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(other(image), model(image))


def test_a_missing_checkpoint_says_where_a_person_finds_it() -> None:
    with pytest.raises(ValueError, match=r"drive\.google\.com/file/d/19kXoqGSTuKKs4AHbdUSrdKZTwTWenLIW"):
        timm.create_model("spatialmamba_tiny", pretrained=True)
