"""Mixed precision: what users of published models reported as NaN stays finite and close to float32.

Reports: hustvl/Vim issue 30, NVlabs/MambaVision issue 38, bowang-lab/U-Mamba issue 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import visionssm
from tests.children import interpreted
from visionssm.kernels import (
    LowRank,
    deformable_sum,
    linear_recurrence,
    non_causal_ssd,
    routes,
    selective_scan,
    use_backend,
)

# Half a unit in the last place of the results, and of what they are made of, relative to the largest value.
ROUNDING = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
halves = pytest.mark.parametrize("dtype", list(ROUNDING), ids=lambda d: str(d).removeprefix("torch."))


@dataclass(frozen=True)
class Extreme:
    """One set of inputs at the end of a range. `steps`: softplus(bias) at dt = 0 is about e^bias, or bias."""

    bias: float = -4.6
    dt_scale: float = 1.0
    rate: float = -1.0  # a
    map: str = "random"
    pixels: int = 24
    routes: str = "bidirectional"


EXTREMES = {
    "huge_steps": Extreme(bias=50.0, dt_scale=1000.0),
    "steps_towards_zero": Extreme(bias=-40.0),
    "steps_of_both_signs": Extreme(bias=0.0, dt_scale=300.0),
    "rates_near_zero": Extreme(rate=-1e-6),
    "rates_of_minus_ten_thousand": Extreme(rate=-1e4),
    "huge_steps_and_rates": Extreme(bias=100.0, dt_scale=100.0, rate=-1e4),
    "map_of_zeros": Extreme(map="zeros"),
    "constant_map": Extreme(map="constant"),
    "constant_map_without_decay": Extreme(map="constant", rate=-1e-6, bias=-7.0),
}
LONG = {
    "random": Extreme(pixels=16384, routes="raster"),
    "without_decay": Extreme(pixels=16384, routes="raster", rate=-1e-6, bias=-9.0),
    "constant": Extreme(pixels=16384, routes="raster", map="constant"),
}


def make(case: Extreme, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """u, low-rank dt, b, c in half precision; weight, a, d, bias in float32; and the table."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    order = getattr(routes, case.routes)(1, case.pixels)
    k, channels, n, r = order.shape[0], 8, 2, 2
    maps = {
        "random": normal(1, case.pixels, channels),
        "zeros": torch.zeros(1, case.pixels, channels),
        "constant": torch.full((1, case.pixels, channels), 3.0),
    }
    low = normal(1, case.pixels, k, r) * case.dt_scale
    b, c = normal(1, case.pixels, k, n), normal(1, case.pixels, k, n)
    half = [x.to(dtype) for x in (maps[case.map], low, b, c)]
    a = torch.full((k, channels, n), case.rate) * torch.tensor([1.0, 2.0])
    return [*half, normal(k, r, channels), a, normal(k, channels), torch.full((k, channels), case.bias)], order


def results(inputs: list[Tensor], order: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """The map, the final state and all gradients, under autocast to `dtype` or without."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    u, low, b, c, weight, a, d, bias = leaves
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        y, state = selective_scan(
            u, LowRank(low, weight), a, b, c, d=d, dt_bias=bias, order=order, return_final_state=True
        )
    weights = ((torch.arange(y.numel()) % 7 - 3) / 4).view_as(y).to(y.dtype)  # which half precision holds exactly
    return [y, state, *torch.autograd.grad((y * weights).float().sum(), leaves)]


def check(case: Extreme, dtype: torch.dtype, backend: str, exact: str = "reference") -> None:
    """Finite, and within rounding of what the same inputs give without autocast: in float64, or on the CPU kernels."""
    inputs, order = make(case, dtype)
    with use_backend(backend):
        found = results(inputs, order, dtype)
    with use_backend(exact):
        wanted = results([x.double() if exact == "reference" else x.float() for x in inputs], order, None)
    for name, got, want in zip(("y", "state", "u", "dt", "b", "c", "weight", "a", "d", "bias"), found, wanted):
        assert got.isfinite().all(), name
        limit = ROUNDING[dtype] * max(want.abs().max().item(), 1e-4)
        assert (got.double() - want).abs().max() <= limit, name


@halves
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", EXTREMES)
def test_scan_of_extreme_inputs_is_finite_and_close_to_the_definition(
    name: str, backend: str, dtype: torch.dtype
) -> None:
    check(EXTREMES[name], dtype, backend)


@halves
@pytest.mark.parametrize("name", LONG)
def test_scan_of_sixteen_thousand_pixels_is_finite_and_close_to_float32(name: str, dtype: torch.dtype) -> None:
    check(LONG[name], dtype, "cpu", exact="cpu")


@pytest.mark.slow
@halves
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", LONG)
def test_every_long_scan_is_finite_and_close_to_the_definition(name: str, backend: str, dtype: torch.dtype) -> None:
    check(LONG[name], dtype, backend)


CHILD = """
import torch
from tests.kernels.test_amp import EXTREMES, check
from visionssm.kernels.selective_scan import gpu

gpu.forward_tile = gpu.backward_tile = lambda *sizes: gpu.Tile(4, 8, num_warps=1)
for name in ("huge_steps", "rates_of_minus_ten_thousand", "constant_map"):
    for dtype in (torch.bfloat16, torch.float16):
        check(EXTREMES[name], dtype, "triton")
print("passed")
"""


def test_triton_kernels_of_extreme_inputs_are_finite_and_close_to_the_definition() -> None:
    assert interpreted(CHILD) == "passed\n"


# --------------------------------------------------------------------------------------------------- other operators


@halves
def test_linear_recurrence_without_decay_grows_beyond_half_precision_and_stays_finite(dtype: torch.dtype) -> None:
    a = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    b = torch.full((16384, 4), 100.0, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype):
        h = linear_recurrence(a, b, dim=0)
    assert h[-1, 0].item() == pytest.approx(1638400, rel=1e-5)  # float16 ends at 65504
    grads = torch.autograd.grad(h.mean(), [a, b])
    assert grads[1].isfinite().all()


@halves
def test_ssd_of_a_constant_map_is_finite_and_close_to_float32(dtype: torch.dtype) -> None:
    x = torch.full((1, 4096, 2, 4), 30.0, dtype=dtype, requires_grad=True)
    m = torch.ones(1, 4096, 2, dtype=dtype, requires_grad=True)
    b = torch.full((1, 4096, 3), 2.0, dtype=dtype, requires_grad=True)
    c = torch.ones(1, 4096, 3, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = non_causal_ssd(x, m, b, c)
    torch.testing.assert_close(y, torch.full_like(y, 3 * 4096 * 2 * 30.0), rtol=1e-5, atol=0)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.mean(), [x, m, b, c]))


@halves
def test_deformable_sum_of_a_wide_map_keeps_its_positions_and_is_finite(dtype: torch.dtype) -> None:
    """Half precision cannot count the columns: 8 bits of bfloat16 end at 256, 11 of float16 at 2048."""
    value = torch.arange(3000.0).remainder(7).to(dtype)[None, None, :, None, None].requires_grad_()
    offset = torch.full((1, 1, 3000, 1, 9, 2), 0.25, dtype=dtype, requires_grad=True)
    mask = torch.zeros(1, 1, 3000, 1, 9, dtype=dtype)
    mask[..., 4] = 1
    with torch.autocast("cpu", dtype):
        y = deformable_sum(value, offset, mask.requires_grad_())
    row = value.detach().float()[0, 0, :, 0, 0]
    wanted = 0.75 * (0.75 * row + 0.25 * torch.nn.functional.pad(row[1:], (0, 1)))  # a quarter lies below the map
    assert (y.detach().float()[0, 0, :, 0, 0] - wanted).abs().max() <= ROUNDING[dtype] * wanted.max()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), [value, offset, mask]))


# ------------------------------------------------------------------------------------------------------------- models

MODELS = visionssm.list_models("*_nano_test")
IMAGES = {
    "random": lambda: torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    "zeros": lambda: torch.zeros(2, 3, 64, 64),
    "constant": lambda: torch.full((2, 3, 64, 64), 3.0),
    "bright": lambda: 10 * torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
}
# A rounding of every layer's output adds up over the dozens of layers of a nano model.
MODEL_ROUNDING = {torch.bfloat16: 5e-2, torch.float16: 1e-2}


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10)


@halves
@pytest.mark.parametrize("name", MODELS)
def test_model_under_autocast_is_finite_and_close_to_float32(name: str, dtype: torch.dtype) -> None:
    model = _model(name).eval()
    for kind, image in IMAGES.items():
        x = image()
        with torch.autocast("cpu", dtype):
            logits = model(x)
        model.zero_grad()
        logits.float().square().mean().backward()
        for parameter, p in model.named_parameters():
            assert p.grad is None or p.grad.isfinite().all(), (kind, parameter)
        with torch.no_grad():
            want = model(x)
        assert (logits.float() - want).abs().max() <= MODEL_ROUNDING[dtype] * want.abs().max(), kind


@pytest.mark.parametrize("name", MODELS)
def test_float16_steps_with_a_gradient_scaler_keep_weights_finite(name: str) -> None:
    model, scaler = _model(name).train(), torch.amp.GradScaler("cpu", init_scale=2.0**8)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x, target = IMAGES["random"](), torch.tensor([1, 2])
    losses: list[Any] = []
    for _ in range(2):
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert all(loss == loss and loss < 100 for loss in losses)
    assert scaler.get_scale() >= 2.0**8, "no step was left out because of infinite gradients"
    after = dict(model.named_parameters())
    assert all(p.isfinite().all() for p in after.values())
    assert any(not torch.equal(after[k], p) for k, p in before.items())
