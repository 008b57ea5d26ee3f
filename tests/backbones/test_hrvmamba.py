"""What is peculiar to HRVMamba: parallel resolutions, two feature pyramids, pose and segmentation backbones."""

from __future__ import annotations

import re
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, check_gradients, every_case, find_cases, recorded_case
from visionssm.backbones import hrvmamba
from visionssm.backbones.hrvmamba import AttentiveBlock, Block, DeformableSS2D, checkpoint_filter_fn
from visionssm.layers.hrnet import enlarge

TOLERANCE = 1e-4


def _nano(**kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("hrvmamba_nano_test", **kwargs)


def _backbone(case: Case) -> str:
    return re.sub("_(pose|seg)(_grad)?$", "", case.data["name"])


def _pose_backbone(case: Case) -> nn.Module:
    """The classifier without what the highest resolution does not need: the authors' top-down pose backbone."""
    model = timm.create_model({"hrvmamba_tiny": "hrvmamba_tiny_plain"}.get(name := _backbone(case), name))
    model.prune_intermediate_layers([0])
    return model.eval()


@every_case("HRVMamba for poses", slow="_pose$")
def test_highest_branch_is_the_authors_pose_backbone(case: Case) -> None:
    state = case.state_dict()
    model = visionssm.load_official(_pose_backbone(case), state)
    head = {key.removeprefix("head.final_layer."): value for key, value in state.items() if key.startswith("head.")}
    assert sum(p.numel() for p in model.parameters()) + sum(x.numel() for x in head.values()) == case.data["n_params"]
    with torch.no_grad():
        (feature,) = model.forward_intermediates(case.image(), indices=[0], intermediates_only=True)
        heatmap = F.conv2d(feature, **head)
    assert case.relative_error("feature", feature) <= TOLERANCE
    assert case.relative_error("heatmap", heatmap) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in find_cases("HRVMamba for poses") if "grad_norms" in case.data])
def test_gradients_of_the_pose_backbone_are_the_authors(case: Case) -> None:
    state = case.state_dict()
    model = visionssm.load_official(_pose_backbone(case), state)

    def heatmap(model: nn.Module, image: Tensor) -> Tensor:
        feature = model.forward_features(image).permute(0, 3, 1, 2)
        return F.conv2d(feature, *(state[f"head.final_layer.{part}"].to(image.dtype) for part in ("weight", "bias")))

    case.data["grad_norms"] = {k: v for k, v in case.data["grad_norms"].items() if k.startswith("backbone.")}
    check_gradients(case, model, checkpoint_filter_fn, output=heatmap)


@pytest.mark.slow
@every_case("HRVMamba for segmentation")
def test_neck_is_the_authors_segmentation_backbone(case: Case) -> None:
    state = case.state_dict()
    model = timm.create_model(_backbone(case))
    levels = model.prune_intermediate_layers([4, 5, 6, 7])
    visionssm.load_official(model, state).eval()
    with torch.no_grad():
        maps = model.forward_intermediates(case.image(), indices=levels, output_fmt="NHWC", intermediates_only=True)
    norms = 0
    for i, x in enumerate(maps):
        weight, bias = (state[f"outnorm{i}.{part}"] for part in ("weight", "bias"))
        norms += weight.numel() + bias.numel()
        normalised = F.layer_norm(x, x.shape[-1:], weight, bias).permute(0, 3, 1, 2)
        assert case.relative_error(f"out{i}", normalised) <= TOLERANCE
    assert sum(p.numel() for p in model.parameters()) + norms == case.data["n_params"]


def test_levels_are_four_branches_and_then_four_maps_of_the_neck() -> None:
    model = _nano().eval()
    image = torch.randn(1, 3, 96, 64)
    maps = model.forward_intermediates(image, intermediates_only=True)
    assert [x.shape[1] for x in maps] == [8, 16, 24, 32, 32, 48, 64, 128]
    assert [tuple(x.shape[2:]) for x in maps] == [(24, 16), (12, 8), (6, 4), (3, 2)] * 2
    for branch, recorded in zip(maps[:4], model.forward_stages(image)[-1], strict=True):
        torch.testing.assert_close(branch, recorded)


@pytest.mark.parametrize("last", range(8))
def test_pruned_model_computes_the_same_level_with_nothing_to_spare(last: int) -> None:
    model, pruned = _nano(), _nano()
    assert pruned.prune_intermediate_layers([last]) == [0]
    image = torch.randn(2, 3, 64, 64)
    (expected,) = model.eval().forward_intermediates(image, indices=[last], intermediates_only=True)
    (level,) = pruned.eval().forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(level, expected)
    torch.testing.assert_close(pruned.forward_features(image).permute(0, 3, 1, 2), expected)
    assert pruned.num_features == level.shape[1]
    pruned.train()(image).square().sum().backward()
    assert not [name for name, parameter in pruned.named_parameters() if parameter.grad is None]
    assert pruned.state_dict().keys() < model.state_dict().keys()


@pytest.mark.parametrize("levels", [(0,), (0, 1, 2, 3), (4, 5, 6, 7), (5, 7), (0, 5)])
def test_features_of_either_pyramid_are_timms(levels: tuple[int, ...]) -> None:
    features = _nano(features_only=True, out_indices=levels).eval()
    full = _nano().eval()
    image = torch.randn(1, 3, 96, 64)
    maps = features(image)
    expected = full.forward_intermediates(image, indices=list(levels), intermediates_only=True)
    for actual, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(actual, reference)
    assert features.feature_info.channels() == [x.shape[1] for x in maps]
    assert features.feature_info.reduction() == [96 // x.shape[2] for x in maps]


def test_a_pruned_model_can_be_pruned_again() -> None:
    pruned = _nano()
    assert pruned.prune_intermediate_layers([7, 1, 5]) == [2, 0, 1]
    assert pruned.prune_intermediate_layers([1]) == [0]
    image = torch.randn(1, 3, 64, 64)
    expected = _nano().eval().forward_intermediates(image, indices=[5], intermediates_only=True)
    torch.testing.assert_close(pruned.eval().forward_intermediates(image, intermediates_only=True), expected)


def _definition_of_enlarging(x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    once = F.interpolate(x, scale_factor=factor, mode="bilinear")
    return F.interpolate(once, size=size, mode="bilinear")


def test_odd_sizes_are_resized_twice_and_even_ones_once() -> None:
    x = torch.randn(1, 2, 3, 4)
    twice = enlarge(x, 2, torch.empty(1, 1, 5, 7))
    torch.testing.assert_close(twice, _definition_of_enlarging(x, 2, (5, 7)))
    assert not torch.allclose(twice, F.interpolate(x, size=(5, 7), mode="bilinear"))
    torch.testing.assert_close(
        enlarge(x, 2, torch.empty(1, 1, 6, 8)), F.interpolate(x, scale_factor=2, mode="bilinear")
    )


def test_first_position_encoding_does_not_enter_the_residual() -> None:
    block = AttentiveBlock(8, offset_conv=False, drop_path=0.0).eval()
    x = torch.randn(1, 6, 5, 8)
    nn.init.zeros_(block.op.out_proj.weight)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    mixed = x + block.multi_scale(x + block.cpe1(x))
    torch.testing.assert_close(block.transform(x), mixed + block.cpe2(mixed))


def test_scales_are_interleaved_channel_by_channel() -> None:
    block = Block(8, offset_conv=False, drop_path=0.0)
    x = torch.randn(1, 6, 5, 8)
    quarters = [conv(part) for conv, part in zip(block.conv2d, block.norm0(x).split(2, -1))]
    expected = [quarters[i % 4][..., i // 4] for i in range(8)]
    torch.testing.assert_close(block.multi_scale(x), F.gelu(torch.stack(expected, -1)))
    with torch.no_grad():
        torch.testing.assert_close(block.multi_scale(x), F.gelu(torch.stack(expected, -1)))
    assert [conv.kernel_size[0] for conv in block.conv2d] == [3, 5, 7, 9]


@pytest.mark.parametrize("gradients", [False, True])
def test_a_scale_that_was_replaced_or_has_a_hook_is_called(gradients: bool) -> None:
    block, x = Block(8, offset_conv=False, drop_path=0.0), torch.randn(1, 6, 5, 8)
    seen = []
    with torch.set_grad_enabled(gradients):
        plain = block.multi_scale(x)
        hook = block.conv2d[1].register_forward_hook(lambda module, args, out: seen.append(out))
        torch.testing.assert_close(block.multi_scale(x), plain)
        hook.remove()
        assert [y.shape for y in seen] == [(1, 6, 5, 2)]
        block.conv2d[2] = nn.Sequential(block.conv2d[2], nn.Identity())
        torch.testing.assert_close(block.multi_scale(x), plain)
        block.conv2d[2] = nn.Identity()
        assert not torch.allclose(block.multi_scale(x), plain)


def test_only_the_largest_variant_convolves_before_the_offsets() -> None:
    with torch.device("meta"):
        for name in ("nano", "tiny", "small", "base"):
            names = [key for key, _ in timm.create_model(f"hrvmamba_{name}").named_parameters()]
            assert any("offset_mask_dw" in key for key in names) == (name == "base")


def test_projection_to_the_offsets_is_initialised_as_every_other() -> None:
    mixer = _nano().stage2[0].branches[0][0].op
    assert isinstance(mixer, DeformableSS2D)
    assert 0.015 < mixer.conv2d.offset_mask.weight.std() < 0.025


@pytest.mark.parametrize(
    "name,other", [("hrvmamba_nano", "hrvmamba_nano_plain"), ("hrvmamba_tiny_plain", "hrvmamba_tiny")]
)
def test_a_file_of_the_other_block_is_recognised_by_its_keys(name: str, other: str) -> None:
    state = {key: torch.zeros(shape) for key, shape in recorded_case("hrvmamba", other).data["state"].items()}
    with pytest.raises(ValueError, match=f"it fits {other}"):
        visionssm.load_official(timm.create_model(name), state)
    visionssm.load_official(timm.create_model(other), state)


def test_stages_add_a_branch_each() -> None:
    stages = _nano().eval().forward_stages(torch.randn(1, 3, 64, 64))
    assert [len(maps) for maps in stages] == [1, 2, 3, 4]
    assert [tuple(x.shape[2:]) for x in stages[-1]] == [(16, 16), (8, 8), (4, 4), (2, 2)]


def test_train_and_eval_return_the_model() -> None:
    model = _nano()
    assert model.train() is model
    assert model.eval() is model


def test_state_matrices_are_decayed_and_one_dimensional_parameters_are_not() -> None:
    model = _nano()
    assert model.no_weight_decay() == set()
    decayed = {name for name, value in model.named_parameters() if value.ndim > 1}
    assert all(name in decayed for name, _ in model.named_parameters() if re.search("A_logs|dt_projs_bias", name))


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="4 multiples of 4"):
        _nano(dims=(8, 16, 24, 30))
    with pytest.raises(ValueError, match="4 multiples of 4"):
        _nano(dims=(8, 16, 24))


@pytest.mark.parametrize("kind", [Block, AttentiveBlock])
def test_compiled_block_is_the_block_and_steps_aside_where_somebody_looks(kind: type[Block]) -> None:
    torch.manual_seed(0)
    block, x = kind(8, offset_conv=False, drop_path=0.1).eval(), torch.randn(2, 8, 7, 6)
    expected = block(x)  # gradients may be asked for
    with torch.no_grad():
        with mock.patch.object(hrvmamba, "multi_scale", wraps=hrvmamba.multi_scale) as used:
            torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
        assert used.call_count == 1
        with mock.patch.object(hrvmamba, "multi_scale", side_effect=AssertionError):
            for module in (
                block.norm0,
                block.conv2d[2],
                block.norm2,
                *([block.cpe2] if kind is AttentiveBlock else []),
            ):
                seen: list[Tensor] = []
                handle = module.register_forward_hook(lambda _, __, y, seen=seen: seen.append(y))
                torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
                assert len(seen) == 1
                handle.remove()
            block.train()
            block(x)
