"""LocalMamba equals the authors' code, and keeps what is particular to it: routes of each layer, gates, a supernet."""

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
from visionssm.backbones import localmamba
from visionssm.backbones._localmamba_routes import ALL_DIRECTIONS, direction, token_routes
from visionssm.kernels import routes

TOLERANCE = 1e-4
TOLERANCE_OF_FLOAT64 = 1e-6  # of the supernet, whose recorded float32 is off by 9e-4
SLOW = "small|tiny$|tiny_(grad|midcls|nosearch|resized|search)$"


def _case_model(case: Case) -> Any:
    options = dict(case.meta["init"])
    if case.data["name"].endswith("_legacy_nonsquare"):
        options["authors_inverse"] = True
    model: Any = timm.create_model(re.sub("_(grad|resized|legacy_nonsquare)", "", case.data["name"]), **options)
    visionssm.load_official(model, case.state_dict())
    return model.eval()


def _outputs(model: Any, image: Tensor) -> dict[str, Tensor]:
    """What the cases record: the mixers' outputs, or maps of stages."""
    if isinstance(model, localmamba.LocalVim):
        streams = [model.begin(model.patch_embed(image))]
        for layer in model.layers:
            streams.append(layer(streams[-1]))
        features, stages = model.end(streams[-1]), [stream.hidden for stream in streams[1:]]
    else:
        features, stages = model.forward_intermediates(image)
    heads = {"output": model.forward_head(features), "pre_logits": model.forward_head(features, pre_logits=True)}
    return {**heads, **{f"stage{i}": stage for i, stage in enumerate(stages)}}


def _check(case: Case) -> None:
    model = _case_model(case)
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    assert [list(names) for names in model.directions] == case.meta["directions"]
    in_double = case.data["name"].endswith("_search")
    image = case.image()
    if in_double:
        model, image = model.double(), image.double()
    outputs = _outputs(model, image)
    recorded = [name for name in case.data["outputs"] if name.endswith("_f64") == in_double]
    assert len(recorded) >= 6
    for name in recorded:
        error = case.relative_error(name, outputs[name.removesuffix("_f64")])
        assert error <= (TOLERANCE_OF_FLOAT64 if in_double else TOLERANCE), name
    if "grad_norms" in case.data:
        check_gradients(case, model, localmamba.checkpoint_filter_fn)


@every_case("LocalMamba", slow=SLOW)
def test_localmamba_equals_authors_on_the_cpu_kernels(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data):
        _check(case)


@every_case("LocalMamba", slow=".")
def test_localmamba_equals_authors_on_the_definition(case: Case) -> None:
    with torch.set_grad_enabled("grad_norms" in case.data), visionssm.use_backend("reference"):
        _check(case)


@every_case("LocalMamba routes")
def test_routes_are_the_authors(case: Case) -> None:
    for size, tables in case.data["grids"].items():
        height, width = map(int, size.split("x"))
        assert tuple(tables) == ALL_DIRECTIONS
        for name, table in tables.items():
            assert direction(name, height, width).flatten().tolist() == table, (size, name)


def _nano(name: str = "localvim_nano_test", **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def _image(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def _mixed_by_hand(mixer: localmamba.LocalTokenMixer, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """The mixer's output of tokens without a class token, route after route and step after step, in float64."""
    weights = {name: value.detach().double() for name, value in mixer.state_dict().items()}
    x, z = (tokens.double() @ weights["in_proj.weight"].T).chunk(2, dim=-1)
    dim, rank, states = mixer.dim, mixer.dt_rank, mixer.d_state
    total = torch.zeros_like(x)
    for k, name in enumerate(mixer.directions):
        own = slice(k * dim, (k + 1) * dim)
        order = direction(name, *grid).flatten().tolist()
        visited = torch.stack([x[:, p] if p >= 0 else torch.zeros_like(x[:, 0]) for p in order], dim=2)  # (B, D, T)
        causal = F.conv1d(
            F.pad(visited, (3, 0)), weights["conv1d.weight"][own], weights["conv1d.bias"][own], groups=dim
        )
        u = F.silu(causal).transpose(1, 2)
        low, b, c = (u @ weights["x_proj_weight"][k].T).split([rank, states, states], dim=-1)
        step = F.softplus(low @ weights["dt_projs_weight"][k].T + weights["dt_projs_bias"][k])
        a, h = -weights["A_logs"][own].exp(), x.new_zeros(x.shape[0], dim, states)
        result = torch.zeros_like(x)
        for t, token in enumerate(order):
            h = (step[:, t, :, None] * a).exp() * h + (step[:, t] * u[:, t])[..., None] * b[:, t, None]
            if token >= 0:
                y = (h * c[:, t, None]).sum(-1) + weights["Ds"][own] * u[:, t]
                result[:, token] = y * F.silu(z[:, token])
        total += result * mixer.multi_scan.attn.double()(result)
    return total @ weights["out_proj.weight"].T


@torch.no_grad()
def test_tokens_are_mixed_as_written_out_on_a_grid_that_windows_reach_over() -> None:
    mixer = localmamba.LocalTokenMixer(12, directions=("v", "w2", "w7_flip"))
    nn.init.normal_(mixer.dt_projs_bias)
    tokens = torch.randn(2, 15, 12)
    actual = mixer(tokens, (5, 3))
    torch.testing.assert_close(actual.double(), _mixed_by_hand(mixer, tokens, (5, 3)), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_class_token_is_the_middle_step_of_every_route() -> None:
    table = token_routes(2, 3, ("h", "v_flip", "w2"), True, False)
    steps = table.reads.view(-1, 3).T  # token numbers: patches 0 to 2 and 3 to 5 are tokens 0 to 2 and 4 to 6
    assert steps.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 7], [6, 2, 5, 3, 1, 4, 0, 7, 7], [0, 1, 4, 3, 5, 2, 7, 6, 7]]
    visited = torch.arange(27).view(9, 3)  # number of a result by step and route
    assert table.places.view(3, 7).tolist() == [
        [int(visited[row.tolist().index(token), k]) for token in range(7)] for k, row in enumerate(steps)
    ]


@pytest.mark.parametrize("name", ["localvim_nano_test", "localvmamba_nano_test"])
@torch.no_grad()
def test_the_authors_inverse_is_right_on_square_maps_alone(name: str) -> None:
    right, authors = _nano(name), _nano(name, authors_inverse=True)
    torch.testing.assert_close(authors(_image()), right(_image()))
    assert not torch.allclose(authors(_image(64, 96)), right(_image(64, 96)), atol=1e-4)


@pytest.mark.parametrize("name", ["localvim_nano_test", "localvmamba_nano_test"])
@torch.no_grad()
def test_a_map_and_its_transpose_are_mixed_alike_where_routes_and_weights_are_exchanged(name: str) -> None:
    """What the authors' inverse breaks: rows and columns are the same to the network."""
    mixer = _nano(name, directions=("h", "v")).layers[0]
    mixer = mixer.mixer if isinstance(mixer, localmamba.LocalVimBlock) else mixer.blocks[0].op
    tokens = torch.randn(1, 3, 5, mixer.in_proj.in_features)

    def mixed(x: Tensor) -> Tensor:
        if isinstance(mixer, localmamba.LocalTokenMixer):
            return mixer(x.flatten(1, 2), (x.shape[1], x.shape[2])).view(x.shape)
        mixer.conv2d.weight.copy_(mixer.conv2d.weight + mixer.conv2d.weight.transpose(2, 3)).mul_(0.5)
        return mixer(x)

    expected = mixed(tokens).transpose(1, 2)
    mixer.directions = ("v", "h")
    torch.testing.assert_close(mixed(tokens.transpose(1, 2).contiguous()), expected)


@torch.no_grad()
def test_supernet_normalises_gated_maps_and_weighs_them_by_a_softmax() -> None:
    total = localmamba.RouteSum(16, n_weights=3)
    assert total.weights is not None
    nn.init.normal_(total.weights)
    maps = torch.randn(2, 3, 10, 16)
    gated = maps * torch.stack([total.attn(route) for route in maps.unbind(1)], dim=1)
    normed = (gated - gated.mean(-1, keepdim=True)) / (gated.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    shares = total.weights.flatten().exp() / total.weights.exp().sum()
    torch.testing.assert_close(total(maps), sum(share * route for share, route in zip(shares, normed.unbind(1))))


@torch.no_grad()
def test_angles_are_resampled_with_the_positions() -> None:
    model, other = _nano(), _nano(img_size=(96, 80))
    visionssm.load_official(other, model.state_dict())
    angles = localmamba.rotary_angles((6, 5), 48)
    torch.testing.assert_close(other.cosines, angles.cos())
    row, pair = 4, 3  # of 12 channels that turn by the row and the first of a pair
    assert float(angles[0, row * 5, 2 * pair]) == pytest.approx(row / 6 * 14 * 10000 ** (-2 * pair / 24))
    assert float(angles[0, row * 5, 2 * pair]) == float(angles[0, row * 5 + 2, 2 * pair + 1])
    expected = model(_image(96, 80))
    model.set_input_size((96, 80))
    assert model.cosines.shape == (1, 30, 48)
    torch.testing.assert_close(model(_image(96, 80)), expected)


@torch.no_grad()
def test_image_is_filled_up_with_zeros_to_whole_patches() -> None:
    model, image = _nano(), _image(50, 33)
    assert model.patch_embed.grid_size((50, 33)) == (4, 3)
    torch.testing.assert_close(model(image), model(F.pad(image, (0, 15, 0, 14))))


@pytest.mark.parametrize(
    "directions, message",
    [
        (("h", "d"), "'d', which is no route"),
        (("h", "w0"), "'w0', which is no route"),
        ([("h", "v")] * 3, "each of 4 layers"),
        ([("h",), (), ("h",), ("v",)], "each of 4 layers"),
        (("h", "w100"), "'w100', which is no route.*at most 99"),  # a table of as many steps as the window has tokens
        (("h", "v", "h"), "a route twice"),
        ("h", "in lists"),
        ((1, 2), "in lists"),
        ([(1,)] * 4, "1, which is no route"),
        ([["h"], "v", "h_flip", "v_flip"], "each of 4 layers"),
    ],
)
@pytest.mark.parametrize("name", ["localvim_nano_test", "localvmamba_nano_test"])
def test_routes_that_fit_no_layer_are_refused(name: str, directions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _nano(name, directions=directions)


@pytest.mark.parametrize("name", ["localvim_nano_test", "localvmamba_nano_test"])
@torch.no_grad()
def test_layers_may_have_any_number_of_routes_and_any_windows(name: str) -> None:
    model = _nano(name, directions=[("h",), ("w3", "v_flip"), ("w5_flip", "h", "v"), ALL_DIRECTIONS])
    with visionssm.use_backend("reference"):
        expected = model(_image(64, 96))
    torch.testing.assert_close(model(_image(64, 96)), expected, rtol=1e-4, atol=1e-5)


def test_unfinished_files_of_one_route_are_refused() -> None:
    model = _nano()
    state = {"layers.0.mixer.A_log_0": torch.zeros(96, 16)}
    with pytest.raises(visionssm.checkpoints.CheckpointError):
        visionssm.load_official(model, state)


def test_shorter_routes_beside_longer_ones_end_outside_the_map() -> None:
    tables = [routes.raster(3, 3), routes.backwards(routes.joined_windows(3, 3, 2))]
    together = routes.side_by_side(tables)
    assert together.shape == (2, 1, 16)
    assert together[0, 0].tolist() == [*range(9), *[-1] * 7]
    assert torch.equal(together[1], tables[1][0])
    assert torch.equal(routes.side_by_side([tables[0], tables[0]]), torch.cat([tables[0], tables[0]]))
    steps = routes.visits(together, 9)
    assert torch.equal(together.long().gather(-1, steps), torch.arange(9).expand(2, 1, 9))
