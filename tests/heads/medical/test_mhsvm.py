"""MHS-VM is the authors', its gate is as written and has finite gradients, and its files load under all their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import visionssm
from tests.heads.medical.u_cases import case_model, check_gradient_norms, check_outputs, taps
from tests.reference_cases import Case, every_case, recorded_case
from visionssm.checkpoints import CheckpointError
from visionssm.heads.medical.mhsvm import HEADS, MHSVM, gated_by_disagreement
from visionssm.kernels import routes

# The gate divides differences of nearly equal numbers: float32 is only near at the beginning of the network.
EARLY = ("stage0", "stage1")


@every_case("MHS-VM", slow="mhsvm_(3h|3h_grad|4h|4h_grad|4h_t0)$")
def test_network_equals_authors_in_double_precision(case: Case) -> None:
    model = case_model(case, case.data["name"].removesuffix("_grad"), torch.float64)
    assert isinstance(model, MHSVM)
    assert model.threshold == case.meta["init"]["para_dict"]["gfu_t"]
    with torch.set_grad_enabled("grad_norms" in case.data):
        found = taps(model, case.image().double())
        check_outputs(case, found, "_f64", 1e-6)
    if "grad_norms_f64" in case.data:
        check_gradient_norms(case, model, found["output"], "grad_norms_f64", 1e-6)


@every_case("MHS-VM", slow="")
def test_network_is_near_the_authors_in_single_precision(case: Case) -> None:
    model = case_model(case, case.data["name"].removesuffix("_grad"), torch.float32)
    with torch.inference_mode():
        found = taps(model, case.image())
    for name in EARLY:
        assert case.relative_error(name, found[name]) <= 1e-5, name


@pytest.mark.parametrize("level", range(4))
def test_routes_are_those_of_the_authors_tables(level: int) -> None:
    case = recorded_case("mhsvm", "mhsvm_4h_grad")
    height, width = (side // 4 >> level for side in case.data["input"]["shape"][2:])
    assert routes.mhsvm(height, width)[:, 0].tolist() == case.meta["routes_small"][f"layer_{level}"]


def test_gate_is_standard_deviation_over_lifted_mean() -> None:
    torch.manual_seed(0)
    y = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    quotient = y.std(1) / ((y - y.min(1, keepdim=True).values).mean(1) + 1e-5)
    torch.testing.assert_close(gated_by_disagreement(y, 0.9), y.sum(1) * (quotient - 0.9).clamp(min=0))
    assert ((quotient > 0.66) & (quotient < 2.01)).all()


def test_gate_is_zero_with_a_zero_gradient_where_all_routes_agree() -> None:
    y = torch.full((1, 4, 2, 3), 0.7, requires_grad=True)
    out = gated_by_disagreement(y, 0.0)
    out.sum().backward()
    assert not out.any()
    assert y.grad is not None
    assert not y.grad.any()


def test_gradients_are_finite_for_an_all_zero_image() -> None:
    model = visionssm.create_segmenter("mhsvm_4h_nano")
    model(torch.zeros(1, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_images_whose_last_map_is_one_pixel_are_segmented() -> None:
    model = visionssm.create_segmenter("mhsvm_4h_nano").eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def tied(names: str) -> dict[str, torch.Tensor]:
    """Weights of the smallest network under the authors' names: "first", "second" or "both" of those of one tensor."""
    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for name, value in visionssm.create_segmenter("mhsvm_4h_nano").state_dict().items():
        theirs = name.replace("patch_embed.0.", "patch_embed.proj.").replace("patch_embed.2.", "patch_embed.norm.")
        theirs = theirs.replace("encoder.", "layers.").replace("decoder.", "layers_up.")
        theirs = theirs.replace(".mhs.norm.", ".mhs.cat_norm.").replace(".mhs.proj.", ".mhs.y_proj.")
        theirs = theirs.replace(".op.", ".self_attention.")
        if theirs.split(".")[-2] == "norm" and ".blocks." in theirs and "mhs" not in theirs:
            theirs = theirs.replace(".norm.", ".ln_1.")
        for i, letter in enumerate("CXSZ"):
            theirs = theirs.replace(f".heads.{i}.", f".scanhead_{letter}.mambaeng.")
        first = theirs.replace(".mhs.subspaces.weight", ".mhs.x_ssproj_W")
        second = theirs.replace("mambaeng", "scanning.seq2seq_engine").replace("subspaces", "x_ssproj")
        state |= {
            f"vmunet.{key}": value for key in {"first": [first], "second": [second], "both": [first, second]}[names]
        }
    return state


@pytest.mark.parametrize("names", ["first", "second", "both"])
def test_files_load_with_either_name_of_a_tensor_or_both(names: str) -> None:
    torch.manual_seed(0)
    expected = visionssm.create_segmenter("mhsvm_4h_nano").state_dict()
    model = visionssm.load_official(visionssm.create_segmenter("mhsvm_4h_nano"), {"model_state_dict": tied(names)})
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_files_whose_two_names_of_a_tensor_differ_are_refused() -> None:
    state = tied("both")
    name = next(name for name in state if name.endswith("x_ssproj_W"))
    state[name] = state[name] + 1
    with pytest.raises(CheckpointError, match=r"x_ssproj\.weight'.* other values"):
        visionssm.load_official(visionssm.create_segmenter("mhsvm_4h_nano"), state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 1.5}, "threshold must be between 0 and 1, got 1.5"),
        ({"heads": 5}, "heads must be 1 to 4"),
        ({"heads": 3, "dim": 28, "projection": False}, "dim=28 does not divide into 3 heads"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visionssm.create_segmenter("mhsvm_4h_nano", **arguments)  # type: ignore[arg-type]


def test_there_is_no_classifier_to_start_from() -> None:
    with pytest.raises(ValueError, match="MHSVM has no encoder"):
        visionssm.create_segmenter("mhsvm_4h_nano", pretrained_encoder={})


class AlongRoutes(torch.nn.Module):
    """An image's pixels along the routes of every head: (B, C, H, W) to (B, C, 16, H·W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = torch.cat([table(x.shape[2], x.shape[3], device=x.device) for table in HEADS.values()])
        return torch.cat([x.flatten(2).index_select(2, route.flatten().long())[:, :, None] for route in order], dim=2)


@pytest.mark.slow
def test_routes_of_all_heads_are_exported_with_open_sides(tmp_path: Path) -> None:
    assert visionssm.export_onnx(AlongRoutes(), tmp_path / "routes.onnx", torch.randn(2, 1, 5, 8)) == 0


@pytest.mark.slow
def test_network_whose_routes_disagree_is_exported_with_open_sides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shallow: dict[str, object] = {"heads": 1, "dim": 8, "depths": (1,), "decoder_depths": (1,)}
    model = visionssm.create_segmenter("mhsvm_4h_nano", num_classes=2, **shallow).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".Ds"):  # equal ones would make the gate a quotient of rounding
                parameter.uniform_(-1, 1)
    assert visionssm.export_onnx(model, tmp_path / "model.onnx", torch.randn(2, 3, 16, 24)) <= 1e-4
