"""SegMamba is the authors', and its scan across slices is as defined for any number of tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from tests.heads.medical.recorded import check_case
from tests.reference_cases import Case, every_case
from visionssm.heads.medical import SegMamba
from visionssm.heads.medical.segmamba import InterleavedTokenScan, checkpoint_filter_fn
from visionssm.kernels import routes


def case_model(case: Case) -> SegMamba:
    init = case.meta["init"]
    model = visionssm.create_segmenter("segmamba", num_classes=init["out_chans"], in_chans=init["in_chans"])
    assert isinstance(model, SegMamba)
    return visionssm.load_official(model, {f"module.{key}": value for key, value in case.state_dict().items()})


def taps(model: SegMamba) -> dict[str, nn.Module]:
    modules: dict[str, nn.Module] = {"decoder1": model.decoder.last}
    modules |= {f"decoder{5 - i}": up for i, up in enumerate(model.decoder.ups)}
    modules |= {f"gsc{i}": gsc for i, gsc in enumerate(model.encoder.gscs)}
    return modules | {f"feature{i}": mlp for i, mlp in enumerate(model.encoder.mlps)}


@every_case("SegMamba", slow=".*")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_network_equals_authors(case: Case, dtype: torch.dtype) -> None:
    model = case_model(case)
    for key in [key for key in case.data["outputs"] if key.startswith("stage")]:
        case.data["outputs"].pop(key)  # tokens: what the MLP after them gives is compared
    double = dtype == torch.float64
    check_case(
        case,
        model,
        taps(model),
        checkpoint_filter_fn,
        dtype=dtype,
        output_tolerance=1e-6 if double else 1e-4,
        gradient_tolerance=1e-6 if double else 1e-2,
    )


def reordered(x: Tensor, pieces: int) -> list[int]:
    """The numbers of (B, T, D) tokens in the order of the scan, written out."""
    length = -(-x.shape[1] // pieces)
    return [p * length + i for i in range(length) for p in range(pieces) if p * length + i < x.shape[1]]


@pytest.mark.parametrize(("tokens", "pieces"), [(24, 4), (24, 1), (24, 2), (24, 3), (8, 8), (5, 5)])
def test_scan_across_pieces_is_a_scan_of_the_reordered_tokens(tokens: int, pieces: int) -> None:
    torch.manual_seed(0)
    scan = InterleavedTokenScan(dim=6, d_state=4, dt_rank=2, pieces=pieces).double()
    x = torch.randn(2, tokens, 6, dtype=torch.float64)
    order = torch.tensor(reordered(x, pieces))
    u = F.pad(x[:, order].mT, (3, 0))
    u = F.silu(F.conv1d(u, scan.conv1d.weight, scan.conv1d.bias, groups=6)).mT.unsqueeze(1)
    y = scan.scan(u, routes.raster(1, tokens)).squeeze(1)
    torch.testing.assert_close(scan(x)[:, order], y)


@pytest.mark.parametrize(("tokens", "pieces"), [(23, 4), (7, 3), (3, 8), (10, 7)])
def test_missing_tokens_are_zeros_for_the_convolution_and_for_the_scan(tokens: int, pieces: int) -> None:
    torch.manual_seed(0)
    scan = InterleavedTokenScan(dim=6, d_state=4, dt_rank=2, pieces=pieces).double()
    x = torch.randn(2, tokens, 6, dtype=torch.float64)
    filled = F.pad(x, (0, 0, 0, -tokens % pieces))
    all_tokens = torch.tensor(reordered(filled, pieces))
    there = all_tokens < tokens
    u = F.pad(filled[:, all_tokens].mT, (3, 0))
    u = F.silu(F.conv1d(u, scan.conv1d.weight, scan.conv1d.bias, groups=6)).mT * there[:, None]
    y = scan.scan(u.unsqueeze(1), routes.raster(1, len(there))).squeeze(1)
    torch.testing.assert_close(scan(x)[:, all_tokens[there]], y[:, there])


def test_scan_across_pieces_is_exported_for_any_number_of_tokens() -> None:
    torch.manual_seed(0)
    scan = InterleavedTokenScan(dim=6, d_state=4, dt_rank=2, pieces=4).eval()
    opened = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        program = torch.export.export(scan, (torch.randn(2, 24, 6),), dynamic_shapes=opened)
        for tokens in (23, 30, 241):
            x = torch.randn(2, tokens, 6)
            torch.testing.assert_close(program.module()(x), scan(x))


def test_steps_of_the_first_scan_alone_begin_as_mambas() -> None:
    torch.manual_seed(0)
    mixer = visionssm.create_segmenter("segmamba_nano", widths=(64, 64, 64)).get_submodule("encoder.stages.0.0.mamba")
    steps = {name: F.softplus(mixer.get_parameter(f"{name}.dt_projs_bias")) for name in ("ahead", "back", "across")}
    assert steps["ahead"].max() <= 0.1001
    assert steps["back"].min() > 0.2  # softplus(±R^-1/2), R = 4
    assert steps["across"].min() > 0.2


@pytest.mark.parametrize("sides", [(1, 1, 1), (5, 8, 8), (8, 8, 8), (16, 24, 9)])
def test_any_number_of_slices_is_taken(sides: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = visionssm.create_segmenter("segmamba_nano").eval()
    with torch.inference_mode():
        y = model(torch.randn(1, 1, *sides))
    assert y.shape == (1, 4, *sides)
    assert y.isfinite().all()


def test_stages_that_do_not_fit_together_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"slices=\(4, 4\) must have one positive number per stage"):
        visionssm.create_segmenter("segmamba_nano", slices=(4, 4))
