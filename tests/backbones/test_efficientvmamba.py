"""EfficientVMamba's own features: atrous routes, the shared gate, the convolution branch, the authors' key layout."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import visionssm
from tests.backbones.selective_loop import array, scan_sequence
from tests.reference_cases import recorded_case
from visionssm.backbones.efficientvmamba import AtrousBlock, AtrousSS2D, ChannelGate, checkpoint_filter_fn
from visionssm.kernels import routes

sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))


def _map(height: int, width: int, channels: int) -> Tensor:
    return torch.randn(2, height, width, channels, generator=torch.Generator().manual_seed(3))


def _mixer() -> AtrousSS2D:
    torch.manual_seed(0)
    mixer = AtrousSS2D(8, ssm_ratio=2.0, d_state=16, conv_bias=True).double()
    torch.nn.init.normal_(mixer.Ds)
    torch.nn.init.normal_(mixer.dt_projs_bias)
    return mixer


def _scan_of_subsets(mixer: AtrousSS2D, image: np.ndarray) -> np.ndarray:
    """The paper's wording: pad to even sizes, cut into four subsets, scan each by itself, put pixels back, crop."""
    height, width, channels = image.shape
    padded = np.zeros((height + height % 2, width + width % 2, channels))
    padded[:height, :width] = image
    outside = np.ones(padded.shape[:2], dtype=bool)
    outside[:height, :width] = False
    result = np.zeros_like(padded)
    for k, (row, column, by_columns) in enumerate([(0, 0, False), (1, 0, True), (0, 1, False), (1, 1, True)]):
        subset, mask = padded[row::2, column::2], outside[row::2, column::2]
        if by_columns:
            subset, mask = subset.swapaxes(0, 1), mask.T
        y = scan_sequence(mixer, k, subset.reshape(-1, channels), mask.reshape(-1)).reshape(subset.shape)
        result[row::2, column::2] = y.swapaxes(0, 1) if by_columns else y
    return result[:height, :width]


@settings(max_examples=25, deadline=None)
@given(size=sizes)
def test_scan_equals_four_padded_subsets_scanned_one_by_one(size: tuple[int, int]) -> None:
    mixer = _mixer()
    u = _map(*size, mixer.dim).double()
    with torch.no_grad():
        actual = mixer.scan(u, routes.atrous(*size, 2))
    expected = np.stack([_scan_of_subsets(mixer, array(image)) for image in u])
    np.testing.assert_allclose(array(actual), expected, rtol=1e-9, atol=1e-10)


def test_a_pixel_influences_later_pixels_of_its_own_phase_only() -> None:
    mixer = _mixer()
    u = _map(6, 6, mixer.dim).double()[:1]
    changed = u.clone()
    changed[0, 2, 3] += 1.0  # even row, odd column: rows are walked one after the other
    order = routes.atrous(6, 6, 2)
    moved = (mixer.scan(changed, order) - mixer.scan(u, order)).abs().amax((0, 3)) > 1e-12
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[2, 3::2] = expected[4, 1::2] = True
    assert torch.equal(moved, expected)


@settings(max_examples=25, deadline=None)
@given(size=sizes)
def test_every_pixel_is_projected_with_the_parameters_of_its_route(size: tuple[int, int]) -> None:
    mixer = _mixer()
    u = _map(*size, mixer.dim).double()
    every_route = torch.nn.functional.linear(u.flatten(1, 2), mixer.x_proj_weight.flatten(0, 1)).unflatten(2, (4, -1))
    actual = mixer.project_phases(u)
    for k, route in enumerate(routes.atrous(*size, 2)):
        pixels = route[route >= 0].long()
        torch.testing.assert_close(actual[:, pixels, k], every_route[:, pixels, k])


def test_block_sees_only_the_normalised_map() -> None:
    torch.manual_seed(0)
    block = AtrousBlock(16, drop_path=0.0).eval().double()
    x = _map(5, 6, 16).double() * 100  # LayerNorm's eps is then nothing
    torch.testing.assert_close(block(3 * x) - 3 * x, block(x) - x, rtol=1e-6, atol=1e-6)


def test_gate_weighs_channels_by_the_normalised_map_and_multiplies_the_map_itself() -> None:
    torch.manual_seed(0)
    gate = ChannelGate(16).double()
    v = _map(5, 6, 16).double() * 100
    weights = gate(v) / v
    torch.testing.assert_close(weights, weights[:, :1, :1].expand_as(weights))
    torch.testing.assert_close(gate(5 * v), 5 * gate(v), rtol=1e-6, atol=1e-6)


def test_one_gate_serves_each_branch_by_itself() -> None:
    torch.manual_seed(0)
    block = AtrousBlock(16, drop_path=0.0).eval()
    inputs: list[Tensor] = []
    block.se.register_forward_hook(lambda _module, args, _output: inputs.append(args[0]))
    x = _map(5, 6, 16)
    block(x)
    n = block.norm(x)
    torch.testing.assert_close(inputs, [block.op(n), block.conv_branch(n)])


def test_small_is_64_channels_wide() -> None:
    with torch.device("meta"):
        assert timm.create_model("efficientvmamba_small").feature_info[0]["num_chs"] == 64


@pytest.mark.parametrize("name", ["efficientvmamba_tiny", "efficientvmamba_base"])
def test_flat_stages_become_blocks_and_a_downsampling(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
        state = {key: torch.empty(shape) for key, shape in recorded_case("efficientvmamba", name).data["state"].items()}
    mapped = checkpoint_filter_fn(state, model)
    assert {key: value.shape for key, value in mapped.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert mapped["layers.2.blocks.0.bn3.weight"] is state["layers.2.1.conv_pw2.1.weight"]
    depth = len(model.layers[2].blocks)
    assert mapped["layers.2.downsample.norm.weight"] is state[f"layers.2.{depth + 2}.norm.weight"]


def test_own_keys_pass_the_key_map_unchanged() -> None:
    model = timm.create_model("efficientvmamba_nano_test")
    state = model.state_dict()
    assert checkpoint_filter_fn(state, model).keys() == state.keys()


def _authors_file(model: torch.nn.Module, fill: float) -> dict[str, Tensor]:
    """A state dict as the authors' trainer names things, under the names of its older versions where there are any."""
    out = {}
    for name, value in model.state_dict().items():
        if name.startswith(("layers.2.", "layers.3.")):
            stage, _, number, rest = name.split(".", 1)[1].split(".", 3) if ".blocks." in name else ("", "", "", "")
            new = {"conv_pw": "conv_pw.0", "bn1": "conv_pw.1", "conv_dw": "conv_dw.0", "bn2": "conv_dw.1"}
            new |= {"conv_pwl": "conv_pw2.0", "bn3": "conv_pw2.1", "se": "se"}
            if number:
                head, tail = rest.split(".", 1)
                name = f"layers.{stage}.{int(number) + 1}.{new[head]}.{tail}"
            else:
                name = name.replace(".downsample.", f".{len(model.layers[2].blocks) + 2}.")
        name = name.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")
        name = name.replace("head.norm.", "norm.").replace("head.fc.", "head.").replace(".op.", ".self_attention.")
        out[name.replace(".blocks.0.norm.", ".blocks.0.ln_1.")] = torch.full_like(value, fill)
    return out


@pytest.mark.parametrize(
    "name,wrapper,expected",
    [
        ("efficientvmamba_tiny", "dense", 1.0),
        ("efficientvmamba_tiny", "trainer", 1.0),
        ("efficientvmamba_base", "trainer", 2.0),
    ],
)
def test_every_published_wrapper_loads_with_the_weights_that_were_reported(
    name: str, wrapper: str, expected: float
) -> None:
    model = timm.create_model("efficientvmamba_nano_test")
    model.pretrained_cfg = {**model.pretrained_cfg, "architecture": name, "tag": "authors_in1k"}
    raw = _authors_file(model, 1.0)
    average = {f"module.module.{key}": value for key, value in _authors_file(model, 2.0).items()}
    files = {
        "dense": {"state_dict": {f"module.module.{key}": value for key, value in raw.items()}},
        "trainer": {"epoch": 300, "model": raw, "ema_model": average, "optimizer": {}, "scaler": {}, "dyrep": None},
    }
    visionssm.load_official(model, files[wrapper])
    assert all((value == expected).all() for value in model.state_dict().values())
