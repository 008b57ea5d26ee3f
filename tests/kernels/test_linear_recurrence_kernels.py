"""The compiled linear recurrence on CPUs: equal to its definition for any shape, and PyTorch's transforms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.kernels import linear_recurrence, use_backend
from visionssm.kernels.linear_recurrence.cpu_kernels import TILE

DTYPES = [torch.float32, torch.complex64]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def _random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _all_derivatives(leaves: list[Tensor], dim: int, reverse: bool) -> list[Tensor]:
    """States, gradients and the gradients of a function of them."""
    leaves = [x.detach().requires_grad_() for x in leaves]
    a, b, *state = leaves
    h = linear_recurrence(a, b, dim=dim, initial_state=state[0] if state else None, reverse=reverse)
    first = torch.autograd.grad((h * h.detach().cos()).real.sum() + h.abs().square().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(x.abs().square().sum() for x in first), leaves)  # type: ignore[arg-type]
    return [h.detach(), *(x.detach() for x in first), *second]


@st.composite
def _cases(draw: st.DrawFn) -> tuple[list[Tensor], int, bool]:
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=0, max_size=3)))
    shape = (*shape[:-1], draw(st.sampled_from([1, 2, 7, 8, 19, 33]))) if shape else shape
    dim = draw(st.integers(0, len(shape)))
    full = (*shape[:dim], draw(st.integers(1, 12)), *shape[dim:])
    shared = tuple(draw(st.sampled_from([1, n])) for n in full)[draw(st.integers(0, len(full))) :]
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 1000))
    leaves = [_random(shared, dtype, seed) / 2, _random(full, dtype, seed + 1)]
    if draw(st.booleans()):
        leaves.append(_random(shape, dtype, seed + 2))
    return leaves, dim, draw(st.booleans())


@settings(max_examples=80, deadline=None)
@given(_cases())
def test_states_and_both_derivatives_equal_the_float64_definition(case: tuple[list[Tensor], int, bool]) -> None:
    leaves, dim, reverse = case
    with use_backend("reference"):
        wanted = _all_derivatives([_wide(x) for x in leaves], dim, reverse)
    scale = max((x.abs().max().item() for x in wanted if x.numel()), default=0.0)  # of the terms that are added up
    for got, want in zip(_all_derivatives(leaves, dim, reverse), wanted, strict=True):
        torch.testing.assert_close(got, want.to(got.dtype), rtol=0, atol=3e-6 * scale)


@dtypes
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "varying"])
def test_steps_wider_than_a_tile_and_ragged(dtype: torch.dtype, shared: bool) -> None:
    width = TILE + 37
    a, b = _random((width,) if shared else (3, width), dtype, 0), _random((2, 3, width), dtype, 1)
    expected = linear_recurrence(_wide(a), _wide(b), dim=1)
    torch.testing.assert_close(linear_recurrence(a, b, dim=1), expected.to(dtype))


@dtypes
@settings(max_examples=20, deadline=None)
@given(steps=st.integers(2, 20), cut=st.integers(1, 19), seed=st.integers(0, 99))
def test_a_sequence_in_two_parts_equals_the_whole(dtype: torch.dtype, steps: int, cut: int, seed: int) -> None:
    cut = min(cut, steps - 1)
    a, b = _random((2, steps, 9), dtype, seed) / 2, _random((2, steps, 9), dtype, seed + 1)
    whole = linear_recurrence(a, b, dim=1)
    first = linear_recurrence(a[:, :cut], b[:, :cut], dim=1)
    second = linear_recurrence(a[:, cut:], b[:, cut:], dim=1, initial_state=first[:, -1])
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


@dtypes
def test_views_conjugates_and_flips_need_no_copy_by_the_caller(dtype: torch.dtype) -> None:
    a, b = _random((4, 6), dtype, 0).mT, _random((5, 4, 6), dtype, 1).transpose(0, 2)
    expected = linear_recurrence(_wide(a).contiguous()[:, :, None], _wide(b).contiguous(), dim=1)
    torch.testing.assert_close(linear_recurrence(a[:, :, None], b, dim=1), expected.to(dtype))
    lazy = linear_recurrence(a.conj()[:, :, None], b.conj(), dim=1)
    torch.testing.assert_close(lazy, expected.conj().to(dtype).resolve_conj())
    backwards = linear_recurrence(a.flip(1)[:, :, None], b.flip(1), dim=1, reverse=True)
    torch.testing.assert_close(backwards.flip(1), expected.to(dtype))


def test_real_factors_of_complex_states_get_real_gradients() -> None:
    a, b = torch.rand(3, requires_grad=True), _random((5, 3), torch.complex64, 0)
    linear_recurrence(a, b, dim=0).real.sum().backward()
    wide = a.detach().double().requires_grad_()
    linear_recurrence(wide, _wide(b), dim=0).real.sum().backward()
    assert a.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(a.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------- transforms


@dtypes
def test_registered_operator_passes_opcheck(dtype: torch.dtype) -> None:
    a, b, state = (_random(s, dtype, i).requires_grad_() for i, s in enumerate([(1, 4, 3), (2, 4, 3), (2, 3)]))
    operator = torch.ops.visionssm.linear_recurrence
    torch.library.opcheck(operator, (a, b, state, False, False))
    torch.library.opcheck(operator, (a, b, None, True, True))


@dtypes
@pytest.mark.parametrize("reverse", [False, True])
def test_compiled_form_equals_the_eager_one(dtype: torch.dtype, reverse: bool) -> None:
    leaves = [_random(s, dtype, i).requires_grad_() for i, s in enumerate([(3,), (2, 8, 3), (2, 3)])]

    def run(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
        return linear_recurrence(a, b, dim=1, initial_state=state, reverse=reverse)

    def results(function: Any) -> list[Tensor]:
        h = function(*leaves)
        return [h, *torch.autograd.grad(h.abs().square().sum(), leaves)]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for got, want in zip(results(compiled), results(run), strict=True):
        torch.testing.assert_close(got, want)


class _Layer(torch.nn.Module):
    def __init__(self, reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse

    def forward(self, a: Tensor, b: Tensor, state: Tensor) -> Tensor:
        return linear_recurrence(a, b, dim=1, initial_state=state, reverse=self.reverse)


def _inputs(batch: int, steps: int, varying: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    shapes = (batch, steps, 3) if varying else (3,), (batch, steps, 3), (batch, 3)
    return tuple(_random(shape, dtype, i) / 2 for i, shape in enumerate(shapes))


def _open_sizes(varying: bool) -> tuple[Any, ...]:
    sequence = {0: torch.export.Dim("batch"), 1: torch.export.Dim("steps", min=2)}
    return (sequence if varying else None), sequence, {0: sequence[0]}


@dtypes
def test_exported_program_runs_at_any_batch_and_length(dtype: torch.dtype) -> None:
    layer = _Layer(reverse=False)
    program = torch.export.export(layer, _inputs(2, 7, True, dtype), dynamic_shapes=_open_sizes(True))
    other = _inputs(3, 20, True, dtype)
    torch.testing.assert_close(program.module()(*other), layer(*other))


# Factors that vary are also in tests/integrations/test_export_operators.py, in both directions.
@pytest.mark.parametrize("varying", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["shared", "varying"])
@pytest.mark.parametrize("reverse", [pytest.param(False, marks=pytest.mark.slow), True])
def test_onnx_graph_runs_at_any_batch_and_length(tmp_path: Path, varying: bool, reverse: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="comes with visionssm[export]")
    pytest.importorskip("onnxscript", reason="comes with visionssm[export]")
    layer = _Layer(reverse).eval()
    shapes = _open_sizes(varying)
    program = torch.onnx.export(
        layer,
        _inputs(2, 7, varying),
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["a", "b", "state"],
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "recurrence.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "recurrence.onnx"), providers=["CPUExecutionProvider"])
    for batch, steps in ((2, 7), (3, 20)):
        inputs = _inputs(batch, steps, varying)
        (found,) = session.run(None, {n: x.numpy() for n, x in zip(("a", "b", "state"), inputs, strict=True)})
        torch.testing.assert_close(torch.from_numpy(found), layer(*inputs), rtol=1e-4, atol=1e-4)


def test_complex_numbers_are_refused_for_onnx() -> None:
    a, b, _ = _inputs(2, 7, True, torch.complex64)
    with use_backend("export"), pytest.raises(ValueError, match="complex numbers cannot be exported to ONNX"):
        linear_recurrence(a, b, dim=1)
