"""VSSD's own features: a mixer without order, attention at the end, a linear gate, a state beyond float16's range."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import visionssm
from visionssm.backbones.vssd import MapAttention, NonCausalSSD
from visionssm.checkpoints.fetch import preferred_keys


@pytest.fixture
def mixer() -> NonCausalSSD:
    torch.manual_seed(0)
    mixer = NonCausalSSD(8, num_heads=4, d_state=3).double()
    nn.init.normal_(mixer.in_proj.weight)
    nn.init.normal_(mixer.norm.weight)
    nn.init.normal_(mixer.norm.bias)
    nn.init.normal_(mixer.D)
    return mixer


def _map(height: int = 5, width: int = 4) -> Tensor:
    return torch.randn(2, height, width, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_mixer_is_the_published_formula(mixer: NonCausalSSD) -> None:
    x = _map()
    projected = F.linear(x, mixer.in_proj.weight).permute(0, 3, 1, 2)  # 16 gate, 16 + 3 + 3 convolved, 4 steps
    convolved = F.silu(F.conv2d(projected[:, 16:38], mixer.conv2d.weight, mixer.conv2d.bias, padding=1, groups=22))
    z, u, b, c = projected[:, :16].flatten(2), *convolved.flatten(2).split([16, 3, 3], dim=1)
    step = (projected[:, 38:].flatten(2) + mixer.dt_bias[:, None]).exp().log1p()
    m = step * mixer.A_log.exp()[:, None]
    assert (m > 0).all()
    u = u.unflatten(1, (4, 4))  # heads, channels of a head
    state = torch.einsum("zhl,znl,zhpl->zhnp", m, b, u)
    y = torch.einsum("znl,zhnp->zlhp", c, state) + torch.einsum("h,zhpl->zlhp", mixer.D, u)
    y = F.layer_norm(y.flatten(2), (16,), mixer.norm.weight, mixer.norm.bias, 1e-5) * z.transpose(1, 2)
    torch.testing.assert_close(mixer(x).flatten(1, 2), y @ mixer.out_proj.weight.T)


def test_gate_is_linear_and_comes_after_the_norm(mixer: NonCausalSSD) -> None:
    x = _map()
    before = mixer(x)
    with torch.no_grad():
        mixer.in_proj.weight[:16] *= -3
    torch.testing.assert_close(mixer(x), -3 * before)


def test_mixer_sees_order_through_its_convolution_only(mixer: NonCausalSSD) -> None:
    x = _map(1, 9)
    shuffle = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(mixer(x[:, :, shuffle]), mixer(x)[:, :, shuffle])
    with torch.no_grad():
        mixer.conv2d.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0  # all but the centre
    torch.testing.assert_close(mixer(x[:, :, shuffle]), mixer(x)[:, :, shuffle])


def test_every_pixel_reads_every_other(mixer: NonCausalSSD) -> None:
    x = _map(9, 9).requires_grad_()
    for corner in ((0, 0), (8, 8)):
        (gradient,) = torch.autograd.grad(mixer(x)[0, *corner].sum(), x)
        assert (gradient[0].abs().amax(-1) > 0).all()
        assert (gradient[1] == 0).all()


def test_gradients_in_float32_are_those_in_float64(mixer: NonCausalSSD) -> None:
    x = _map(16, 16)
    single = copy.deepcopy(mixer).float()
    mixer(x).square().sum().backward()
    single(x.float()).square().sum().backward()
    for (name, expected), actual in zip(mixer.named_parameters(), single.parameters(), strict=True):
        assert expected.grad is not None
        assert actual.grad is not None
        assert float((actual.grad - expected.grad).norm() / expected.grad.norm()) < 1e-5, name


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_large_maps_stay_finite_in_float16(autocast: bool) -> None:
    torch.manual_seed(0)
    mixer = NonCausalSSD(8, num_heads=2, d_state=4)
    nn.init.constant_(mixer.A_log, math.log(16))
    nn.init.constant_(mixer.conv2d.bias, 3.0)  # all of one sign, so that the sum grows with the map
    x = torch.randn(1, 128, 128, 8)
    expected = mixer(x)
    if autocast:
        with torch.autocast("cpu", dtype=torch.float16):
            actual = mixer(x)
    else:
        actual = mixer.half()(x.half())
    assert actual.dtype == torch.float16
    assert float((actual - expected).abs().max() / expected.abs().max()) < 0.02


def test_attention_is_in_the_last_stage_only() -> None:
    model = timm.create_model("vssd_nano_test")
    kinds = [{type(block.mixer) for block in stage.blocks} for stage in model.layers]
    assert kinds == [{NonCausalSSD}, {NonCausalSSD}, {NonCausalSSD}, {MapAttention}]


def test_attention_is_softmax_attention_between_all_pixels() -> None:
    torch.manual_seed(0)
    attention = MapAttention(6, num_heads=2).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    q, k, v = F.linear(x.flatten(1, 2), attention.qkv.weight).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    heads = (q @ k.transpose(-2, -1) / math.sqrt(3)).softmax(-1) @ v
    expected = F.linear(heads.transpose(1, 2).flatten(2), attention.proj.weight, attention.proj.bias)
    torch.testing.assert_close(attention(x).flatten(1, 2), expected)
    assert attention.qkv.bias is None


@pytest.mark.parametrize("size", [(33, 97), (31, 64), (5, 7)])
def test_map_sizes_round_up_at_every_halving(size: tuple[int, int]) -> None:
    model = timm.create_model("vssd_nano_test").eval()
    maps = model.forward_intermediates(torch.randn(1, 3, *size), intermediates_only=True)
    assert [m.shape[2:] for m in maps] == [tuple(-(-n // 2**i) for n in size) for i in range(2, 6)]


def test_initial_steps_and_decay_rates_are_in_the_published_ranges() -> None:
    torch.manual_seed(0)
    mixer = NonCausalSSD(512, num_heads=512, d_state=4)
    step, rate = F.softplus(mixer.dt_bias).detach(), mixer.A_log.detach().exp()
    assert step.min() >= 0.99e-3
    assert step.max() <= 1.01e-1
    assert float(step.log().mean()) == pytest.approx(math.log(1e-2), abs=0.3)
    assert rate.min() >= 1
    assert rate.max() <= 16
    assert float(rate.mean()) == pytest.approx(8.5, abs=1)
    assert (mixer.D == 1).all()


def test_parameters_of_the_state_space_are_not_decayed() -> None:
    model = timm.create_model("vssd_nano_test")
    undecayed, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert (undecayed["weight_decay"], decayed["weight_decay"]) == (0.0, 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    kept = {names[id(p)].rsplit(".", 1)[-1] for p in undecayed["params"]}
    assert kept == {"A_log", "D", "dt_bias", "bias", "weight"}
    assert all(names[id(p)].endswith(".weight") for p in decayed["params"])


def test_authors_and_own_files_load_into_the_same_model() -> None:
    model, other = (timm.create_model("vssd_nano_test").eval() for _ in range(2))
    authors = {
        name.replace("mixer.qkv", "attn.to_qkv")
        .replace("mixer.proj", "attn.to_out")
        .replace("mixer", "attn")
        .replace("head.norm", "norm")
        .replace("head.fc", "head"): value
        for name, value in model.state_dict().items()
    }
    assert "layers.3.blocks.0.attn.to_qkv.weight" in authors
    for source in (authors, model.state_dict()):
        visionssm.load_official(other, {"model": source})
        image = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(other(image), model(image))


def test_files_of_averaged_weights_are_read_as_such() -> None:
    def first(name: str, tag: str) -> str:
        return preferred_keys({"architecture": name, "tag": tag})[0]

    assert first("vssd_tiny", "authors_in1k") == first("vssd_base", "authors_mesa_in1k") == "model_ema"
    assert first("vssd_micro", "authors_in1k") == "model"


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads=3"):
        NonCausalSSD(8, num_heads=3, d_state=4)
    with pytest.raises(ValueError, match="mixers for 3 stages"):
        timm.create_model("vssd_nano_test", num_heads=(1, 2, 4))
