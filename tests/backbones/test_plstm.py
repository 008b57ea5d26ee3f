"""pLSTM's layers equal the authors', and what is particular to the family stays: corners, gates, initialisation."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, every_case, recorded_case
from visionssm.backbones import plstm
from visionssm.backbones.plstm import Diffusion, PLSTMBlock, Propagation, RightDiffusion

TOLERANCE = 1e-4
PARTS = {
    "layer": "block_stack.blocks.0.block0.interaction_module.",
    "block": "block_stack.blocks.0.block0.",
    "vblock": "block_stack.blocks.0.",
}
OUR_PREFIX = {"layer": "layers.0.0.mixer.", "block": "layers.0.0.", "vblock": "layers.0."}


def _part(case: Case) -> nn.Module:
    meta = case.meta
    mixer = {("P", "L"): Propagation, ("D", "L"): Diffusion, ("D", "R"): RightDiffusion}.get(
        (meta["mode"], meta["chirality"])
    )
    dim, options = meta["input_dim"], {"num_heads": meta["num_heads"]}
    if meta["kind"] == "layer":
        return mixer(dim, gates_see_input=not meta["config"].endswith("conststm"), **options)
    if meta["kind"] == "block":
        return PLSTMBlock(dim, mixer, layer_scale=1e-4 if meta["config"].endswith("scale") else None, **options)
    return nn.Sequential(PLSTMBlock(dim, Propagation, **options), PLSTMBlock(dim, Diffusion, **options))


def _ours(case: Case, part: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The key map of whole models, on a part of one."""
    kind = case.meta["kind"]
    mapped = plstm.checkpoint_filter_fn({PARTS[kind] + name: value for name, value in state.items()}, part)
    return {name.removeprefix(OUR_PREFIX[kind]): value for name, value in mapped.items()}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@every_case("pLSTM part")
def test_layers_and_blocks_equal_authors(case: Case, backend: str) -> None:
    part, state = _part(case), case.state_dict()
    part.load_state_dict(_ours(case, part, state))
    assert sum(p.numel() for p in part.parameters()) == case.data["n_params"]
    with visionssm.use_backend(backend):
        output = part(case.image())
    assert case.relative_error("output", output) <= TOLERANCE
    (output * case.cotangent(output)).sum().backward()
    # Every element of our stacked parameters knows the number of the authors' parameter that it comes from.
    numbers = {name: float(i) for i, name in enumerate(state)}
    origin = _ours(case, part, {name: torch.full_like(value, numbers[name]) for name, value in state.items()})
    for name, expected in case.data["grad_norms"].items():
        parts = [p.grad[origin[n] == numbers[name]] for n, p in part.named_parameters() if p.grad is not None]
        norm = float(torch.cat(parts).norm())
        assert norm == pytest.approx(expected or 0.0, rel=TOLERANCE, abs=1e-6), name


def _nano(**options: Any) -> plstm.PLSTM:
    torch.manual_seed(0)
    return timm.create_model("plstm_nano_test", **options).eval()


def _image(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_classifier_sees_the_corners_in_the_published_order() -> None:
    model = _nano()
    features = model.forward_features(_image(96, 128))
    assert features.shape == (2, 3, 4, 48)
    corners = [features[:, row, column] for row, column in ((0, 0), (2, 0), (0, 3), (2, 3))]
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), torch.cat(corners, dim=1))
    model.reset_classifier(5, "avg")
    assert model.head_hidden_size == 48
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.mean((1, 2)))
    with pytest.raises(ValueError, match="corners"):
        model.reset_classifier(5, "corner")


# The published code stops with an assertion at the first three, and takes one more empty block for the last.
@pytest.mark.parametrize("grid", [(4, 6), (7, 14), (8, 16), (5, 3)])
def test_every_grid_runs_and_equals_the_definition(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = PLSTMBlock(24, Propagation, num_heads=2).eval()
    x = torch.randn(1, *grid, 24)
    with visionssm.use_backend("reference"):
        expected = block(x)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", [Propagation, Diffusion, RightDiffusion])
def test_gate_number_is_four_times_the_head_plus_the_direction(mixer: type[plstm.PLSTMMixer]) -> None:
    """Sources of all gates but one are closed: only that head writes, and only along that direction."""
    torch.manual_seed(0)
    head, direction = 1, 2
    layer = mixer(24, num_heads=3).eval()
    kinds = (*layer.transitions, *layer.sources, *layer.marks)
    with torch.no_grad():
        layer.gates.bias.fill_(0.0)
        layer.direct_bias.fill_(-100.0)
        for number, kind in enumerate(kinds):
            if kind in layer.marks:
                layer.gates.bias[number] = -100.0
                layer.gates.bias[number, 4 * head + direction] = 0.0
    seen: list[Tensor] = []
    layer.head_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(1, 4, 4, 24)
    layer(x)
    before = seen[0]  # (B, X, Y, heads, P)
    assert before[..., [0, 2], :].abs().max() < 1e-20 < before[..., 1, :].abs().max()
    corners = [before[0, row, column, head].abs().max() for row, column in ((0, -1), (0, 0), (-1, -1), (-1, 0))]
    assert corners[0] < 1e-20  # direction 2 runs with x and against y: it begins here …
    assert min(corners[1:]) > 1e-6  # … and nowhere else


def test_constant_gates_do_not_see_the_input_and_keep_the_published_parameters() -> None:
    layer = Diffusion(24, num_heads=3, gates_see_input=False)
    small, large = (layer.gates(scale * torch.ones(1, 2, 2, 24)) for scale in (1.0, 100.0))
    torch.testing.assert_close(small, large)
    assert layer.gates.weight.shape == (3, 12, 2)  # of the transitions, which are in the files but not in use
    assert not layer.gates.weight.requires_grad


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    model = timm.create_model("plstm_vis_t")
    propagation, diffusion = (block.mixer for block in model.layers[0])
    assert propagation.gates.bias[:, 0].tolist() == [1.0, -4.0, -4.0]
    assert diffusion.gates.bias[:, 0].tolist() == [1.0, 1.0, 1.0, -4.0, -4.0, -4.0, -4.0]
    assert not propagation.gates.weight.any()
    assert propagation.direct_bias.tolist() == [-6.0] * 3
    assert propagation.orientation.bias.tolist() == [-2.0, 0.0, 2.0] * 4
    assert propagation.qkv.weight.std().item() == pytest.approx((2 / (5 * 192)) ** 0.5, rel=0.02)
    assert model.patch_embed.proj.weight.std().item() == pytest.approx(0.158, rel=0.02)
    assert model.head.weight.std().item() < 3e-5


def test_only_weights_are_decayed() -> None:
    model = _nano()
    decayed = {
        id(p) for p in param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())[1]["params"]
    }
    for name, parameter in model.named_parameters():
        matrix = name.endswith("weight") and parameter.ndim > 1
        assert (id(parameter) in decayed) == matrix, name
    assert any(name.endswith("gates.weight") for name, p in model.named_parameters() if id(p) in decayed)


def test_positions_of_another_grid_are_resampled_while_loading() -> None:
    case = recorded_case("plstm", "plstm_ape_192")
    small, large = (timm.create_model("plstm_ape", img_size=size).eval() for size in (192, 96))
    for model in (small, large):
        visionssm.load_official(model, case.state_dict())
    assert large.pos_embed.shape == (1, 36, 192)
    torch.testing.assert_close(large.pos_embed, small.positions((6, 6)))


def test_images_of_another_size_equal_a_model_resampled_for_it() -> None:
    model, other = _nano(), _nano(img_size=(128, 96))
    assert other.grid_size == (4, 3)
    state = model.state_dict()
    other.load_state_dict({**state, "pos_embed": model.positions((4, 3))})
    image = _image(128, 96)
    expected = other.forward_features(image)
    torch.testing.assert_close(model.forward_features(image), expected)
    assert not torch.allclose(_nano(position_table=False).forward_features(image), expected)
    model.set_input_size((128, 96))
    assert model.pos_embed.shape == (1, 12, 48)
    torch.testing.assert_close(model.forward_features(image), expected)


def test_models_without_positions_take_any_size() -> None:
    model = _nano(position_table=False)
    assert model.pos_embed is None
    assert model.no_weight_decay() == set()
    assert model(_image(96, 32)).shape == (2, 1000)


def test_gates_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="embed_dim=48 does not divide"):
        _nano(num_heads=5)
