"""What is peculiar to MambaVision: scans and attention in windows, a bias that counts twice, five layouts of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import Attention
from torch import Tensor, nn

import visionssm
from tests.backbones.selective_loop import array, scan_sequence
from tests.reference_cases import recorded_case
from visionssm.backbones.mambavision import ConvBlock, MambaVision, WindowScan
from visionssm.checkpoints import CheckpointError

PARAMETERS = {
    "mambavision_tiny": 31_794_248,
    "mambavision_tiny2": 35_104_008,
    "mambavision_small": 50_140_584,
    "mambavision_base": 97_685_288,
    "mambavision_large": 227_961_048,
    "mambavision_large2": 241_554_824,
    "mambavision_large2_512_21k": 241_554_824,
    "mambavision_large3_256_21k": 739_570_472,
    "mambavision_large3_512_21k": 739_570_472,
}


def _model(**kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("mambavision_nano_test", **kwargs).eval()


def _published_shapes(dim: int, stem_dim: int, depths: tuple[int, ...], classes: int = 1000) -> dict[str, list[int]]:
    """Names and shapes of the authors' files of models with layer scale."""

    def batch_norm(name: str, width: int) -> dict[str, list[int]]:
        vectors = {f"{name}.{part}": [width] for part in ("weight", "bias", "running_mean", "running_var")}
        return vectors | {f"{name}.num_batches_tracked": []}

    def linear(name: str, n_in: int, n_out: int) -> dict[str, list[int]]:
        return {f"{name}.weight": [n_out, n_in], f"{name}.bias": [n_out]}

    shapes = {"patch_embed.conv_down.0.weight": [stem_dim, 3, 3, 3], **batch_norm("patch_embed.conv_down.1", stem_dim)}
    shapes |= {"patch_embed.conv_down.3.weight": [dim, stem_dim, 3, 3], **batch_norm("patch_embed.conv_down.4", dim)}
    for stage, depth in enumerate(depths):
        width = dim * 2**stage
        half, rank = width // 2, -(-width // 16)
        for number in range(depth):
            block = f"levels.{stage}.blocks.{number}"
            if stage < 2:
                for i in (1, 2):
                    shapes |= {f"{block}.conv{i}.weight": [width, width, 3, 3], f"{block}.conv{i}.bias": [width]}
                    shapes |= batch_norm(f"{block}.norm{i}", width)
                continue
            for i in (1, 2):
                shapes |= {f"{block}.norm{i}.{part}": [width] for part in ("weight", "bias")}
                shapes[f"{block}.gamma_{i}"] = [width]
            shapes |= linear(f"{block}.mlp.fc1", width, 4 * width) | linear(f"{block}.mlp.fc2", 4 * width, width)
            mixer = f"{block}.mixer"
            if number >= depth - depth // 2:
                shapes |= linear(f"{mixer}.qkv", width, 3 * width) | linear(f"{mixer}.proj", width, width)
                continue
            shapes |= {f"{mixer}.{name}_proj.weight": [width, width] for name in ("in", "out")}
            shapes |= {f"{mixer}.conv1d_{name}.weight": [half, 1, 3] for name in "xz"}
            shapes |= {f"{mixer}.A_log": [half, 8], f"{mixer}.D": [half]}
            shapes |= {f"{mixer}.x_proj.weight": [rank + 16, half]} | linear(f"{mixer}.dt_proj", rank, half)
        if stage < 3:
            shapes[f"levels.{stage}.downsample.reduction.0.weight"] = [2 * width, width, 3, 3]
    return shapes | batch_norm("norm", 8 * dim) | linear("head", 8 * dim, classes)


def test_names_in_the_authors_files_are_those_of_the_recorded_case() -> None:
    recorded = recorded_case("mambavision", "mambavision_base").data["state"]
    assert recorded == _published_shapes(128, 64, (3, 3, 10, 5))


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    """A file of the authors, of the size of our test variant."""
    torch.manual_seed(0)
    return {name: torch.rand(shape) if shape else torch.tensor(7) for name, shape in _NANO.items()}


_NANO = _published_shapes(12, 8, (1, 1, 3, 2))


@pytest.mark.parametrize("name, parameters", PARAMETERS.items())
def test_every_size_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_sizes_are_those_that_are_registered() -> None:
    assert set(visionssm.list_models("mambavision*")) == {*PARAMETERS, "mambavision_nano_test"}


def test_registry_and_readme_say_the_licence_of_the_weights() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "**MambaVision's weights are CC-BY-NC-SA-4.0**" in " ".join(readme.split())
    tagged = timm.list_models("mambavision*", include_tags=True)
    assert len([name for name in tagged if "." in name]) == 11
    for name in tagged:
        assert timm.get_pretrained_cfg(name).license == "cc-by-nc-sa-4.0"


def _mixed(layer: WindowScan, tokens: np.ndarray) -> np.ndarray:
    """The published mixer on the tokens (T, C) of one window, one step at a time."""
    width = layer.dim
    xz = tokens @ array(layer.in_proj.weight).T
    kernel = array(layer.conv1d.weight)[:, 0]  # (C, 3)
    padded = np.pad(xz, ((1, 1), (0, 0)))
    convolved = sum(padded[i : i + len(xz)] * kernel[:, i] for i in range(3))
    x, z = np.split(convolved / (1 + np.exp(-convolved)), [width], axis=1)
    published = WindowScan(2 * width, d_state=layer.d_state).double()
    published.load_state_dict(layer.state_dict())
    published.dt_projs_bias.data *= 2  # once of the projection, once of the scan
    return np.concatenate([scan_sequence(published, 0, x), z], axis=1) @ array(layer.out_proj.weight).T


def test_scan_mixer_is_the_published_one() -> None:
    torch.manual_seed(0)
    layer = WindowScan(12).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(3, 9, 12, dtype=torch.float64)
    expected = np.stack([_mixed(layer, window) for window in array(tokens)])
    np.testing.assert_allclose(array(layer(tokens)), expected, rtol=1e-9, atol=1e-9)


def test_convolution_before_the_scan_has_no_bias_and_sees_the_token_after() -> None:
    layer = WindowScan(8).double()
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    assert layer.conv1d.bias is None
    torch.testing.assert_close(layer.convolve(tokens), layer.conv1d(tokens.mT).mT)


def test_branch_beside_the_scan_is_no_gate() -> None:
    layer = WindowScan(8)
    layer.in_proj.weight.data[:4] = 0  # nothing to scan
    layer.out_proj.weight.data = torch.eye(8)
    tokens = torch.randn(1, 5, 8)
    z = F.silu(layer.convolve(layer.in_proj(tokens)))[..., 4:]
    torch.testing.assert_close(layer(tokens), torch.cat([torch.zeros_like(z), z], -1))


@pytest.mark.parametrize("depth, attending", [(8, [4, 5, 6, 7]), (7, [4, 5, 6]), (11, [6, 7, 8, 9, 10]), (5, [3, 4])])
def test_last_blocks_attend_and_the_middle_one_of_an_odd_number_scans(depth: int, attending: list[int]) -> None:
    blocks = _model(depths=(1, 1, depth, 1)).layers[2].blocks
    assert [i for i, block in enumerate(blocks) if isinstance(block.mixer, Attention)] == attending
    assert all(isinstance(blocks[i].mixer, WindowScan) for i in set(range(depth)) - set(attending))


@pytest.mark.parametrize("sides", [(6, 6), (7, 5), (2, 8)])
def test_stage_runs_all_blocks_on_each_window_with_the_zeros_that_fill_it_up(sides: tuple[int, int]) -> None:
    stage = _model(layer_scale=1.0).layers[2]
    size, x = 3, torch.randn(2, *sides, 48)
    rows, columns = (-(-side // size) for side in sides)
    padded = F.pad(x, (0, 0, 0, columns * size - sides[1], 0, rows * size - sides[0]))
    expected = torch.empty_like(padded)
    for row in range(0, rows * size, size):
        for column in range(0, columns * size, size):
            window = padded[:, row : row + size, column : column + size].flatten(1, 2)
            for block in stage.blocks:
                window = block(window)
            expected[:, row : row + size, column : column + size] = window.unflatten(1, (size, size))
    torch.testing.assert_close(stage(x), expected[:, : sides[0], : sides[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window, together", [(2, False), (4, True)])
def test_window_that_holds_the_whole_map_lets_all_tokens_meet(window: int, together: bool) -> None:
    stage = _model(window_size=(window, 1)).layers[2]
    x = torch.randn(1, 4, 4, 48)
    changed = x.clone()
    changed[:, 0, 0] += torch.randn(48)
    assert bool((stage(x) != stage(changed))[:, 3, 3].any()) == together


@pytest.mark.parametrize("option", [{"window_size": (7,)}, {"window_size": (7, 0)}, {"num_heads": (4, 8, 16)}])
def test_stages_with_windows_need_two_numbers(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"{name}=.*two whole numbers"):
        _model(**option)


def test_models_have_four_stages() -> None:
    with pytest.raises(ValueError, match=r"depths=\(1, 1, 1\)"):
        _model(depths=(1, 1, 1))


def test_small_sizes_have_no_layer_scale() -> None:
    with torch.device("meta"):
        scaled = {name: any("gamma" in key for key in timm.create_model(name).state_dict()) for name in PARAMETERS}
    assert {name for name, found in scaled.items() if not found} == {
        f"mambavision_{x}" for x in ("tiny", "tiny2", "small")
    }


def test_convolution_block_is_the_published_one() -> None:
    block = ConvBlock(8, drop_path=0.0).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    y = F.gelu(block.norm1[1](F.conv2d(x, block.conv1.weight, block.conv1.bias, padding=1)), approximate="tanh")
    y = x + block.norm2[1](F.conv2d(y, block.conv2.weight, block.conv2.bias, padding=1))
    torch.testing.assert_close(block(x.movedim(1, -1)).movedim(-1, 1), y)


def test_batch_norms_can_become_those_of_several_processes() -> None:
    model, image = _model(), torch.randn(1, 3, 64, 48)
    expected = model(image)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == 7
    torch.testing.assert_close(converted(image), expected)


def _as_published(official: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in official.items()}


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "encoder.", "module.encoder."])
def test_authors_files_are_read_whatever_they_are_wrapped_in(
    official: dict[str, Tensor], tmp_path: Path, wrapper: str, prefix: str
) -> None:
    path = tmp_path / "model.pth.tar"
    torch.save({wrapper: _as_published(official, prefix), "epoch": 309}, path)
    expected = visionssm.load_official(_model(), official).state_dict()
    found = visionssm.load_official(_model(), path).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    mixer = "layers.2.blocks.0.mixer"
    theirs = "levels.2.blocks.0.mixer"
    assert torch.equal(found[f"{mixer}.conv1d.weight"][:24], official[f"{theirs}.conv1d_x.weight"])
    assert torch.equal(found[f"{mixer}.conv1d.weight"][24:], official[f"{theirs}.conv1d_z.weight"])
    assert torch.equal(found["head.norm.1.running_mean"], official["norm.running_mean"])


def test_safetensors_of_the_wrapped_model_are_read(official: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(_as_published(official, "model."), tmp_path / "model.safetensors")
    expected = visionssm.load_official(_model(), official).state_dict()
    found = visionssm.load_official(_model(), tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_backbone_of_a_dense_model_is_read_without_the_norms_of_its_outputs(official: dict[str, Tensor]) -> None:
    dense = {f"backbone.{name}": x for name, x in official.items() if not name.startswith(("norm.", "head."))}
    dense |= {f"backbone.outnorm{i}.{part}": torch.rand(12 * 2**i) for i in range(4) for part in ("weight", "bias")}
    dense["neck.lateral_convs.0.conv.weight"] = torch.rand(4, 4)
    maps = visionssm.load_official(_model(features_only=True), {"state_dict": dense})
    expected = visionssm.load_official(_model(), official).state_dict()
    for name, value in maps.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_file_that_lacks_half_of_a_convolution_is_refused(official: dict[str, Tensor]) -> None:
    name = "levels.2.blocks.0.mixer.conv1d_z.weight"
    with pytest.raises(CheckpointError, match=r"1 missing: layers\.2\.blocks\.0\.mixer\.conv1d\.weight"):
        visionssm.load_official(_model(), {key: value for key, value in official.items() if key != name})


def test_our_own_files_are_read(tmp_path: Path) -> None:
    model = _model()
    assert isinstance(model, MambaVision)
    torch.save(model.state_dict(), tmp_path / "ours.pth")
    again = visionssm.load_official(_model(), tmp_path / "ours.pth")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_half_precision_has_no_nan_where_steps_and_activations_are_large() -> None:
    model, image = _model(), 60 * torch.randn(1, 3, 64, 64)
    for name, parameter in model.named_parameters():
        if name.endswith("dt_projs_bias"):
            nn.init.constant_(parameter, 30.0)
    with torch.autocast("cpu", dtype=torch.float16):
        assert model(image).isfinite().all()
