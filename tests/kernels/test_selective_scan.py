"""The public selective scan: its definition, its properties on every backend, its errors, and PyTorch's transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.random_tensors import normals
from visionssm.kernels import LowRank, routes, selective_scan, use_backend
from visionssm.kernels.checks import check_order

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])
# Rounding of float32 sums of up to 16 states over up to 30 steps.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def make(
    order: Tensor,
    pixels: int,
    *,
    batch: int = 2,
    channels: int = 6,
    d_state: int = 3,
    groups: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments of `selective_scan` with every optional one."""
    normal = normals(seed, dtype)
    n_routes, n_sequences, _ = order.shape
    width = channels // n_routes if groups else channels
    return {
        "u": normal(batch, pixels, channels),
        "dt": normal(batch, pixels, n_routes, width),
        "a": -normal(n_routes, width, d_state).exp(),
        "b": normal(batch, pixels, n_routes, d_state),
        "c": normal(batch, pixels, n_routes, d_state),
        "order": order,
        "d": normal(n_routes, width),
        "dt_bias": normal(n_routes, width),
        "initial_state": normal(batch, n_routes, n_sequences, width, d_state),
    }


def scan(backend: str, **arguments: Any) -> Any:
    with use_backend(backend):
        return selective_scan(**arguments)


# ---------------------------------------------------------------------------------------------- the definition


@backends
def test_two_steps_by_hand(backend: str) -> None:
    """softplus(ln(e − 1)) = 1, so with a = −ln 2 the state halves at each step: h = 3, then 3/2 + 5."""
    one = torch.tensor(1.0).exp().sub(1).log().item()
    y, state = scan(
        backend,
        u=torch.tensor([[[3.0], [5.0]]]),
        dt=torch.full((1, 2, 1, 1), one),
        a=-torch.tensor([[[2.0]]]).log(),
        b=torch.ones(1, 2, 1, 1),
        c=torch.tensor([[[[2.0]], [[10.0]]]]),
        d=torch.tensor([[100.0]]),
        order=routes.raster(1, 2),
        return_final_state=True,
    )
    torch.testing.assert_close(y, torch.tensor([[[306.0], [565.0]]]))
    torch.testing.assert_close(state, torch.tensor([[[[[6.5]]]]]))


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("groups", [False, True])
def test_gradients_of_the_definition_pass_gradcheck(groups: bool, merge: bool) -> None:
    order = torch.tensor([[[0, 1, 2]], [[2, -1, 2]]], dtype=torch.int32)
    arguments = make(order, 3, batch=1, channels=2, d_state=2, groups=groups, dtype=torch.float64)
    del arguments["order"]
    leaves = [x.requires_grad_() for x in arguments.values()]

    def run(*tensors: Tensor) -> Any:
        return selective_scan(
            **dict(zip(arguments, tensors, strict=True)), order=order, merge=merge, return_final_state=True
        )

    assert torch.autograd.gradcheck(run, leaves)


@backends
def test_low_rank_steps_equal_their_product(backend: str) -> None:
    arguments = make(routes.ss2d(2, 3), 6)
    low, weight = torch.randn(2, 6, 4, 2), torch.randn(4, 2, 6)
    product = torch.einsum("blkr,krd->blkd", low, weight)
    got = scan(backend, **{**arguments, "dt": LowRank(low, weight)})
    torch.testing.assert_close(got, scan(backend, **{**arguments, "dt": product}), **CLOSE)


@backends
@pytest.mark.parametrize("d_state", [1, 3, 16])
@pytest.mark.parametrize("groups", [False, True])
def test_values_and_gradients_equal_the_float64_definition(backend: str, groups: bool, d_state: int) -> None:
    order = torch.cat([routes.window(3, 4, 2), routes.backwards(routes.window(3, 4, 2))])

    def run(name: str, dtype: torch.dtype) -> list[Tensor]:
        arguments = make(order, 12, d_state=d_state, groups=groups)
        leaves = {k: x.to(dtype).requires_grad_() for k, x in arguments.items() if k != "order"}
        y, state = scan(name, **leaves, order=order, return_final_state=True)
        return [y, state, *torch.autograd.grad(y.sin().sum() + state.cos().sum(), list(leaves.values()))]

    for got, want in zip(run(backend, torch.float32), run("reference", torch.float64), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=2e-5 * want.abs().max().item())


def test_exportable_form_equals_the_definition() -> None:
    arguments = make(routes.window(3, 5, 2), 15, dtype=torch.float64)
    got, want = (scan(name, **arguments, return_final_state=True) for name in ("export", "reference"))
    for x, y in zip(got, want, strict=True):
        torch.testing.assert_close(x, y)


# ---------------------------------------------------------------------------------------------- properties

sizes = {"height": st.integers(1, 5), "width": st.integers(1, 6), "seed": st.integers(0, 99)}
some = settings(max_examples=15, deadline=None)


@backends
@given(**sizes)
@some
def test_reversed_route_equals_flipped_input(backend: str, height: int, width: int, seed: int) -> None:
    order = routes.raster(height, width)
    arguments = make(order, height * width, seed=seed)
    flipped = {k: x.flip(1) if k in ("u", "dt", "b", "c") else x for k, x in arguments.items()}
    got = scan(backend, **{**arguments, "order": routes.backwards(order)})
    torch.testing.assert_close(got, scan(backend, **flipped).flip(1), **CLOSE)


@backends
@given(**sizes)
@some
def test_scan_is_linear_in_the_map_and_the_state(backend: str, height: int, width: int, seed: int) -> None:
    order = routes.ss2d(height, width)
    first = make(order, height * width, seed=seed)
    second = {**first, "u": torch.randn_like(first["u"]), "initial_state": torch.randn_like(first["initial_state"])}
    mixed = {**first, **{k: 2 * first[k] - 3 * second[k] for k in ("u", "initial_state")}}
    want = 2 * scan(backend, **first) - 3 * scan(backend, **second)
    torch.testing.assert_close(scan(backend, **mixed), want, rtol=1e-4, atol=1e-4)


@backends
@given(**sizes)
@some
def test_merged_map_is_the_sum_of_the_routes(backend: str, height: int, width: int, seed: int) -> None:
    arguments = make(routes.ss2d(height, width), height * width, seed=seed)
    maps = scan(backend, **arguments, merge=False)
    assert maps.shape == (2, 4, height * width, 6)
    torch.testing.assert_close(scan(backend, **arguments), maps.sum(1), **CLOSE)


@backends
@given(**sizes)
@some
def test_merged_channel_groups_lie_side_by_side(backend: str, height: int, width: int, seed: int) -> None:
    arguments = make(routes.bidirectional(height, width), height * width, groups=True, seed=seed)
    maps = scan(backend, **arguments, merge=False)
    assert maps.shape == (2, 2, height * width, 3)
    torch.testing.assert_close(scan(backend, **arguments), torch.cat(maps.unbind(1), -1), **CLOSE)


@backends
@given(steps=st.integers(2, 30), cut=st.integers(0, 30), seed=st.integers(0, 99))
@some
def test_state_joins_two_halves_of_a_sequence(backend: str, steps: int, cut: int, seed: int) -> None:
    cut = min(cut, steps)
    order = routes.raster(1, steps)
    arguments = make(order, steps, seed=seed)
    whole, last = scan(backend, **arguments, return_final_state=True)
    before, state = scan(backend, **{**arguments, "order": order[..., :cut]}, return_final_state=True)
    second = {**arguments, "order": order[..., cut:], "initial_state": state}
    after, joined = scan(backend, **second, return_final_state=True)
    torch.testing.assert_close(before + after, whole, **CLOSE)
    torch.testing.assert_close(joined, last, **CLOSE)


@backends
@given(**sizes)
@some
def test_permuted_channels_give_permuted_results(backend: str, height: int, width: int, seed: int) -> None:
    arguments = make(routes.ss2d(height, width), height * width, seed=seed)
    p = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    axis = {"u": -1, "dt": -1, "a": 1, "d": -1, "dt_bias": -1, "initial_state": -2}
    permuted = {k: x.index_select(axis[k], p) if k in axis else x for k, x in arguments.items()}
    torch.testing.assert_close(scan(backend, **permuted), scan(backend, **arguments)[..., p], **CLOSE)


@backends
def test_step_outside_the_map_decays_by_the_bias_alone_and_writes_nothing(backend: str) -> None:
    order = torch.tensor([[[-1, -1]]], dtype=torch.int32)
    arguments = make(order, 4)
    y, state = scan(backend, **arguments, return_final_state=True)
    step = torch.nn.functional.softplus(arguments["dt_bias"])  # (1, D)
    decay = (2 * step[..., None] * arguments["a"]).exp()
    assert not y.any()
    torch.testing.assert_close(state, decay[None, :, None] * arguments["initial_state"], **CLOSE)


@backends
def test_visits_of_one_pixel_add_up(backend: str) -> None:
    twice = torch.tensor([[[1, 1]]], dtype=torch.int32)
    arguments = make(twice, 3)
    y, state = scan(backend, **arguments, return_final_state=True)
    once = {**arguments, "order": twice[..., :1]}
    first, middle = scan(backend, **once, return_final_state=True)
    second, last = scan(backend, **{**once, "initial_state": middle}, return_final_state=True)
    torch.testing.assert_close(y, first + second, **CLOSE)
    torch.testing.assert_close(state, last, **CLOSE)
    assert not y[:, [0, 2]].any()


@backends
@pytest.mark.parametrize("empty", ["batch", "steps", "sequences"])
def test_empty_sizes_give_empty_or_zero_results(backend: str, empty: str) -> None:
    order = {"batch": routes.raster(2, 2), "steps": torch.empty(1, 2, 0), "sequences": torch.empty(1, 0, 3)}[
        empty
    ].int()
    arguments = make(order, 4, batch=0 if empty == "batch" else 2)
    leaves = [x.requires_grad_() for k, x in arguments.items() if k != "order"]
    y, state = scan(backend, **arguments, return_final_state=True)
    assert y.shape == arguments["u"].shape
    assert not y.any()
    torch.testing.assert_close(state, arguments["initial_state"], check_stride=False)
    (y.sum() + state.sum()).backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in leaves)


# ---------------------------------------------------------------------------------------------- errors

GOOD = make(routes.ss2d(2, 3), 6)
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "u": ({"u": GOOD["u"][0]}, r"u has shape \(6, 6\); expected \(B, L, D\)"),
    "dt": ({"dt": GOOD["dt"][..., :2]}, r"dt has shape .*Dk=6"),
    "dt.low": ({"dt": LowRank(torch.ones(2, 6, 3, 2), torch.ones(4, 2, 6))}, r"dt\.low has shape .*K=4"),
    "dt.weight": ({"dt": LowRank(torch.ones(2, 6, 4, 2), torch.ones(4, 3, 6))}, r"dt\.weight has shape .*R=2"),
    "a": ({"a": GOOD["a"][0]}, r"a has shape \(6, 3\)"),
    "a_channels": ({"a": GOOD["a"][:, :4]}, "a has 4 channels a route and u has 6"),
    "a_state": ({"a": torch.ones(4, 6, 65)}, "N=65; the scan takes 1 to 64"),
    "b": ({"b": GOOD["b"][:, :5]}, r"b has shape .*L=6"),
    "c": ({"c": GOOD["c"][..., :1]}, r"c has shape .*N=3"),
    "order": ({"order": GOOD["order"][0]}, r"order has shape \(1, 6\)"),
    "order_routes": ({"order": GOOD["order"][:3]}, r"order has shape .*K=4"),
    "order_high": ({"order": GOOD["order"] + 1}, "order names pixels 1 to 6.*0 to 5"),
    "order_low": ({"order": GOOD["order"] - 2}, "order names pixels -2 to 3"),
    "order_dtype": ({"order": GOOD["order"].float()}, "order has dtype torch.float32; expected int32"),
    "d": ({"d": GOOD["d"][:, :1]}, r"d has shape \(4, 1\)"),
    "dt_bias": ({"dt_bias": GOOD["dt_bias"][0]}, r"dt_bias has shape \(6,\)"),
    "initial_state": ({"initial_state": GOOD["initial_state"][:, :, 0]}, "initial_state has shape .*S=1"),
    "dtype": ({"b": GOOD["b"].int()}, "b has dtype torch.int32; expected a floating-point dtype"),
    "device": ({"c": GOOD["c"].to("meta")}, "c is on meta and u on cpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_named(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**GOOD, **changes})


# ---------------------------------------------------------------------------------------------- dtypes, transforms


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_stays_float32_under_autocast(backend: str, dtype: torch.dtype) -> None:
    arguments = make(routes.ss2d(3, 3), 9)
    arguments["dt"] = arguments["dt"] * 1000  # steps that overflow exp
    with torch.autocast("cpu", dtype):
        half = {k: x.to(dtype) if k in ("u", "dt", "b", "c") else x for k, x in arguments.items()}
        y, state = scan(backend, **half, return_final_state=True)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    assert y.isfinite().all()
    assert state.isfinite().all()


def outputs_and_gradients(run: Any, arguments: dict[str, Tensor], order: Tensor) -> list[Tensor]:
    leaves = {k: x.detach().requires_grad_() for k, x in arguments.items() if k != "order"}
    y, state = run(leaves, order)
    return [y, state, *torch.autograd.grad(y.square().sum() + state.square().sum(), list(leaves.values()))]


@backends
def test_compiled_scan_equals_eager(backend: str) -> None:
    order = routes.ss2d(2, 3)

    def run(leaves: dict[str, Any], order: Tensor) -> Any:
        return selective_scan(**leaves, order=order, return_final_state=True)

    with use_backend(backend):
        eager = outputs_and_gradients(run, GOOD, order)
        compiled = outputs_and_gradients(torch.compile(run, fullgraph=True, backend="aot_eager"), GOOD, order)
    for got, want in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("optional", [True, False])
def test_registered_operator_passes_opcheck(optional: bool) -> None:
    arguments = [x.detach().requires_grad_() for k, x in GOOD.items() if k != "order"]
    u, dt, a, b, c, d, bias, state = arguments
    rest = (d, bias, GOOD["order"], state) if optional else (None, None, GOOD["order"], None)
    with use_backend("cpu"):
        torch.library.opcheck(torch.ops.visionssm.selective_scan, (u, dt, None, a, b, c, *rest, True, True))


def test_route_table_made_in_inference_mode_is_checked_too() -> None:
    with torch.inference_mode():
        order = routes.raster(2, 3).clone()
        assert order.is_inference()
        check_order(order, 6)
        order[0, 0, 0] = 6
        with pytest.raises(ValueError, match="names pixels 1 to 6"):
            check_order(order, 6)


@pytest.mark.parametrize("wrong", [9, 10**6, 2**31 - 1, -2, -(2**31)])
def test_table_that_changes_behind_torch_never_leaves_the_map(wrong: int) -> None:
    table = routes.ss2d(3, 3).numpy().copy()
    order = torch.from_numpy(table)
    generator = torch.Generator().manual_seed(0)
    u, dt, b, c = (
        torch.randn(*shape, generator=generator) for shape in ((2, 9, 8), (2, 9, 4, 8), (2, 9, 4, 2), (2, 9, 4, 2))
    )
    inputs = [x.requires_grad_() for x in (u, dt, -torch.rand(4, 8, 2, generator=generator), b, c)]

    def values_and_gradients() -> list[Tensor]:
        y = selective_scan(*inputs, order=order)
        assert isinstance(y, Tensor)
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), inputs)]

    values_and_gradients()
    table[1, 0, 3], table[3, 0, 8] = wrong, wrong  # torch does not see it: the version of the tensor stays
    found = values_and_gradients()
    table[1, 0, 3], table[3, 0, 8] = -1, -1
    torch.testing.assert_close(found, values_and_gradients(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("channels", "n_routes", "rank", "message"),
    [
        (0, 1, 2, "u has 0 channels and a 1 routes; give at least one of each"),
        (3, 0, 2, "u has 3 channels and a 0 routes; give at least one of each"),
        (3, 1, 0, "dt.low has a rank of R=0; give at least 1"),  # the CPU kernels read other memory for it
    ],
)
def test_nothing_to_scan_is_refused(channels: int, n_routes: int, rank: int, message: str) -> None:
    u, b = torch.zeros(2, 6, channels), torch.zeros(2, 6, n_routes, 4)
    dt = LowRank(torch.zeros(2, 6, n_routes, rank), torch.zeros(n_routes, rank, channels))
    order = torch.zeros(n_routes, 1, 6, dtype=torch.int32)
    with pytest.raises(ValueError, match=message):
        selective_scan(u, dt, torch.zeros(n_routes, channels, 4), b, b, order=order)
