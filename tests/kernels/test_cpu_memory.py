"""Working memory of compiled kernels: every block is as large as the kernel uses it, and no larger by a vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from torch import Tensor

from tests.kernels.examples import normal
from visionssm.kernels import (
    LowRank,
    deformable_sum,
    gated_linear_attention,
    plstm2d,
    plstm2d_four_directions,
    routes,
    selective_scan,
    ssd,
    ttt_linear,
)
from visionssm.kernels.causal_conv import causal_conv_silu
from visionssm.kernels.causal_conv.cpu_kernels import conv_backward
from visionssm.kernels.cpu import kernel as kernel_module
from visionssm.kernels.cpu import threads
from visionssm.kernels.cpu.blocks import FLOAT
from visionssm.kernels.cpu.kernel import Kernel, kernel_with, one_after_another
from visionssm.kernels.cpu.math import LANES, put, scalar
from visionssm.kernels.deformable_sum.cpu_kernels import deformable_backward, deformable_forward, deformable_reach
from visionssm.kernels.gated_linear_attention.cpu_kernels import gated_backward, gated_forward
from visionssm.kernels.multi_scale import Depthwise, Norm, multi_scale
from visionssm.kernels.multi_scale.cpu_kernels import multi_scale_forward
from visionssm.kernels.plstm2d import propagation_gates
from visionssm.kernels.plstm2d.cpu_kernels import pairs_backward, pairs_forward
from visionssm.kernels.position_norm import position_norm
from visionssm.kernels.position_norm.cpu_kernels import position_norm_forward
from visionssm.kernels.selective_scan.cpu_backward import scan_backward
from visionssm.kernels.selective_scan.cpu_forward import scan_forward
from visionssm.kernels.ssd.cpu_kernels import ssd_backward, ssd_forward
from visionssm.kernels.step_scan import step_scan, steps_of
from visionssm.kernels.step_scan.cpu_kernels import step_scan_forward
from visionssm.kernels.ttt_linear.cpu_kernels import ttt_backward, ttt_forward

GUARD = 2 * LANES  # floats around every block
NAN = 0x7F801234  # a signalling one: arithmetic on it makes another

Call = Callable[[], list[Tensor]]


def _values_and_gradients(inputs: list[Tensor], call: Callable[..., Tensor | tuple[Tensor, ...]]) -> list[Tensor]:
    found = call(*inputs)
    outputs = [found] if isinstance(found, Tensor) else list(found)
    total = torch.stack([x.float().sin().sum() for x in outputs]).sum()
    return [x.detach() for x in (*outputs, *torch.autograd.grad(total, inputs))]


def _scan(channels: int, d_state: int, rank: int, dtype: torch.dtype = torch.float32, window: bool = False) -> Call:
    """With more steps than there are between saved states, and more images than groups of them."""
    table = routes.window(12, 11, 4, device="cpu") if window else routes.ss2d(12, 11, device="cpu")
    if window:
        table = table.flatten(1)[:, None]
    n_routes = table.shape[0]
    maps = [normal(5, 132, channels), normal(5, 132, n_routes, d_state), normal(5, 132, n_routes, d_state)]
    steps = [normal(5, 132, n_routes, rank), normal(n_routes, rank, channels)]
    if rank == 0:
        steps = [normal(5, 132, n_routes, channels)]
    rest = [normal(n_routes, channels, d_state), normal(n_routes, channels), normal(n_routes, channels)]

    def call(u: Tensor, b: Tensor, c: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        dt = others[0].to(dtype) if rank == 0 else LowRank(others[0].to(dtype), others[1])
        a, skip, bias = others[-3:]
        return selective_scan(
            u.to(dtype), dt, -a.exp(), b.to(dtype), c.to(dtype), d=skip, dt_bias=bias, order=table,
            return_final_state=True,
        )  # fmt: skip

    return lambda: _values_and_gradients([*maps, *steps, *rest], call)


def _ssd(width: int, d_state: int) -> Call:
    inputs = [
        normal(2, 35, 3, width),
        normal(2, 35, 3),
        normal(3),
        normal(2, 35, 1, d_state),
        normal(2, 35, 1, d_state),
    ]

    def call(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return ssd(x, dt, -a.exp(), b, c, softplus=True, chunk_size=16, return_final_state=True)

    return lambda: _values_and_gradients(inputs, call)


def _gated(width: int, d_state: int) -> Call:
    inputs = [normal(2, 35, 3, d_state), normal(2, 35, 3, d_state), normal(2, 35, 3, width), normal(2, 35, 3, d_state)]

    def call(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
        return gated_linear_attention(q, k, v, -decay.exp())

    return lambda: _values_and_gradients(inputs, call)


def _test_time_training(width: int, mini_batch: int) -> Call:
    inputs = [*(normal(2, 105, 2, width) for _ in range(3)), normal(2, 105, 2), normal(mini_batch)]
    inputs += [normal(2, width, width), normal(2, width), normal(2, width), normal(2, width)]

    def call(q: Tensor, k: Tensor, v: Tensor, rate: Tensor, scale: Tensor, *rest: Tensor) -> Tensor:
        return ttt_linear(q, k.sin(), v.cos(), rate.sigmoid() / width, scale.sigmoid(), *rest)

    return lambda: _values_and_gradients(inputs, call)


def _deformable(channels: int) -> Call:
    inputs = [normal(1, 16, 5, 2, channels), normal(1, 16, 5, 2, 9, 2), normal(1, 16, 5, 2, 9)]
    return lambda: _values_and_gradients(inputs, deformable_sum)


def _causal(backwards: bool) -> Call:
    inputs = [normal(2, 70, 16), normal(16, 4), normal(16)]
    return lambda: _values_and_gradients(inputs, lambda *x: causal_conv_silu(*x, backwards=backwards))


def _plstm(directions: int, rows: int, columns: int) -> Call:
    lead = (1, rows, columns) if directions == 1 else (1, 4, rows, columns)
    inputs = [*(normal(1, rows, columns, width, 1) for width in (2, 2, 5)), normal(*lead), normal(*lead, 1, 1, 1)]

    def call(q: Tensor, k: Tensor, v: Tensor, share: Tensor, value: Tensor) -> Tensor:
        gates = propagation_gates(share.sigmoid(), value, value[..., 0].sigmoid(), value)
        out = (plstm2d if directions == 1 else plstm2d_four_directions)(q, k, v, gates)
        assert isinstance(out, Tensor)
        return out

    return lambda: _values_and_gradients(inputs, call)


def _multi_scale(channels: int) -> Call:
    x, norm = normal(1, 5, 4, channels), Norm(normal(channels), normal(channels), 1e-5)
    position = Depthwise(normal(channels, 1, 3, 3), normal(channels))
    scales = tuple(Depthwise(normal(channels // 2, 1, side, side), normal(channels // 2)) for side in (3, 5))

    def call() -> list[Tensor]:
        with torch.no_grad():
            return [*multi_scale(x, position, norm, scales, norm), *position_norm(x, x.sin(), position, norm)]

    return call


def _steps(channels: int, d_state: int, rank: int) -> Call:
    order = routes.zigzags(5, 7, device="cpu")
    inputs = [normal(2, 35, channels), normal(2, 35, rank), normal(rank, channels), -normal(channels, d_state).exp()]
    rest = [normal(2, 35, 4, d_state), normal(2, 35, d_state)]

    def call() -> list[Tensor]:
        u, low, weight, a = inputs
        with torch.no_grad():
            return [
                step_scan(u, LowRank(low, weight), a, *rest, d=a[:, 0], dt_bias=a[:, 0], steps=steps_of(order)).clone()
            ]

    return call


CASES: dict[str, Call] = {
    "scan": _scan(32, 3, 0),
    "scan of low rank": _scan(48, 2, 5),
    "scan of one state": _scan(16, 1, 2),
    "scan of an odd number of channels": _scan(21, 4, 0),
    "scan of an odd number of channels and low rank": _scan(150, 2, 3),
    "scan with more states than channels": _scan(16, 35, 2, window=True),
    "scan with a rank above the channels": _scan(16, 2, 37, window=True),
    "scan outside the map": _scan(32, 3, 0, window=True),
    "scan in bfloat16": _scan(32, 3, 0, torch.bfloat16),
    "scan in float16, low rank": _scan(24, 2, 3, torch.float16, window=True),
    "scan of steps": _steps(48, 3, 2),
    "scan of steps with more states than channels": _steps(16, 35, 5),
    "ssd": _ssd(32, 16),
    "ssd of odd sizes": _ssd(21, 19),
    "gated linear attention": _gated(32, 16),
    "gated linear attention of odd sizes": _gated(21, 19),
    "test-time training": _test_time_training(16, 16),
    "test-time training of odd sizes": _test_time_training(21, 17),
    "deformable sum": _deformable(16),
    "deformable sum of an odd number of channels": _deformable(5),
    "causal convolution": _causal(False),
    "causal convolution backwards": _causal(True),
    "plstm2d of one direction": _plstm(1, 5, 4),
    "plstm2d of four directions": _plstm(4, 4, 9),
    "multi-scale": _multi_scale(16),
    "multi-scale of an odd number of channels": _multi_scale(6),
}
CASES_OF: dict[Kernel, str] = {
    scan_forward: "scan",
    scan_backward: "scan",
    step_scan_forward: "scan of steps",
    ssd_forward: "ssd",
    ssd_backward: "ssd",
    gated_forward: "gated",
    gated_backward: "gated",
    ttt_forward: "test-time",
    ttt_backward: "test-time",
    deformable_forward: "deformable",
    deformable_reach: "deformable",
    deformable_backward: "deformable",
    conv_backward: "causal",
    pairs_forward: "plstm2d",
    pairs_backward: "plstm2d",
    multi_scale_forward: "multi-scale",
    position_norm_forward: "multi-scale",
}

NEVER_NOTICED = {deformable_backward: ["products"]}  # sixteen rows are summed where nine are points


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Guards:
    """Puts floats that are NaN before, between and after the blocks of kernels, and sees whether they stay so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.touched: set[str] = set()  # kernels that wrote outside their blocks
        self.used: set[str] = set()
        run, memory, inside = threads.run_kernel, torch.empty(0), torch.empty(0, dtype=torch.bool)

        def apart(sizes: Iterable[int]) -> tuple[list[int], int]:
            nonlocal inside
            sizes = list(sizes)
            places, end = one_after_another(size + GUARD for size in sizes)
            inside = torch.zeros(end // FLOAT + GUARD, dtype=torch.bool)
            for place, size in zip(places, sizes, strict=True):
                inside[place // FLOAT + GUARD :][:size] = True
            return [place + GUARD * FLOAT for place in places], end + GUARD * FLOAT

        def filled(floats: int) -> Tensor:
            nonlocal memory
            memory = torch.full((floats,), NAN, dtype=torch.int32).view(torch.float32)
            return memory

        def guarded(kernel: Kernel, tasks: int, **arguments: int) -> None:
            run(kernel, tasks, **arguments)
            name = kernel.function.__name__
            self.used.add(name)
            if len(memory) > 0:
                words = memory.view(torch.int32).unflatten(0, (torch.get_num_threads(), -1))[:, : len(inside)]
                if (words[:, ~inside] != NAN).any():
                    self.touched.add(name)

        monkeypatch.setattr(kernel_module, "one_after_another", apart)
        monkeypatch.setattr(threads, "_working_memory", filled)
        monkeypatch.setattr(threads, "run_kernel", guarded)


@pytest.mark.parametrize("case", CASES)
def test_kernels_use_nothing_outside_their_blocks(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = CASES[case]()
    guards = Guards(monkeypatch)
    found = CASES[case]()
    assert guards.used
    assert not guards.touched
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", CASES_OF, ids=lambda kernel: kernel.function.__name__)
def test_block_that_is_too_small_by_a_vector_is_noticed(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [call for case, call in CASES.items() if case.startswith(CASES_OF[kernel])]
    name = kernel.function.__name__
    expected = [call() for call in cases]
    guards = Guards(monkeypatch)
    sizes = kernel.memory

    def noticed(block: str) -> bool:
        def smaller(**arguments: int) -> dict[str, int]:
            return {**(real := sizes(**arguments)), block: max(0, real[block] - LANES)}

        monkeypatch.setattr(kernel, "memory", smaller)
        guards.touched.clear()
        return any(
            not all(torch.equal(x, y) for x, y in zip(call(), before, strict=True)) or name in guards.touched
            for call, before in zip(cases, expected, strict=True)
        )

    assert [block for block in kernel.block_names if not noticed(block)] == NEVER_NOTICED.get(kernel, [])


def test_blocks_lie_one_after_the_other() -> None:
    assert one_after_another([3, 0, 16, 5]) == ([0, 3 * FLOAT, 3 * FLOAT, 19 * FLOAT], 24 * FLOAT)
    assert one_after_another([]) == ([], 0)


@kernel_with(lambda count: {"second": count, "first": 2 * count}, unset=["first"])
def _apart(tasks, counter, first, second, count, target):  # type: ignore[no-untyped-def]
    put(target, 0, (first - second) // FLOAT)
    put(target, 1, scalar(second, count - 1))
    put(target, 2, scalar(first, 0))
    put(target, 3, scalar(first, 2 * count - 1))


def test_blocks_are_found_by_name_and_zeroed_unless_they_may_be_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_working_memory", lambda floats: torch.full((floats,), 7.0))
    target = torch.empty(4)
    threads.run_kernel(_apart, 1, count=40, target=target.data_ptr())
    assert target.tolist() == [40, 0, 7, 7]


@pytest.mark.parametrize(
    "memory, unset, strange",
    [
        (lambda: {"units": 1, "row": 1}, [], r"\['row'\]"),
        (lambda width: {"units": 1}, [], r"\['width'\]"),
        (lambda: {"units": 1}, ["rows"], r"\['rows'\]"),
    ],
    ids=["block", "size", "unset block"],
)
def test_memory_that_names_no_argument_is_refused(memory: kernel_module.Memory, unset: list[str], strange: str) -> None:
    with pytest.raises(TypeError, match=rf"the memory of .* names {strange}, which are none of its arguments"):
        kernel_with(memory, unset=unset)(lambda tasks, counter, units, target: None)
