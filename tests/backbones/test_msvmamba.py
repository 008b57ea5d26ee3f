"""MSVMamba's own features: two scales, the joined sequence, and all that differs between its generations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import visionssm
from tests.backbones.selective_loop import Array, array, scan_sequence
from tests.reference_cases import recorded_case
from visionssm.backbones.msvmamba import V1, V3, V3_GATED, Generation, MultiScaleSS2D, checkpoint_filter_fn
from visionssm.kernels import routes

ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
GENERATIONS = {"v1": V1, "v3": V3, "v3_gated": V3_GATED}
every_generation = pytest.mark.parametrize("generation", GENERATIONS.values(), ids=GENERATIONS)


def _map(height: int, width: int, channels: int) -> Tensor:
    return torch.randn(1, height, width, channels, generator=torch.Generator().manual_seed(3)).double()


def _randomised(module: ModuleT) -> ModuleT:
    """Weights of float64, none of which is 0 or 1."""
    torch.manual_seed(0)
    module = module.double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def _mixer(generation: Generation) -> MultiScaleSS2D:
    return _randomised(generation.mixer(8, ssm_ratio=generation.ssm_ratio))


def _joined_visits(mixer: MultiScaleSS2D, low: Array) -> list[Array]:
    """Three maps of a half-size map's visits: one glued sequence, scanned, cut in three, every order undone."""
    height, width, channels = low.shape
    rows, columns = low.reshape(-1, channels), low.swapaxes(0, 1).reshape(-1, channels)
    y = scan_sequence(mixer.low, 0, np.concatenate([rows[::-1], columns, columns[::-1]]))
    by_rows, by_columns, by_columns_reversed = np.split(y, 3)
    return [
        by_rows[::-1].reshape(height, width, channels),
        by_columns.reshape(width, height, channels).swapaxes(0, 1),
        by_columns_reversed[::-1].reshape(width, height, channels).swapaxes(0, 1),
    ]


def _layer_norm(norm: torch.nn.Module, x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * array(norm.weight) + array(norm.bias)


def _v1_scales(mixer: MultiScaleSS2D, full: Array, low: Array) -> Array:
    rows = scan_sequence(mixer.full, 0, full.reshape(-1, full.shape[-1])).reshape(full.shape)
    visits = sum(_layer_norm(mixer.out_norm, y) for y in _joined_visits(mixer, low))
    enlarged = F.interpolate(
        torch.from_numpy(visits).permute(2, 0, 1)[None], size=full.shape[:2], mode="bilinear", align_corners=False
    )
    return _layer_norm(mixer.out_norm, rows) + enlarged[0].permute(1, 2, 0).numpy()


def _v3_scales(mixer: MultiScaleSS2D, full: Array, low: Array) -> Array:
    height, width, channels = full.shape
    rows = scan_sequence(mixer.full, 0, full.reshape(-1, channels)).reshape(full.shape)
    visits = sum(_joined_visits(mixer, low))
    row = np.arange(height) * low.shape[0] // height
    column = np.arange(width) * low.shape[1] // width
    return _layer_norm(mixer.out_norm, rows + visits[row[:, None], column])


@pytest.mark.parametrize("generation,scales", [(V1, _v1_scales), (V3, _v3_scales)], ids=["v1", "v3"])
@settings(max_examples=20, deadline=None)
@given(size=sizes)
def test_scales_are_scanned_and_merged_as_published(
    generation: Generation, scales: Callable[..., Array], size: tuple[int, int]
) -> None:
    mixer = _mixer(generation)
    height, width = size
    full, low = _map(height, width, mixer.full.dim), _map(-(-height // 2), -(-width // 2), mixer.full.dim)
    with torch.no_grad():
        actual = mixer.scan_scales(full, low)[0]
    np.testing.assert_allclose(array(actual), scales(mixer, array(full[0]), array(low[0])), rtol=1e-8, atol=1e-9)


@every_generation
def test_both_scales_start_from_the_same_map_before_its_activation(generation: Generation) -> None:
    mixer = _mixer(generation)
    seen: dict[str, Tensor] = {}
    for name in ("conv2d", "conv2d_b1"):
        getattr(mixer, name).register_forward_hook(lambda _m, args, _o, name=name: seen.update({name: args[0]}))
    x = _map(5, 7, 8)
    mixer(x)
    expected = mixer.in_proj(x)[..., : mixer.full.dim]
    torch.testing.assert_close(seen["conv2d"], expected)
    torch.testing.assert_close(seen["conv2d_b1"], expected)


def test_state_flows_across_the_joints_of_the_low_sequence() -> None:
    mixer = _mixer(V3)
    low = _map(3, 4, mixer.low.dim)
    changed = low.clone()
    changed[0, 0, 0] += 1.0  # last of the first order, first of the second
    table = routes.joined_low(3, 4)
    moved = (mixer.low.scan(changed, table) - mixer.low.scan(low, table)).abs().amax((0, 3))
    assert (moved > 1e-9).all()
    alone = sum(mixer.low.scan(low, r(3, 4)) for r in (routes.reversed_raster, routes.column, routes.reversed_column))
    assert (mixer.low.scan(low, table) - alone).abs().max() > 1e-3


def test_every_scan_starts_with_a_state_matrix_of_minus_one() -> None:
    model = timm.create_model("msvmamba_nano_test")
    logs = [value for name, value in model.named_parameters() if name.endswith("A_logs")]
    assert len(logs) == 8
    assert not any(value.any() for value in logs)


@every_generation
def test_gate_is_there_in_v1_and_in_the_base_size_of_v3(generation: Generation) -> None:
    mixer = _mixer(generation)
    copies = 1 if generation is V3 else 2
    assert mixer.in_proj.out_features == copies * mixer.full.dim
    if copies == 2:
        with torch.no_grad():
            mixer.in_proj.weight[mixer.full.dim :] = 0.0
        assert not mixer(_map(4, 4, 8)).any()


@every_generation
def test_ffn_is_normalised_before_in_v1_and_after_in_v3(generation: Generation) -> None:
    block = _randomised(generation.block(8, generation, drop_path=0.0))
    x = _map(4, 5, 8)
    before = block(x)
    with torch.no_grad():
        for parameter in block.convFFN.linear2.parameters():
            parameter *= 1e4
    scaled = block(x)
    with torch.no_grad():
        for parameter in block.convFFN.linear2.parameters():
            parameter *= 1e4
    difference = (block(x) - scaled).abs().max() / before.abs().max()
    assert difference < 1e-3 if generation is not V1 else difference > 10


@pytest.mark.parametrize("name,expected", [("msvmamba_nano_test", (8, 10)), ("msvmamba_v3_nano_test", (9, 11))])
def test_v1_drops_leftover_pixels_and_v3_rounds_up(name: str, expected: tuple[int, int]) -> None:
    model = timm.create_model(name)
    assert model.patch_embed(torch.zeros(1, 3, 35, 42)).shape[1:3] == expected


@pytest.mark.parametrize("name,first", [("msvmamba_nano", "low"), ("msvmamba_v3_tiny", "full")])
def test_first_parameter_set_of_a_file_belongs_to_the_scan_of_its_generation(name: str, first: str) -> None:
    case = recorded_case("msvmamba", name)
    with torch.device("meta"):
        model = timm.create_model(name)
    state = {key: torch.zeros(shape) for key, shape in case.data["state"].items()}
    stacked = state["layers.1.blocks.0.op.Ds"]
    stacked[: len(stacked) // 2] = 1.0
    mapped = checkpoint_filter_fn(state, model)
    assert {key: value.shape for key, value in mapped.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert {key for key, value in mapped.items() if value.any()} == {f"layers.1.blocks.0.op.{first}.Ds"}


def _authors_state(model: torch.nn.Module, fill: float) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        value = torch.full_like(value, fill)
        if ".op.full." in name:
            name, value = name.replace(".full.", "."), value.repeat(2, *[1] * (value.ndim - 1))
        elif ".op.low." in name:
            continue
        elif name.endswith(("in_proj.weight", "out_proj.weight")):
            value = value[:, :, None, None]
        name = name.replace(".se.fc1.", ".se.fc.0.").replace(".se.fc2.", ".se.fc.2.")
        out[name.replace("head.norm.", "classifier.norm.").replace("head.fc.", "classifier.head.")] = value
    return out


@pytest.mark.parametrize(
    "name,test_size,expected",
    [("msvmamba_nano", "msvmamba_nano_test", 1.0), ("msvmamba_v3_base", "msvmamba_v3_nano_test", 2.0)],
)
def test_v1_takes_the_weights_of_a_training_file_and_v3_their_average(
    name: str, test_size: str, expected: float
) -> None:
    model = timm.create_model(test_size)
    model.pretrained_cfg = {**model.pretrained_cfg, "architecture": name, "tag": "authors_in1k"}
    file = {"model": _authors_state(model, 1.0), "model_ema": _authors_state(model, 2.0), "epoch": 299}
    visionssm.load_official(model, file)
    assert all((value == expected).all() for value in model.state_dict().values())


@pytest.mark.parametrize("name", ["msvmamba_nano_test", "msvmamba_v3_nano_test"])
def test_own_keys_pass_the_key_map_unchanged(name: str) -> None:
    model = timm.create_model(name)
    state = model.state_dict()
    assert checkpoint_filter_fn(state, model).keys() == state.keys()
