"""FeatureMaps: any registered model as NCHW maps of declared widths and strides."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from torch import nn

import visionssm
from visionssm.heads.feature_maps import FeatureMaps, SimplePyramid

NANO = visionssm.list_models("*_nano_test")
PLAIN = ["videomamba_img_nano_test", "vim_nano_test", "plstm_nano_test", "localvim_nano_test", "plainmamba_nano_test"]


@pytest.mark.parametrize("name", [*NANO, "mambaout_femto", "test_convnext", "test_vit"])
def test_maps_have_the_declared_widths_and_strides(name: str) -> None:
    maps = FeatureMaps(name).eval()
    assert maps.strides == (4, 8, 16, 32)
    with torch.no_grad():
        outputs = maps(torch.rand(1, 3, 96, 64))
    assert [tuple(x.shape) for x in outputs] == [
        (1, width, 96 // stride, 64 // stride) for width, stride in zip(maps.channels, maps.strides, strict=True)
    ]


@pytest.mark.parametrize("name", [*NANO, "mambaout_femto"])
def test_odd_sizes_are_rounded_by_less_than_a_pixel(name: str) -> None:
    maps = FeatureMaps(name).eval()
    with torch.no_grad():
        outputs = maps(torch.rand(1, 3, 75, 98))
    for x, stride in zip(outputs, maps.strides, strict=True):
        for got, side in zip(x.shape[2:], (75, 98), strict=True):
            # each stage may round once, and a plain model pads to whole patches
            assert side // stride <= got < math.ceil(side / stride) + 32 // stride


@pytest.mark.parametrize("name", NANO)
def test_without_norms_the_maps_are_those_of_timm(name: str) -> None:
    maps = FeatureMaps(name, norm_outputs=False, out_indices=(1, 3)).eval()
    reference = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    state = maps.model.state_dict()
    assert set(reference.model.state_dict()) == set(state)
    reference.model.load_state_dict(state)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference(x)
        if name in PLAIN:
            assert maps.pyramid is not None
            expected = maps.pyramid(expected[-1])
        for got, want in zip(maps(x), expected, strict=True):
            torch.testing.assert_close(got, want)


def test_output_norms_normalise_every_pixel() -> None:
    maps = FeatureMaps("vmamba_nano_test", out_indices=(0, 3)).eval()
    with torch.no_grad():
        for x in maps(10 + torch.rand(1, 3, 64, 64)):
            torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
            torch.testing.assert_close(x.var(1, unbiased=False), torch.ones_like(x[:, 0]), atol=1e-2, rtol=0)
    norms = [module for module in maps.norms if isinstance(module, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-5, 1e-5]


@pytest.mark.parametrize("name", [*NANO, "mambaout_femto"])
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0, 1)])
def test_every_parameter_gets_a_gradient(name: str, out_indices: tuple[int, ...]) -> None:
    maps = FeatureMaps(name, out_indices=out_indices)
    sum(x.square().sum() + x.sin().sum() for x in maps(torch.rand(2, 3, 64, 64))).backward()
    assert [n for n, p in maps.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", [*NANO, "mambaout_femto"])
def test_frozen_stages_stay_as_they_are_through_training(name: str) -> None:
    maps = FeatureMaps(name, frozen_stages=2, drop_path_rate=0.5)
    before = copy.deepcopy(maps.state_dict())
    maps.train()
    optimizer = torch.optim.SGD([p for p in maps.parameters() if p.requires_grad], lr=0.1)
    sum(x.square().sum() + x.sin().sum() for x in maps(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    frozen = {n for n, p in maps.named_parameters() if not p.requires_grad}
    after = maps.state_dict()
    buffers = {n for n, module in maps.named_modules() if not module.training}
    for key in before:
        if key in frozen or key.rpartition(".")[0] in buffers:
            assert torch.equal(before[key], after[key]), key
    assert any(not torch.equal(before[key], after[key]) for key in before)
    if name == "vmamba_nano_test":
        stages = ("model.patch_embed.", "model.layers.0.", "model.layers.1.")
        assert frozen == {n for n, _ in maps.named_parameters() if n.startswith(stages)}
        droppers = {n: m.training for n, m in maps.named_modules() if n.endswith("drop_path")}
        assert droppers == {n: not n.startswith(stages) for n in droppers}


def test_frozen_stages_count_as_in_mmdetection() -> None:
    def trainable(frozen_stages: int) -> set[str]:
        maps = FeatureMaps("vmamba_nano_test", frozen_stages=frozen_stages, norm_outputs=False)
        return {".".join(n.split(".")[1:3]) for n, p in maps.named_parameters() if p.requires_grad}

    stages = {f"layers.{i}" for i in range(4)}
    stem = {n for n in trainable(-1) if n.startswith("patch_embed")}
    assert stem
    assert trainable(-1) == stem | stages
    assert trainable(0) == stages
    assert trainable(1) == stages - {"layers.0"}
    assert trainable(4) == set()


def test_batch_statistics_of_a_frozen_stem_are_kept() -> None:
    maps = FeatureMaps("hrvmamba_nano_test", frozen_stages=0).train()
    mean = maps.model.bn1.running_mean.clone()
    maps(torch.rand(2, 3, 64, 64))
    assert torch.equal(maps.model.bn1.running_mean, mean)
    other = FeatureMaps("hrvmamba_nano_test").train()
    mean = other.model.bn1.running_mean.clone()
    other(torch.rand(2, 3, 64, 64))
    assert not torch.equal(other.model.bn1.running_mean, mean)


def test_hrvmamba_gives_the_branches_or_the_pyramid_of_its_neck() -> None:
    maps = FeatureMaps("hrvmamba_nano_test", out_indices=(4, 5, 6, 7)).eval()
    assert maps.strides == (4, 8, 16, 32)
    with torch.no_grad():
        assert [x.shape[1] for x in maps(torch.rand(1, 3, 64, 64))] == list(maps.channels) == [32, 48, 64, 128]


@torch.no_grad()
def test_layers_of_a_plain_model_are_given_as_they_are_and_normalised() -> None:
    raw = FeatureMaps("plainmamba_nano_test", layers=(0, 2), out_indices=(0, 1), norm_outputs=False).eval()
    assert (raw.strides, raw.level_strides, raw.channels) == ((16, 16), (16, 16), (48, 48))
    assert len(raw.model.layers) == 3
    reference = timm.create_model("plainmamba_nano_test", features_only=True, out_indices=(0, 2)).eval()
    reference.model.load_state_dict(raw.model.state_dict())
    x = torch.rand(1, 3, 70, 40)
    for got, want in zip(raw(x), reference(x), strict=True):
        assert torch.equal(got, want)
        assert got.shape == (1, 48, 5, 3)
    one = FeatureMaps("plainmamba_nano_test", layers=(0, 1, 3), out_indices=(2,), norm_eps=1e-6)
    assert [len(one.model.layers), *(norm.eps for norm in one.norms if isinstance(norm, nn.LayerNorm))] == [4, 1e-6]


@pytest.mark.parametrize(
    "name, layers, message",
    [
        ("vmamba_nano_test", (0, 1), "are for plain models"),
        ("vim_nano_test", (1, 0), r"layers=\(1, 0\) must be increasing numbers"),
        ("vim_nano_test", (0, 99), "the layers of 'vim_nano_test'"),
        ("vim_nano_test", (0, 1), "out_indices=.* from 0 to 1, the levels"),
    ],
)
def test_layers_that_are_not_there_are_refused(name: str, layers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureMaps(name, layers=layers)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_pyramid_reaches_all_strides_from_any(stride: int) -> None:
    pyramid = SimplePyramid(32, stride)
    shapes = [tuple(x.shape[2:]) for x in pyramid(torch.rand(1, 32, 128 // stride, 64 // stride))]
    assert shapes == [(32, 16), (16, 8), (8, 4), (4, 2)]
    assert pyramid.channels[int(math.log2(stride)) - 2] == 32


def test_pyramid_level_of_the_same_stride_is_the_map_itself() -> None:
    x = torch.rand(1, 8, 6, 4)
    same, coarser = SimplePyramid(8, 16, (2, 3))(x)
    assert torch.equal(same, x)
    assert torch.equal(coarser, x.unflatten(2, (3, 2)).unflatten(4, (2, 2)).amax((3, 5)))


def test_pyramid_refuses_patches_of_14_pixels() -> None:
    with pytest.raises(ValueError, match=r"power of two, got 14"):
        SimplePyramid(32, 14)


def test_other_input_channels_and_checkpointing() -> None:
    maps = FeatureMaps("vmamba_nano_test", in_chans=1)
    maps.set_grad_checkpointing()
    sum(x.sin().sum() for x in maps(torch.rand(1, 1, 64, 64))).backward()
    assert all(p.grad is not None for p in maps.parameters())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "vmamba_tiny_s1l9"}, "did you mean 'vmamba_tiny_s1l8'"),
        ({"name": "qqqqqqqq"}, r"timm.list_models\(\) names all"),
        ({"out_indices": (0, 4)}, "numbers from 0 to 3"),
        ({"out_indices": (3, 1)}, "increasing"),
        ({"out_indices": (1, 1)}, "increasing"),
        ({"out_indices": ()}, "increasing"),
        ({"out_indices": (-1,)}, "numbers from 0 to 3"),
        ({"frozen_stages": 5}, "frozen_stages=5 must be .* up to 4"),
        ({"frozen_stages": -2}, "frozen_stages=-2"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureMaps(**{"name": "vmamba_nano_test", **arguments})


@pytest.mark.parametrize("out_indices", [(), (-1, 2), (0, 4), (2, 2), (3, 0), (0.0, 1)])
def test_levels_of_plain_backbones_are_increasing_numbers_too(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be increasing numbers from 0 to 3, the levels of 'vim_nano_test'"):
        FeatureMaps("vim_nano_test", out_indices=out_indices, img_size=32)
