"""What is peculiar to GroupMamba: one direction a channel group, two classifiers, a class block."""

from __future__ import annotations

import re

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

import visionssm
from tests.reference_cases import recorded_case
from visionssm.backbones.groupmamba import ClassBlock, GroupSS2D, ModulatedGroupLayer, checkpoint_filter_fn


def _model(**kwargs: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("groupmamba_nano_test", **kwargs)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def _walk(x: Tensor, group: int) -> Tensor:
    """(B, C, H, W) to (B, C, L) in the order of a group: rows, columns, and both from their ends."""
    sequence = (x.transpose(2, 3) if group in (1, 3) else x).flatten(2)
    return sequence.flip(-1) if group in (2, 3) else sequence


def _walk_back(y: Tensor, group: int, height: int, width: int) -> Tensor:
    y = y.flip(-1) if group in (2, 3) else y
    if group in (1, 3):
        return y.unflatten(2, (width, height)).transpose(2, 3)
    return y.unflatten(2, (height, width))


def _one_group(layer: GroupSS2D, x: Tensor, group: int) -> Tensor:
    """The published SS2D of one group on its quarter of the channels, one step at a time: (B, d, H, W) to the same."""
    width, rank = layer.dim, layer.dt_rank
    own = slice(group * width, (group + 1) * width)
    in_proj = layer.in_proj.weight[2 * group * width : 2 * (group + 1) * width]
    xz = torch.einsum("bdhw,ed->behw", x, in_proj)
    u = F.conv2d(xz[:, :width], layer.conv2d.weight[own], layer.conv2d.bias[own], padding=1, groups=width)
    u = _walk(F.silu(u), group)
    dt, b, c = torch.einsum("bdl,rd->brl", u, layer.x_proj_weight[group]).split([rank, 1, 1], 1)
    delta = F.softplus(
        torch.einsum("brl,dr->bdl", dt, layer.dt_projs_weight[group]) + layer.dt_projs_bias[group, :, None]
    )
    a = -layer.A_logs[own].exp()[:, 0]
    h, outputs = torch.zeros_like(u[..., 0]), []
    for t in range(u.shape[-1]):
        h = torch.exp(delta[..., t] * a) * h + delta[..., t] * b[..., t] * u[..., t]
        outputs.append(h * c[..., t] + layer.Ds[own] * u[..., t])
    y = _walk_back(torch.stack(outputs, -1), group, *x.shape[2:])
    y = F.layer_norm(y.movedim(1, -1), (width,), layer.out_norm.weight[own], layer.out_norm.bias[own])
    y = y * F.silu(xz[:, width:].movedim(1, -1))
    return F.linear(y, layer.out_proj.weight[own]).movedim(-1, 1)


def test_each_quarter_of_the_channels_is_scanned_by_itself_in_its_own_direction() -> None:
    torch.manual_seed(0)
    layer = GroupSS2D(16).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    expected = torch.cat(
        [_one_group(layer, quarter.movedim(-1, 1), g).movedim(1, -1) for g, quarter in enumerate(x.chunk(4, -1))], -1
    )
    torch.testing.assert_close(layer(x), expected)


def test_channel_groups_do_not_mix_in_the_scan() -> None:
    layer = GroupSS2D(16)
    x = torch.randn(1, 4, 4, 16)
    changed = x.clone()
    changed[..., 4:8] += 1.0
    different = (layer(changed) != layer(x)).flatten(0, 2).any(0)
    assert different.tolist() == [False] * 4 + [True] * 4 + [False] * 8


def test_scan_multiplies_the_normalised_input() -> None:
    layer = ModulatedGroupLayer(16)
    x = torch.randn(1, 3, 3, 16)
    layer.skip_scale.data.zero_()  # a sum with the input would survive this
    torch.testing.assert_close(layer(x), layer.proj(layer.norm.bias).expand_as(x))


def test_one_norm_serves_both_ends_of_the_mixer() -> None:
    layer = ModulatedGroupLayer(16).double()
    x = torch.randn(1, 3, 3, 16, dtype=torch.float64)
    inner = layer.mamba(layer.norm(x)) * layer.skip_scale * layer.norm(x)
    affinity = layer.fc2(layer.fc1(layer.norm(x).mean((1, 2))).relu()).sigmoid()
    torch.testing.assert_close(layer(x), layer.proj(layer.norm(inner * affinity[:, None, None])))
    assert sum(isinstance(module, torch.nn.LayerNorm) for module in layer.modules()) == 1
    assert layer.norm.eps == 1e-5


def test_class_block_normalises_after_the_mixer_and_ignores_the_state_matrix() -> None:
    block = ClassBlock(16)
    token = torch.randn(2, 16)
    mixed = token + block.norm1(block.attn(token.view(2, 1, 1, 16))).flatten(1)
    torch.testing.assert_close(block(token), mixed + block.mlp(block.norm2(mixed)))
    block(token).square().sum().backward()
    assert block.attn.mamba.A_logs.grad.abs().max() == 0  # a scan of one step


def test_training_returns_one_tensor_unless_distillation_is_asked_for(image: Tensor) -> None:
    model = _model(num_classes=5).train()
    assert isinstance(model(image), Tensor)
    model.set_distilled_training()
    logits, teacher_logits = model(image)
    assert logits.shape == teacher_logits.shape == (2, 5)
    assert not torch.equal(logits, teacher_logits)
    assert isinstance(model.eval()(image), Tensor)
    model.train().set_distilled_training(False)
    assert isinstance(model(image), Tensor)


def test_logits_are_the_mean_of_both_heads(image: Tensor) -> None:
    model = _model(num_classes=5).eval()
    features = model.forward_features(image)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model(image), (model.head.fc(pooled) + model.head.dist_fc(pooled)) / 2)


def test_reset_classifier_replaces_both_heads() -> None:
    model = _model()
    model.reset_classifier(7)
    assert [layer.out_features for layer in model.get_classifier()] == [7, 7]
    model.reset_classifier(0)
    assert [type(layer) for layer in model.get_classifier()] == [torch.nn.Identity] * 2


def test_pruned_model_has_no_class_block(image: Tensor) -> None:
    model = _model()
    model.prune_intermediate_layers([1])
    assert not [name for name, _ in model.named_parameters() if name.startswith("head.")]
    assert model(image).shape[-1] == model.num_features


def test_recorded_heads_and_pooled_features_are_the_authors() -> None:
    case = recorded_case("groupmamba", "groupmamba_tiny")
    model = visionssm.load_official(timm.create_model("groupmamba_tiny"), case.state_dict()).eval()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(case.image()), pre_logits=True)
        assert case.relative_error("pooled", pooled) <= 1e-4
        for recorded, head in zip(("head", "dist_head"), model.get_classifier(), strict=True):
            assert case.relative_error(recorded, head(pooled)) <= 1e-4


def test_trainers_file_and_bare_file_load_and_our_own_layout_passes_unchanged() -> None:
    case = recorded_case("groupmamba", "groupmamba_tiny")
    names = {name: shape for name, shape in case.data["state"].items() if not re.match(r"block\d\.[1-9]", name)}
    state = {name: torch.randn(shape) for name, shape in names.items()}
    model = timm.create_model("groupmamba_tiny", depths=(1, 1, 1, 1))
    ours = checkpoint_filter_fn(state, model)
    trained = {"model": state, "epoch": 3, "max_accuracy": 80.0, "max_accuray_ema": 81.0, "optimizer": {}}
    for source in (trained, {"module." + key: value for key, value in state.items()}, ours):
        visionssm.load_official(model, source)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, ours[name].to(value.dtype), rtol=0, atol=0)
            value.zero_()


def test_averaged_weights_are_loaded_when_preferred() -> None:
    model = _model()
    average = {name: value + 1 for name, value in model.state_dict().items()}
    both = {"model": model.state_dict(), "model_ema": average}
    loaded = visionssm.load_official(_model(), both, prefer=("model_ema", "model"))
    torch.testing.assert_close(loaded.head.fc.bias, average["head.fc.bias"])


def test_widths_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        _model(dims=(32, 48, 64, 90))
    with pytest.raises(ValueError, match="catavgmax"):
        _model(global_pool="catavgmax")


def test_state_matrices_and_step_biases_are_decayed_and_norms_are_not() -> None:
    model = _model()
    undecayed = {name for name, value in model.named_parameters() if value.ndim <= 1}
    assert model.no_weight_decay() == set()
    assert not [name for name in undecayed if name.endswith(("A_logs", "dt_projs_bias", "proj.weight"))]
    scales = (".skip_scale", ".Ds", "norm.weight", "norm2.weight", ".bias")
    assert all(name in undecayed for name, _ in model.named_parameters() if name.endswith(scales))
