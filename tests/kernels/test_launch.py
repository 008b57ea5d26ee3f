"""Python's part of a Triton launch, with a stand-in for the GPU: what kernels are given, how much is done before."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

pytest.importorskip("triton", reason="Triton is only published for Linux")

import triton

from tests.kernels.examples import OPERATORS
from visionssm.benchmarks.gpu.stand_in import Start, stand_in
from visionssm.kernels import LowRank, linear_recurrence, selective_scan, use_backend
from visionssm.kernels.launch import Starter

# The others are PyTorch's own operations.
LAUNCHING = [
    "selective_scan",
    "selective_scan, a map per route",
    "scan_states",
    "ssd",
    "deformable_sum",
    "linear_recurrence",
    "plstm2d",
    "plstm2d_four_directions",
]


@pytest.fixture
def starts() -> Iterator[list[Start]]:
    with stand_in() as noted, use_backend("triton"):
        yield noted


@pytest.fixture
def through_triton(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels whose launches Triton itself looked at."""
    names: list[str] = []
    run = triton.JITFunction.run

    def counted(kernel: Any, *args: Any, **options: Any) -> Any:
        names.append(kernel.__name__)
        return run(kernel, *args, **options)

    monkeypatch.setattr(triton.JITFunction, "run", counted)
    return names


def _forward_and_backward(name: str) -> None:
    inputs, call = OPERATORS[name]()
    found = call(*inputs)
    outputs = (found,) if isinstance(found, Tensor) else found
    torch.autograd.grad([x.sum() for x in outputs], inputs)


@pytest.mark.parametrize("name", LAUNCHING)
def test_later_launches_are_given_what_triton_gives_the_first(
    name: str, starts: list[Start], through_triton: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Starter.run

    def twice(starter: Starter, grid: tuple[int, ...], tensors: Any) -> None:
        run(starter, grid, tensors)
        looked_at = len(through_triton)
        run(starter, grid, tensors)
        assert len(through_triton) == looked_at

    monkeypatch.setattr(Starter, "run", twice)
    _forward_and_backward(name)
    assert len(starts) >= 4
    assert starts[::2] == starts[1::2]
    assert set(through_triton) == {start.kernel for start in starts}


@pytest.mark.parametrize("name", LAUNCHING)
def test_calls_that_agree_in_all_but_values_are_looked_at_by_triton_once(
    name: str, starts: list[Start], through_triton: list[str]
) -> None:
    _forward_and_backward(name)
    looked_at, started = len(through_triton), len(starts)
    _forward_and_backward(name)
    assert len(through_triton) == looked_at
    assert [s.kernel for s in starts[started:]] == [s.kernel for s in starts[:started]]


def test_kernel_for_aligned_addresses_is_given_no_others(starts: list[Start], through_triton: list[str]) -> None:
    memory, a = torch.zeros(4 * 64 + 1), torch.zeros(1)
    for i, looked_at in ((0, 1), (0, 1), (1, 2), (1, 2), (0, 2)):
        linear_recurrence(a, memory[i : i + 256].view(4, 64), dim=0)
        assert len(through_triton) == looked_at
    del starts


def test_every_address_counts_for_the_kernel_of_a_launch(starts: list[Start], through_triton: list[str]) -> None:
    memory, b = torch.zeros(5), torch.zeros(4, 64)
    for i, looked_at in ((0, 1), (1, 2), (0, 2)):
        linear_recurrence(memory[i : i + 1], b, dim=0)
        assert len(through_triton) == looked_at
    del starts


def test_another_dtype_size_or_option_is_looked_at_by_triton(starts: list[Start], through_triton: list[str]) -> None:
    a, b = torch.zeros(1), torch.zeros(4, 64)
    calls = [
        lambda: linear_recurrence(a, b, dim=0),
        lambda: linear_recurrence(a, b, dim=0, reverse=True),
        lambda: linear_recurrence(a, b, dim=1),
        lambda: linear_recurrence(a.to(torch.complex64), b, dim=0),
        lambda: linear_recurrence(a, b, dim=0, initial_state=torch.zeros(64)),
    ]
    for i, call in enumerate(calls):
        call()
        call()
        assert len(through_triton) == i + 1
    del starts


def test_hooks_of_profilers_are_called_at_every_launch(starts: list[Start]) -> None:
    a, b = torch.zeros(1), torch.zeros(4, 64)
    seen: list[int] = []

    def enter(_: object) -> None:
        seen.append(len(starts))

    hooks = triton.knobs.runtime.launch_enter_hook
    linear_recurrence(a, b, dim=0)
    hooks.add(enter)
    try:
        linear_recurrence(a, b, dim=0)
        linear_recurrence(a, b, dim=0)
    finally:
        hooks.remove(enter)
    linear_recurrence(a, b, dim=0)
    assert seen == [1, 2]


def _scan(requires_grad: bool) -> list[Tensor]:
    projected = torch.randn(1, 9, 4, 8)
    low, b, c = projected.requires_grad_(requires_grad).split([6, 1, 1], -1)
    shapes = ((1, 9, 32), (4, 6, 32), (4, 32, 1), (4, 32), (4, 32))
    return [*(torch.randn(shape, requires_grad=requires_grad) for shape in shapes), low, b, c]


def _run_scan(inputs: list[Tensor], order: Tensor) -> Tensor:
    u, weight, a, d, bias, low, b, c = inputs
    y = selective_scan(u, LowRank(low, weight), a, b, c, order=order, d=d, dt_bias=bias)
    assert isinstance(y, Tensor)
    return y


def _function_calls(function: Any) -> int:
    count = 0

    def profile(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def test_python_does_little_before_a_scan_is_launched() -> None:
    """Calls of functions, Python's and C's, instead of microseconds, which depend on the machine and its load."""
    order, inputs, leaves = torch.arange(9).int().repeat(4, 1, 1), _scan(False), _scan(True)

    def training() -> None:
        torch.autograd.grad(_run_scan(leaves, order), leaves[:5], torch.ones(1, 9, 32))

    with stand_in(noted=False), use_backend("triton"):
        for _ in range(2):
            _run_scan(inputs, order)
            training()
        assert _function_calls(lambda: _run_scan(inputs, order)) <= 220
        assert _function_calls(training) <= 420


@pytest.mark.parametrize("name", LAUNCHING)
@pytest.mark.usefixtures("starts")
def test_second_call_waits_for_no_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So calls can be captured in CUDA graphs after one of the same sizes: reading a value ends a capture."""
    inputs, call = OPERATORS[name]()

    def forward_and_backward() -> None:
        found = call(*inputs)
        outputs = (found,) if isinstance(found, Tensor) else found
        torch.autograd.grad([x.sum() for x in outputs], inputs)

    forward_and_backward()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a value was read")

    for reads in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(Tensor, reads, refuse)
    for reads in ("nonzero", "unique", "masked_select", "equal", "allclose"):
        monkeypatch.setattr(torch, reads, refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", refuse)
    forward_and_backward()
    with torch.no_grad():
        call(*inputs)


def test_table_that_is_first_seen_in_a_capture_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from visionssm.kernels.checks import check_order

    class OnGpu(Tensor):
        """A table that says that it is on a GPU."""

        device = torch.device("cuda", 0)  # type: ignore[assignment]

    monkeypatch.setattr("visionssm.kernels.checks.Tensor", OnGpu)
    order = torch.tensor([[[0, 9]]]).as_subclass(OnGpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    check_order(order, pixels=4)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(ValueError, match="order names pixels 0 to 9"):
        check_order(order, pixels=4)


@pytest.mark.parametrize("name", LAUNCHING)
@pytest.mark.usefixtures("starts")
def test_no_tensor_of_a_call_is_kept_alive(name: str) -> None:
    """Kept for the next launch, one of them would keep the call's graph of autograd, and captures of it would fail."""
    inputs, call = OPERATORS[name]()

    def train() -> list[weakref.ref[Tensor]]:
        given = [1 * x for x in inputs]
        found = call(*given)
        outputs = (found,) if isinstance(found, Tensor) else found
        grads = torch.autograd.grad([x.sum() for x in outputs], inputs)
        return [weakref.ref(x) for x in (*given, *outputs, *grads)]

    kept = train()
    gc.collect()
    assert not [x for x in kept if x() is not None]


class _AsTold(TorchDispatchMode):
    """Compares what our operators return with what compilers are told that they return."""

    def __init__(self) -> None:
        super().__init__()
        self.compared = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.namespace == "visionssm":
            with FakeTensorMode() as mode:
                told = func(*tree_map_only(Tensor, mode.from_tensor, args))
            both = zip(*((x,) if isinstance(x, Tensor) else x for x in (found, told)), strict=True)
            for x, y in both:
                assert (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride()), func
                self.compared += 1
        return found


@pytest.mark.parametrize("name", LAUNCHING)
@pytest.mark.usefixtures("starts")
def test_results_lie_in_memory_as_compilers_are_told(name: str) -> None:
    with _AsTold() as mode:
        _forward_and_backward(name)
    assert mode.compared >= 2
