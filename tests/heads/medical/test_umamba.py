"""U-Mamba is the authors' for any plan, takes their files under all names, and refuses what does not fit."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from tests.heads.medical.recorded import check_case
from tests.reference_cases import Case, every_case, gradient_norms, recorded_case
from visionssm.heads.medical import Plan, UMamba
from visionssm.heads.medical.umamba import (
    ABDOMEN_CT,
    MICROSCOPY,
    MambaLayer,
    ResidualBlock,
    UpsampleConv,
    checkpoint_filter_fn,
)


def case_model(case: Case) -> UMamba:
    init = case.meta["init"]
    sides = case.data["input"]["shape"][2:]
    plan = Plan(
        patch=init.get("input_size", sides),
        widths=init["features_per_stage"],
        strides=init["strides"],
        kernels=init["kernel_sizes"],
        blocks=(init["n_conv_per_stage"],),
    )
    model = visionssm.create_segmenter(
        case.data["name"].removesuffix("_grad").removesuffix("_nods"),
        num_classes=init["num_classes"],
        in_chans=init["input_channels"],
        plan=plan,
        deep_supervision=init["deep_supervision"],
    )
    assert isinstance(model, UMamba)
    return visionssm.load_official(model, {"network_weights": case.state_dict()})


def stages(model: UMamba, of_encoder: bool) -> dict[str, nn.Module]:
    """The modules whose maps are recorded; with Mamba after every stage the encoder's maps are after it."""
    layers = model.encoder.mamba_layers
    encoder = list(model.encoder.stages)
    if of_encoder:
        encoder = [stage if isinstance(layer, nn.Identity) else layer for stage, layer in zip(encoder, layers)]
    modules = [model.encoder.stem, *encoder, *([] if of_encoder else [layers[-1]]), *model.decoder.stages]
    return {f"stage{i}": module for i, module in enumerate(modules)}


# Of gradient norms in float32: how far they move, in float64 too, when the image changes by as much as float32 rounds,
# and an activation comes to lie on the other side of its kink.
AT_A_KINK = 3e-2


@pytest.mark.slow
def test_gradients_jump_where_the_image_changes_by_a_rounding() -> None:
    case = recorded_case("umamba", "umamba_enc3d_grad")
    image, noise = case.image().double(), torch.randn(case.image().shape, generator=torch.Generator().manual_seed(0))
    norms = []
    for x in (image, image * (1 + 1e-7 * noise.double())):
        model = case_model(case).double()
        y = model(x)
        y = y[0] if isinstance(y, (list, tuple)) else y
        (y * case.cotangent(y)).sum().backward()
        norms.append(gradient_norms(case, model, checkpoint_filter_fn, "grad_norms_f64"))
    changes = [abs(norms[1][name][0] / exact - 1) for name, (exact, _) in norms[0].items() if exact > 1e-9]
    assert 0.01 < max(changes) < AT_A_KINK


@every_case("U-Mamba")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_network_equals_authors(case: Case, dtype: torch.dtype) -> None:
    model = case_model(case)
    of_encoder = "enc" in case.data["name"]
    double = dtype == torch.float64
    check_case(
        case,
        model,
        stages(model, of_encoder),
        checkpoint_filter_fn,
        dtype=dtype,
        output_tolerance=1e-6 if double else 1e-3,
        gradient_tolerance=1e-6 if double else AT_A_KINK,
    )


@pytest.mark.parametrize("keep", ["^(?!decoder.encoder)(?!.*all_modules)", "^decoder|all_modules|mamba_layer"])
def test_one_name_of_a_tensor_is_enough(keep: str) -> None:
    case = recorded_case("umamba", "umamba_enc2d")
    whole = case_model(case).state_dict()
    part = {name: value for name, value in case.state_dict().items() if re.search(keep, name)}
    assert len(part) < len(case.data["state"])
    model = case_model(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    visionssm.load_official(model, part)
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def millions(**arguments: Any) -> float:
    with torch.device("meta"):
        model = visionssm.create_segmenter(**arguments)
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 2)


def test_plans_of_the_authors_data_have_as_many_parameters_as_counted() -> None:
    assert [millions(name=f"umamba_{kind}3d", plan=ABDOMEN_CT) for kind in ("bot", "enc")] == [41.95, 42.84]
    assert [millions(name=f"umamba_{kind}3d") for kind in ("bot", "enc")] == [41.95, 42.84]
    assert [millions(name=f"umamba_{kind}2d") for kind in ("bot", "enc")] == [47.53, 47.02]
    assert [millions(name=f"umamba_{kind}2d", plan=MICROSCOPY) for kind in ("bot", "enc")] == [64.82, 64.04]


def test_upsampling_after_the_convolution_equals_the_published_order() -> None:
    torch.manual_seed(0)
    layer = UpsampleConv(4, 3, (1, 2, 2)).double()
    x = torch.randn(2, 4, 3, 5, 2, dtype=torch.float64)
    before = layer.conv(F.interpolate(x, scale_factor=(1.0, 2.0, 2.0), mode="nearest"))
    torch.testing.assert_close(layer(x), before)


def test_channel_tokens_are_channels() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(6, of_channels=True).double()
    x = torch.randn(2, 9, 2, 3, dtype=torch.float64)
    tokens = layer.mamba(layer.norm(x.view(2, 9, 6)))
    torch.testing.assert_close(layer(x), tokens.view_as(x))


def test_plan_with_channel_tokens_takes_its_patch_only_and_names_both() -> None:
    plan = {"patch": (32, 48), "widths": (8, 48), "strides": (1, 8)}
    model = visionssm.create_segmenter("umamba_enc2d", num_classes=2, plan=plan).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 1, 32, 48)).shape == (1, 2, 32, 48)
        with pytest.raises(ValueError, match=r"\(32, 40\).*\(32, 48\).*channel tokens"):
            model(torch.randn(1, 1, 32, 40))


@pytest.mark.parametrize("sides", [(1, 1, 1), (3, 5, 8), (8, 8, 8)])
def test_input_smaller_than_the_strides_is_filled_up(sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = visionssm.create_segmenter("umamba_enc3d_nano").eval()
    x = torch.randn(1, 1, *sides)
    filled = F.pad(x, (0, 16 - sides[2], 0, 8 - sides[1], 0, 8 - sides[0]))  # two pixels for the deepest norm
    with torch.inference_mode():
        expected = model(filled) if max(sides) == 8 and min(sides) == 8 else None
        y = model(x)
    assert y.shape == (1, 4, *sides)
    assert y.isfinite().all()
    if expected is not None:
        torch.testing.assert_close(y, expected[..., :8])


def test_deep_supervision_gives_all_resolutions_in_training_only() -> None:
    model = visionssm.create_segmenter("umamba_enc2d_nano", num_classes=3)
    x = torch.randn(2, 1, 20, 24)
    levels = model(x)
    assert [tuple(level.shape) for level in levels] == [(2, 3, 20, 24), (2, 3, 10, 12), (2, 3, 5, 6)]
    assert isinstance(model.eval()(x), Tensor)
    off = visionssm.create_segmenter("umamba_enc2d_nano", num_classes=3, deep_supervision=False)
    assert off(x).shape == (2, 3, 20, 24)


def test_half_precision_trains_without_nan_where_scans_are_long() -> None:
    torch.manual_seed(0)
    model = visionssm.create_segmenter("umamba_enc3d_nano")
    x = 30 * torch.randn(1, 1, 8, 32, 32)  # far out of what normalised images have
    with torch.autocast("cpu", torch.float16):
        loss = sum(level.float().square().mean() for level in model(x))
    assert isinstance(loss, Tensor)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_compiled_norms_change_neither_values_nor_gradients() -> None:
    torch.manual_seed(0)
    plan = {"patch": (4, 16, 16), "widths": (16, 32), "strides": (1, 2), "blocks": (2,)}
    model = visionssm.create_segmenter("umamba_enc3d", num_classes=3, plan=plan, deep_supervision=False)
    x = torch.randn(2, 1, 4, 16, 16)
    found = []
    for backend in ("auto", "reference"):
        with visionssm.use_backend(backend):
            y = model(x)
            found.append([y, *torch.autograd.grad(y.square().mean(), list(model.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4 * float(theirs.detach().abs().max()) + 1e-6)


def test_a_training_step_keeps_two_maps_for_a_block_and_its_input() -> None:
    """Of the finest resolution; none of what Mamba computes, and not the maps side by side in the decoder."""
    plan = {"patch": (4, 32, 32), "widths": (16, 32), "strides": (1, 2), "blocks": (1,)}
    model = visionssm.create_segmenter("umamba_enc3d", num_classes=3, plan=plan, deep_supervision=False)
    kept: set[int] = set()
    keep_alive: list[Tensor] = []

    def keep(saved: Tensor) -> Tensor:
        if saved.numel() >= 16 * 4 * 32 * 32:
            kept.add(saved.untyped_storage().data_ptr())
            keep_alive.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        model(torch.randn(1, 1, 4, 32, 32)).sum()
    # Stem, stage and decoder with two maps and a result each; and the result of the Mamba layer.
    assert len(kept) <= 3 * 3 + 1


def test_convolutions_see_that_the_map_after_mamba_is_channels_last() -> None:
    x = torch.randn(1, 16, 4, 6, 8).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        y = MambaLayer(16, of_channels=False)(x)
    assert y.stride() == x.stride()  # also over the batch of one, at which convolutions look too


def test_what_a_hook_keeps_of_a_convolution_is_not_overwritten() -> None:
    plan = {"patch": (4, 8, 8), "widths": (16, 32), "strides": (1, 2)}
    model = visionssm.create_segmenter("umamba_bot3d", num_classes=2, plan=plan).eval()
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    for name, module in model.named_modules():
        if re.fullmatch(r"encoder\..*conv[12]", name):
            module.register_forward_hook(lambda _, __, y, name=name: kept.__setitem__(name, (y, y.clone())))
    with torch.no_grad():
        model(torch.randn(1, 1, 4, 8, 8))
    assert kept
    assert all(torch.equal(y, before) for y, before in kept.values())


def test_unknown_place_of_mamba_is_an_error() -> None:
    with pytest.raises(ValueError, match="mamba='both'; choose 'bot' or 'enc'"):
        visionssm.create_segmenter("umamba_bot2d", mamba="both")


def test_second_convolution_learns_the_same_where_the_first_is_frozen() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(16, 16, (3, 3), (1, 1), shortcut=False)
    x, weight = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8)
    (expected,) = torch.autograd.grad(block(x), block.conv2.weight, weight)
    block.conv1.requires_grad_(False)
    block.norm1.requires_grad_(False)
    (found,) = torch.autograd.grad(block(x), block.conv2.weight, weight)
    torch.testing.assert_close(found, expected)


def test_shapes_of_a_network_without_data_are_those_with_it() -> None:
    model = visionssm.create_segmenter("umamba_enc2d_nano").train()
    expected = [y.shape for y in model(torch.randn(1, 1, 64, 64))]
    assert [y.shape for y in model.to("meta")(torch.empty(1, 1, 64, 64, device="meta"))] == expected
