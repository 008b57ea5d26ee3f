"""Mamba-YOLO is the authors', in its maps, boxes and gradients, and its parts are as written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import visionssm
from tests.reference_cases import Case, every_case, gradient_norms, relative_gradient_error
from visionssm.heads.yolo import MambaYolo, create_yolo, decode, list_yolos
from visionssm.heads.yolo.keys import checkpoint_filter_fn

BINS = 16  # of a layer that the authors count as parameters, and do not train


def case_model(case: Case) -> MambaYolo:
    name = case.data["name"].removesuffix("_grad")
    model = visionssm.load_official(create_yolo(name), case.state_dict()).eval()
    assert sum(p.numel() for p in model.parameters()) + BINS == case.data["n_params"]
    return model


def recorded_layers(model: MambaYolo) -> dict[str, nn.Module]:
    """Modules that give a recorded map, by its name; the layers in between copy and join maps."""
    backbone, neck = model.backbone, model.neck
    stages = [x for stage in backbone.stages for x in (stage.blocks, stage.downsample)][:7]
    modules = dict(enumerate([backbone.patch_embed, *stages, neck.pool]))
    modules |= {11: neck.top_down[0], 14: neck.top_down[1], 15: neck.downsample[0], 17: neck.bottom_up[0]}
    modules |= {18: neck.downsample[1], 20: neck.bottom_up[1]}
    return {f"stage{number}": module for number, module in modules.items()}


def taps(model: MambaYolo, image: Tensor) -> dict[str, Tensor]:
    """What the cases record, NCHW."""
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _a, y, name=name: found.update({name: y.permute(0, 3, 1, 2)}))
        for name, module in recorded_layers(model).items()
    ]
    maps = model(image)
    for hook in hooks:
        hook.remove()
    boxes, scores = decode(maps)
    first, last = boxes.chunk(2, dim=-1)
    answers = torch.cat([(first + last) / 2, last - first, scores], dim=-1).transpose(1, 2)
    raw = torch.cat([level.flatten(2) for level in maps], dim=2)
    return found | dict(zip(("p3", "p4", "p5"), maps, strict=True)) | {"output": raw, "decoded": answers}


def check(case: Case, dtype: torch.dtype, suffix: str, tolerance: float) -> None:
    model = case_model(case).to(dtype)
    with torch.set_grad_enabled("grad_norms" in case.data):
        found = taps(model, case.image().to(dtype))
    recorded = {name.removesuffix("_f64") for name in case.data["outputs"]}
    assert recorded - found.keys() <= {f"stage{number}" for number in (9, 10, 12, 13, 16, 19)}
    for name, actual in found.items():
        error = case.relative_error(name + suffix, actual)
        assert error <= tolerance, f"{name}: off by {error:.1e}"
    if "grad_norms" in case.data:
        (found["output"] * case.cotangent(found["output"])).sum().backward()
        norms = gradient_norms(case, model, checkpoint_filter_fn, f"grad_norms{suffix}")
        assert len(norms) > 400
        for name, pair in norms.items():
            assert relative_gradient_error(*pair) <= 10 * tolerance, f"{name}: {pair}"


@every_case("Mamba-YOLO", slow="mambayolo_[tb]$")
def test_network_equals_authors_in_double_precision(case: Case) -> None:
    check(case, torch.float64, "_f64", 1e-6)


@every_case("Mamba-YOLO", slow="mambayolo_[tb]$")
def test_network_equals_authors_in_single_precision(case: Case) -> None:
    if case.data["name"] == "mambayolo_l":
        pytest.skip("the recorded float32 is itself off by 1e-3 of float64's deviation")
    check(case, torch.float32, "", 1e-4)


@pytest.mark.parametrize(("name", "millions"), [("mambayolo_t", 6.13), ("mambayolo_b", 21.83), ("mambayolo_l", 57.63)])
def test_sizes_have_the_parameters_of_the_shipped_configuration(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = create_yolo(name)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 64)])
def test_maps_have_an_eighth_a_sixteenth_and_a_thirty_second_of_the_image(size: tuple[int, int]) -> None:
    model = create_yolo("mambayolo_nano", num_classes=3).eval()
    maps = model(torch.rand(2, 3, *size))
    assert [tuple(level.shape) for level in maps] == [(2, 67, size[0] // n, size[1] // n) for n in model.strides]


def test_sizes_that_are_no_multiple_of_32_are_padded_and_boxes_lie_in_the_image() -> None:
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", num_classes=3).eval()
    image = torch.rand(1, 3, 50, 75)
    padded = model.padded(image)
    assert padded.shape == (1, 3, 64, 96)
    assert torch.equal(padded[..., :50, :75], image)
    assert padded[..., 50:, :].eq(114 / 255).all()
    assert padded[..., :, 75:].eq(114 / 255).all()
    boxes, scores = model.predict(image)
    expected, whole_scores = decode(model(padded))
    assert torch.equal(scores, whole_scores)
    limits = torch.tensor([75.0, 50.0, 75.0, 50.0])
    assert torch.equal(boxes, torch.minimum(expected.clamp(min=0), limits))
    assert expected.gt(limits).any()
    with pytest.raises(ValueError, match=r"50x75 pixels: both sides must be multiples of 32"):
        model(image)


def test_bfloat16_is_finite() -> None:
    model = create_yolo("mambayolo_nano", num_classes=3).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = model(torch.rand(2, 3, 64, 64))
        boxes, scores = decode(maps)
    assert boxes.dtype == torch.float32
    assert all(x.isfinite().all() for x in (boxes, scores))
    (boxes.mean() + scores.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "num_classes must be a whole number, at least 1, got 0"),
        ({"num_classes": 2.0}, "num_classes must be a whole number"),
        ({"neck_depth": 0}, "neck_depth"),
        ({"dims": (8, 16, 24)}, "four numbers"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_yolo("mambayolo_nano", **arguments)  # type: ignore[arg-type]


def test_unknown_name_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'mambayolo_m' is unknown; choose one of mambayolo_b, mambayolo_l"):
        create_yolo("mambayolo_m")
    assert list_yolos("*_t") == ["mambayolo_t"]
