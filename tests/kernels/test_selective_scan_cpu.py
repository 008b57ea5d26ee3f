"""The compiled CPU selective scan against its definition in float64, and its behaviour among threads and processes."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.kernels import LowRank, routes, selective_scan, use_backend
from visionssm.kernels.selective_scan.cpu_forward import CHUNK
from visionssm.kernels.selective_scan.reference import selective_scan_reference
from visionssm.kernels.selective_scan.scan import Scan

TOLERANCE = 1e-5  # of the norm; float32 PyTorch itself is within 1e-6 on these cases

_ROUTES: dict[str, Callable[[int, int], Tensor]] = {
    "ss2d": routes.ss2d,
    "raster": routes.raster,
    "atrous": lambda height, width: routes.atrous(height, width, 2),
    "window": lambda height, width: routes.window(height, width, 4).expand(2, -1, -1).contiguous(),
    "revisits": lambda height, width: torch.randint(
        -1, height * width, (2, 2, CHUNK + 9), generator=torch.Generator().manual_seed(1), dtype=torch.int32
    ),
}


@dataclass(frozen=True)
class Case:
    """Sizes of one scan, and which optional inputs it has."""

    route: str = "ss2d"
    images: int = 2
    height: int = 5
    width: int = 7
    channels: int = 24
    state: int = 3
    rank: int = 2  # 0: dense steps
    grouped: bool = False
    skip: bool = True
    bias: bool = True
    initial: bool = True
    merge: bool = True
    final_gradient: bool = True


def _inputs(case: Case) -> tuple[Any, ...]:
    """Float64 arguments of the reference, up to `order` and `initial_state`; b, c and low-rank dt are views."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    order = _ROUTES[case.route](case.height, case.width)
    n_routes, n_sequences, _ = order.shape
    pixels, channels = case.height * case.width, case.channels // (n_routes if case.grouped else 1)
    projection = normal(case.images, pixels, n_routes, case.rank + 2 * case.state)
    low, b, c = projection.split([case.rank, case.state, case.state], -1)
    return (
        normal(case.images, pixels, case.channels),
        low if case.rank else normal(case.images, pixels, n_routes, channels),
        normal(n_routes, case.rank, channels) * case.rank**-0.5 if case.rank else None,
        -3 * torch.rand(n_routes, channels, case.state, generator=generator, dtype=torch.float64) - 0.01,
        b,
        c,
        normal(n_routes, channels) if case.skip else None,
        normal(n_routes, channels) if case.bias else None,
        order,
        normal(case.images, n_routes, n_sequences, channels, case.state) if case.initial else None,
    )


def _compiled(u: Tensor, dt: Tensor, weight: Tensor | None, *rest: Any, merge: bool) -> tuple[Tensor, Tensor]:
    a, b, c, d, bias, order, initial = rest
    with use_backend("cpu"):
        y, state = selective_scan(
            u,
            dt if weight is None else LowRank(dt, weight),
            a,
            b,
            c,
            order=order,
            d=d,
            dt_bias=bias,
            initial_state=initial,
            merge=merge,
            return_final_state=True,
        )
    return y, state


def _defined(*tensors: Any, merge: bool) -> tuple[Tensor, Tensor]:
    return selective_scan_reference(Scan(*tensors), merge)


def _results(scan: Callable[..., tuple[Tensor, Tensor]], case: Case, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The map, the final state and the gradients of all floating-point inputs under fixed random weights."""
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    y, state = scan(*leaves, merge=case.merge)
    generator = torch.Generator().manual_seed(2)
    loss = (y.double() * torch.randn(y.shape, generator=generator, dtype=torch.float64)).sum()
    if case.final_gradient:
        loss = loss + (state.double() * torch.randn(state.shape, generator=generator, dtype=torch.float64)).sum()
    wanted = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [y, state, *(torch.zeros_like(x) if g is None else g for x, g in zip(wanted, grads, strict=True))]


def _error(x: Tensor, exact: Tensor) -> float:
    assert x.shape == exact.shape
    if exact.numel() == 0:
        return 0.0
    return ((x.double() - exact.double()).norm() / exact.double().norm().clamp(min=1e-12)).item()


def _errors(case: Case, dtype: torch.dtype = torch.float32) -> list[float]:
    """Errors of values and gradients against the reference in float64, on inputs that `dtype` holds exactly."""
    rounded = tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in _inputs(case))
    double = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in rounded)
    found, exact = _results(_compiled, case, rounded), _results(_defined, case, double)
    assert found[0].dtype == dtype
    assert all(g.dtype == dtype for g in found[2:])
    return [_error(x, y) for x, y in zip(found, exact, strict=True)]


@pytest.mark.parametrize("state", [1, 2, 3, 16, 17, 64])
@pytest.mark.parametrize("rank", [0, 5])
def test_every_state_size_matches_reference(state: int, rank: int) -> None:
    assert max(_errors(Case(state=state, rank=rank, height=3, width=5))) < TOLERANCE


@pytest.mark.parametrize("channels", [1, 7, 16, 33, 96, 144])
@pytest.mark.parametrize("rank", [0, 3])
def test_every_number_of_channels_matches_reference(channels: int, rank: int) -> None:
    assert max(_errors(Case(channels=channels, rank=rank, state=2))) < TOLERANCE


@pytest.mark.parametrize("route", _ROUTES)
@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("rank", [0, 3])
def test_every_kind_of_route_matches_reference(route: str, merge: bool, rank: int) -> None:
    assert max(_errors(Case(route=route, merge=merge, rank=rank))) < TOLERANCE


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("channels", [4, 64, 136])
def test_routes_over_channel_groups_match_reference(channels: int, merge: bool) -> None:
    assert max(_errors(Case(grouped=True, channels=channels, merge=merge))) < TOLERANCE


@pytest.mark.parametrize("left_out", ["skip", "bias", "initial", "final_gradient"])
def test_optional_inputs_may_be_left_out(left_out: str) -> None:
    assert max(_errors(replace(Case(rank=0), **{left_out: False}))) < TOLERANCE
    assert max(_errors(replace(Case(), skip=False, bias=False, initial=False, final_gradient=False))) < TOLERANCE


@pytest.mark.parametrize("pixels", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
@pytest.mark.parametrize("state", [1, 4])
def test_sequences_of_several_chunks_match_reference(pixels: int, state: int) -> None:
    case = Case(route="raster", images=1, height=1, width=pixels, channels=20, state=state)
    assert max(_errors(case)) < TOLERANCE


@pytest.mark.parametrize("images", [1, 3, 7])
def test_every_batch_size_matches_reference(images: int) -> None:
    assert max(_errors(Case(images=images, channels=40))) < TOLERANCE


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 6e-3), (torch.float16, 8e-4)])
def test_half_precision_differs_from_reference_by_rounding_only(dtype: torch.dtype, tolerance: float) -> None:
    assert max(_errors(Case(rank=2), dtype)) < tolerance
    assert max(_errors(Case(rank=0, grouped=True), dtype)) < tolerance


@settings(max_examples=25, deadline=None)
@given(
    case=st.builds(
        Case,
        route=st.sampled_from(sorted(_ROUTES)),
        images=st.integers(1, 3),
        height=st.integers(1, 6),
        width=st.integers(1, 6),
        channels=st.integers(1, 40),
        state=st.integers(1, 9),
        rank=st.integers(0, 5),
        skip=st.booleans(),
        bias=st.booleans(),
        initial=st.booleans(),
        merge=st.booleans(),
    )
)
def test_any_case_matches_reference(case: Case) -> None:
    assert max(_errors(case)) < TOLERANCE


def test_strided_inputs_and_gradients_match_contiguous_ones() -> None:
    u, dt, weight, a, b, c, d, bias, order, _ = _inputs(Case())
    arguments = [x.float() for x in (u, dt, weight, a, b, c, d, bias)]

    def strided(x: Tensor) -> Tensor:
        wide = torch.full((*x.shape[:-1], 3 * x.shape[-1]), float("nan"))
        wide[..., ::3] = x
        return wide[..., ::3]

    def gradients(u: Tensor, dt: Tensor, weight: Tensor, *rest: Tensor) -> list[Tensor]:
        leaves = [x.detach().requires_grad_() for x in (u, dt, weight, *rest)]
        *front, d, bias = leaves
        y, state = _compiled(*front, d, bias, order, None, merge=True)
        (y.sum() + state.sum()).backward()  # the gradients of y and state are expanded scalars
        return [y, state, *(x.grad for x in leaves if x.grad is not None)]

    for x, exact in zip(gradients(*map(strided, arguments)), gradients(*arguments), strict=True):
        assert torch.equal(x, exact)


@pytest.mark.parametrize("rate", [-1e4, -1e-6])
@pytest.mark.parametrize("step", [1e4, 30.0, -30.0, -1e4])
def test_extreme_steps_and_rates_match_reference(step: float, rate: float) -> None:
    case = Case(rank=0, initial=False)
    u, dt, weight, a, *rest = _inputs(case)
    inputs = (u, torch.full_like(dt, step), weight, torch.full_like(a, rate), *rest)
    single = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    exact = _results(_defined, case, inputs)
    for x, y in zip(_results(_compiled, case, single), exact, strict=True):
        assert torch.isfinite(x).all()
        # Gradients of a step of 1e4 and a rate of −1e4 are below float32's range: an absolute floor for those.
        assert (x.double() - y).norm() <= TOLERANCE * y.norm() + 1e-30


def test_slow_decay_does_not_drift_over_a_long_sequence() -> None:
    case = Case(route="raster", images=1, height=1, width=4096, channels=16, state=2, rank=0, initial=True)
    u, dt, weight, a, *rest = _inputs(case)
    inputs = (0 * u, dt, weight, torch.full_like(a, -1e-6), *rest)
    single = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    assert _error(_compiled(*single, merge=True)[1], _defined(*inputs, merge=True)[1]) < 1e-4


@pytest.mark.parametrize(
    ("images", "pixels", "steps"), [(0, 6, 6), (2, 6, 0), (2, 0, 0), (2, 0, 3)], ids=["B=0", "T=0", "L=0,T=0", "L=0"]
)
def test_empty_inputs_give_empty_or_zero_results(images: int, pixels: int, steps: int) -> None:
    order = torch.full((2, 1, steps), -1, dtype=torch.int32)
    u = torch.randn(images, pixels, 5, requires_grad=True)
    dt = torch.randn(images, pixels, 2, 5, requires_grad=True)
    b, c = torch.randn(2, images, pixels, 2, 3, requires_grad=True).unbind()
    a = -torch.rand(2, 5, 3)
    initial = torch.randn(images, 2, 1, 5, 3, requires_grad=True)
    y, state = _compiled(u, dt, None, a, b, c, None, None, order, initial, merge=True)
    expected = _defined(u, dt, None, a, b, c, None, None, order, initial, merge=True)
    torch.testing.assert_close((y, state), expected)
    (y.sum() + state.sum()).backward()
    assert u.grad is not None
    assert not u.grad.any()
    assert dt.grad is not None
    assert not dt.grad.any()


@pytest.mark.parametrize("case", [Case(), Case(rank=0, initial=False, bias=False, grouped=True, merge=False)])
def test_operator_keeps_the_rules_of_torch_library(case: Case) -> None:
    inputs = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in _inputs(case)]
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    with use_backend("cpu"):
        torch.library.opcheck(torch.ops.visionssm.selective_scan.default, (*leaves, case.merge, True))
        y, final, states = torch.ops.visionssm.selective_scan(*inputs, case.merge, True)
        arguments = (torch.ones_like(y), torch.ones_like(final), *inputs, states, case.merge)
        torch.library.opcheck(torch.ops.visionssm.selective_scan_backward.default, arguments)


@pytest.mark.parametrize(("channels", "state", "rank"), [(96, 1, 6), (192, 16, 12)], ids=["VMamba-T", "VMamba-v0-T"])
def test_backward_keeps_less_than_three_times_the_map(channels: int, state: int, rank: int) -> None:
    case = Case(images=1, height=56, width=56, channels=channels, state=state, rank=rank, initial=False)
    inputs = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in _inputs(case)]
    leaves = [x.detach().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    kept: list[int] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel() * x.element_size())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        _compiled(*leaves, merge=True)
    assert len(kept) >= 9
    assert sum(kept) <= 3 * inputs[0].numel() * inputs[0].element_size()


# --- threads and processes --------------------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _small_scan(seed: int = 0) -> Tensor:
    """A scan of several tasks."""
    inputs = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in _inputs(Case(channels=64))]
    inputs[0] = inputs[0] * (seed + 1)
    return _compiled(*inputs, merge=True)[0]


def _small_scan_in_child(seed: int) -> Tensor:
    torch.set_num_threads(2)
    return _small_scan(seed).clone()


@pytest.mark.usefixtures("two_threads")
def test_result_does_not_depend_on_number_of_threads() -> None:
    expected = _small_scan()
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        torch.testing.assert_close(_small_scan(), expected, rtol=0, atol=0)


@pytest.mark.usefixtures("two_threads")
def test_two_threads_may_scan_at_the_same_time() -> None:
    expected = [_small_scan(seed) for seed in range(4)]
    together = threading.Barrier(4)

    def work(seed: int) -> bool:
        together.wait()
        return all(torch.equal(_small_scan(seed), expected[seed]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


# Spawned children, which import everything anew, are also in test_workers.py.
METHODS = [
    pytest.param(method, marks=[pytest.mark.slow] if method == "spawn" else [])
    for method in ("fork", "spawn")
    if method in multiprocessing.get_all_start_methods()
]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_child_process_scans_after_its_parent_has(method: str) -> None:
    expected = _small_scan(1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert torch.equal(pool.submit(_small_scan_in_child, 1).result(timeout=240), expected)


def test_compiled_graph_with_a_route_outside_the_map_is_refused() -> None:
    u, a = torch.randn(1, 4, 8), -torch.ones(1, 8, 2)
    dt, b, c = torch.randn(1, 4, 1, 8), torch.randn(1, 4, 1, 2), torch.randn(1, 4, 1, 2)
    order = torch.tensor([[[0, 1, 2, 3_000_000]]], dtype=torch.int32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def scan(order: Tensor) -> Tensor:
        return selective_scan(u, dt, a, b, c, order=order)

    with pytest.raises(ValueError, match="order names pixels 0 to 3000000"):
        scan(order)
