"""MambaIR is the authors', takes images of any size, and its variants are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor

import visionssm
from tests.reference_cases import Case, every_case, gradient_norms, recorded_case, relative_gradient_error
from visionssm.checkpoints import CheckpointError
from visionssm.heads.restoration import VARIANTS, MambaIR
from visionssm.heads.restoration.mambair import checkpoint_filter_fn

NANO = visionssm.list_restorers("mambair_nano_*")


def case_model(case: Case, dtype: torch.dtype) -> MambaIR:
    """Our model with the case's weights, with as many parameters as the authors'."""
    model = visionssm.create_restorer(case.data["name"].removesuffix("_grad"))
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    return visionssm.load_official(model, {"params": case.state_dict()}).eval().to(dtype)


def taps(model: MambaIR, image: Tensor) -> dict[str, Tensor]:
    """Everything that the cases record of a network."""
    found: dict[str, Tensor] = {}
    watched = {"shallow": model.conv_first, "block0": model.layers[0].blocks[0], "body": model.conv_after_body}
    watched |= {f"stage{i}": group for i, group in enumerate(model.layers)}
    hooks = [
        module.register_forward_hook(lambda _module, _args, y, name=name: found.__setitem__(name, y))
        for name, module in watched.items()
    ]
    output = model(image)
    for hook in hooks:
        hook.remove()
    as_recorded = {
        name: y.permute(0, 3, 1, 2) if name in ("shallow", "body") else y.flatten(1, 2) for name, y in found.items()
    }
    return {"output": output, **as_recorded}


@every_case("MambaIR", slow=r"(_sr_x\d|_color(_grad)?|_jpeg(_grad)?|_light_x\d)$")
def test_network_equals_authors_in_double_precision(case: Case) -> None:
    model = case_model(case, torch.float64)
    with torch.set_grad_enabled("grad_norms" in case.data):
        found = taps(model, case.image().double())
    names = {name for name in case.data["outputs"] if name.endswith("_f64")}
    assert names == {f"{name}_f64" for name in found}
    for name in names:
        assert case.relative_error(name, found[name.removesuffix("_f64")]) <= 1e-6, name
    if "grad_norms" in case.data:
        (found["output"] * case.cotangent(found["output"])).sum().backward()
        norms = gradient_norms(case, model, checkpoint_filter_fn, "grad_norms_f64")
        errors = {name: relative_gradient_error(*pair) for name, pair in norms.items()}
        assert len(errors) == len(case.data["parameters"])
        assert max(errors.values()) <= 1e-6, max(errors, key=errors.__getitem__)


@every_case("MambaIR", slow=r"(_grad|_sr_x\d|_color|_jpeg|_x[24])$")
def test_network_equals_authors_in_single_precision(case: Case) -> None:
    with torch.inference_mode():
        output = case_model(case, torch.float32)(case.image())
    assert case.relative_error("output", output) <= 1e-3  # the recorded float32 is off float64 by up to 4e-4


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_parameters_are_as_many_as_published(name: str) -> None:
    with torch.device("meta"):
        model = visionssm.create_restorer(name)
    assert sum(p.numel() for p in model.parameters()) == VARIANTS[name].parameters


@pytest.mark.parametrize("sides", [(1, 1), (2, 7), (13, 5)])
@pytest.mark.parametrize("name", NANO)
def test_images_of_any_size_come_out_larger_by_the_scale(name: str, sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = visionssm.create_restorer(name).eval()
    with torch.inference_mode():
        y = model(torch.rand(2, model.in_chans, *sides))
    assert y.shape == (2, model.in_chans, model.scale * sides[0], model.scale * sides[1])
    assert y.isfinite().all()


@pytest.mark.parametrize("name", NANO)
def test_gradients_reach_every_parameter_also_in_half_precision(name: str) -> None:
    model = visionssm.create_restorer(name)
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = model(torch.rand(2, model.in_chans, 9, 12))
        (y.float() * torch.randn(y.shape)).sum().backward()
        assert [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", NANO)
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    torch.manual_seed(0)
    model = visionssm.create_restorer(name).eval()
    x = torch.rand(2, model.in_chans, 9, 11)
    with torch.inference_mode():
        torch.testing.assert_close(model(x)[1:], model(x[1:]), rtol=1e-4, atol=1e-5)


def test_corrections_of_zero_leave_the_image_as_it_is() -> None:
    model = visionssm.create_restorer("mambair_nano_denoise").eval()
    torch.nn.init.zeros_(model.reconstruct.last.weight)
    torch.nn.init.zeros_(model.reconstruct.last.bias)
    image = torch.rand(1, 3, 6, 7)
    torch.testing.assert_close(model(image), image)


def test_averaged_weights_are_preferred_and_their_wrappers_opened(tmp_path: Path) -> None:
    case = recorded_case("mambair", "mambair_sr_light_x2_grad")
    raw = case.state_dict()
    torch.save({"params": {k: torch.zeros_like(v) for k, v in raw.items()}, "params_ema": raw}, tmp_path / "net.pth")
    model = visionssm.create_restorer("mambair_sr_light_x2", pretrained=tmp_path / "net.pth")
    assert torch.equal(model.conv_first.weight, raw["conv_first.weight"])


def test_files_of_another_scale_are_refused_and_change_nothing() -> None:
    model = visionssm.create_restorer("mambair_nano_x2")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = visionssm.create_restorer("mambair_nano_x2", scale=3).state_dict()
    with pytest.raises(CheckpointError, match=r"reconstruct\.upsample\.0"):
        visionssm.load_official(model, {"params": other})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_pretrained_says_where_a_person_gets_the_file() -> None:
    with pytest.raises(CheckpointError, match=r"huggingface\.co/cguoh/MambaIR"):
        visionssm.create_restorer("mambair_sr_light_x2", pretrained=True)
    with pytest.raises(CheckpointError, match="mambair_nano_x2"):
        visionssm.create_restorer("mambair_nano_x2", pretrained=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_chans": 0}, "in_chans must be a whole number"),
        ({"dim": 2.5}, "dim must be a whole number"),
        ({"scale": 5}, "scale must be one of 1, 2, 3, 4, got 5"),
        ({"scale": 2, "reconstruction": "residual"}, "scale=2 must be 1"),
        ({"depths": ()}, "depths"),
        ({"depths": (2, 0)}, "depths"),
        ({"expand": 0.0}, "expand"),
        ({"branch": "mlp"}, "branch='mlp' is unknown; choose one of conv, light"),
        ({"reconstruction": "nearest"}, "choose one of shuffle, direct, residual"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visionssm.create_restorer("mambair_nano_x2", **arguments)  # type: ignore[arg-type]


def test_wrong_images_and_names_are_told() -> None:
    model = visionssm.create_restorer("mambair_nano_x2")
    with pytest.raises(ValueError, match="in_chans=1"):
        model(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        model(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"x.float\(\) / 255"):
        model(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"'mambair' is unknown; choose one of .*mambair_sr_x4"):
        visionssm.create_restorer("mambair")


def test_network_without_arguments_is_the_classic_one() -> None:
    with torch.device("meta"):
        default, published = MambaIR(), visionssm.create_restorer("mambair_sr_x2")
    assert str(default) == str(published)
    assert [x.shape for x in default.state_dict().values()] == [x.shape for x in published.state_dict().values()]


def test_blocks_drop_more_towards_the_end() -> None:
    model = visionssm.create_restorer("mambair_nano_x2", depths=(1, 2), drop_path_rate=0.2)
    assert [m.drop_prob for m in model.modules() if isinstance(m, DropPath)] == pytest.approx([0, 0.1, 0.2])


def test_names_are_sorted_and_match_the_pattern() -> None:
    assert visionssm.list_restorers() == sorted(VARIANTS)
    assert visionssm.list_restorers("*_jpeg") == ["mambair_jpeg", "mambair_nano_jpeg"]
