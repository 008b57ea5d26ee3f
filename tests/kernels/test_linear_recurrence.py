"""The linear recurrence equals its definition, forwards and backwards, in every form and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.kernels import linear_recurrence, linear_recurrence_step, use_backend
from visionssm.kernels.linear_recurrence import scan

NUMBERS = [torch.float64, torch.complex128]


def _random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def _written_out(a: Tensor, b: Tensor, state: Tensor | None, dim: int, reverse: bool) -> np.ndarray:
    """The recurrence in numpy, step by step, in the widest dtype."""
    given = [a, b] if state is None else [a, b, state]
    wide = np.complex128 if any(x.is_complex() for x in given) else np.float64
    add = np.moveaxis(b.numpy().astype(wide), dim, 0)
    factor = np.moveaxis(np.broadcast_to(a.numpy(), b.shape), dim, 0)
    h = np.zeros(add.shape[1:], wide) if state is None else state.numpy().astype(wide)
    out = np.empty_like(add)
    for t in range(len(add))[:: -1 if reverse else 1]:
        h = factor[t] * h + add[t]
        out[t] = h
    return np.moveaxis(out, 0, dim)


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, int, bool]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=3)))
    dim = draw(st.integers(0, len(shape)))
    full = (*shape[:dim], draw(st.integers(1, 21)), *shape[dim:])
    factors = tuple(draw(st.sampled_from([1, n])) for n in full)[draw(st.integers(0, len(full))) :]
    dtypes = [draw(st.sampled_from(NUMBERS)) for _ in range(3)]
    seed = draw(st.integers(0, 1000))
    state = _random(shape, dtypes[2], seed + 2) if draw(st.booleans()) else None
    given_dim = dim - draw(st.sampled_from([0, len(full)]))
    return _random(factors, dtypes[0], seed), _random(full, dtypes[1], seed + 1), state, given_dim, draw(st.booleans())


@settings(max_examples=80, deadline=None)
@given(_cases(), st.sampled_from([0, 1 << 30]))
def test_any_shape_axis_direction_and_mix_of_dtypes_equals_the_definition(case: tuple, wide: int) -> None:
    a, b, state, dim, reverse = case
    expected = _written_out(a, b, state, dim, reverse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "WIDE_STEP_CPU", wide)  # 0: steps one after the other, large: in logarithmic depth
        actual = linear_recurrence(a, b, dim=dim, initial_state=state, reverse=reverse)
    np.testing.assert_allclose(actual.resolve_conj().numpy(), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("wide", [0, 1 << 30], ids=["steps", "pairs"])
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("factor", [(2, 6, 1), (1,)], ids=["varying", "constant"])
@pytest.mark.parametrize("reverse", [False, True])
def test_first_and_second_derivatives_pass_gradcheck(
    monkeypatch: pytest.MonkeyPatch, wide: int, dtype: torch.dtype, factor: tuple[int, ...], reverse: bool
) -> None:
    monkeypatch.setattr(scan, "WIDE_STEP_CPU", wide)
    inputs = [_random(shape, dtype, i).requires_grad_() for i, shape in enumerate([factor, (2, 6, 1), (2, 1)])]

    def run(a: Tensor, b: Tensor, state: Tensor) -> Tensor:
        return linear_recurrence(a, b, dim=1, initial_state=state, reverse=reverse)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_gradients_equal_those_of_the_definition(steps: int) -> None:
    def gradients(backend: str) -> list[Tensor]:
        a, b = (_random(s, torch.complex128, i).requires_grad_() for i, s in enumerate([(4,), (3, steps, 4)]))
        weight = _random((3, steps, 4), torch.complex128, 9)
        with use_backend(backend):
            (linear_recurrence(a, b, dim=1) * weight).real.sum().backward()
        assert a.grad is not None
        assert b.grad is not None
        return [a.grad, b.grad]

    for ours, definition in zip(gradients("auto"), gradients("reference"), strict=True):
        torch.testing.assert_close(ours, definition)


def test_real_factors_of_complex_states_get_real_gradients() -> None:
    a = torch.rand(3, dtype=torch.float64).requires_grad_()
    b = _random((5, 3), torch.complex128, 0)
    assert torch.autograd.gradcheck(lambda x: linear_recurrence(x, b, dim=0), a)


def test_a_sequence_in_two_parts_equals_the_whole() -> None:
    a, b = _random((2, 12, 3), torch.complex128, 0), _random((2, 12, 3), torch.complex128, 1)
    whole = linear_recurrence(a, b, dim=1)
    first = linear_recurrence(a[:, :5], b[:, :5], dim=1)
    second = linear_recurrence(a[:, 5:], b[:, 5:], dim=1, initial_state=first[:, -1])
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_steps_one_by_one_equal_the_whole() -> None:
    a, b = _random((3,), torch.complex64, 0) / 2, _random((2, 9, 3), torch.complex64, 1)
    state, states = None, []
    for t in range(9):
        state = linear_recurrence_step(a, b[:, t], state)
        states.append(state)
    torch.testing.assert_close(torch.stack(states, 1), linear_recurrence(a, b, dim=1))


def test_reverse_equals_the_recurrence_of_the_flipped_sequence() -> None:
    a, b = _random((2, 11, 3), torch.float64, 0), _random((2, 11, 3), torch.float64, 1)
    flipped = linear_recurrence(a.flip(1), b.flip(1), dim=1).flip(1)
    torch.testing.assert_close(linear_recurrence(a, b, dim=1, reverse=True), flipped)


@pytest.mark.parametrize("dtype, complex_dtype", [(torch.float32, torch.complex64)])
@pytest.mark.parametrize("steps", [3, 257])
def test_single_precision_is_accurate_over_long_sequences(
    dtype: torch.dtype, complex_dtype: torch.dtype, steps: int
) -> None:
    for kind in (dtype, complex_dtype):
        a = _random((6,), kind, 0)
        a = 0.995 * a / a.abs()
        b = _random((steps, 6), kind, 1)
        expected = linear_recurrence(a.to(torch.complex128), b.to(torch.complex128), dim=0)
        actual = linear_recurrence(a, b, dim=0)
        assert actual.dtype == kind
        assert (actual - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    a, b = torch.tensor(0.999).to(dtype), torch.full((4000, 1), 100.0).to(dtype)
    h = linear_recurrence(a, b, dim=0)  # grows beyond float16's range and bfloat16's resolution
    assert h.dtype == torch.float32
    torch.testing.assert_close(h, linear_recurrence(a.float(), b.float(), dim=0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_recurrence(a.float(), b.float(), dim=0), h)
        assert linear_recurrence_step(a.float(), b[0].float(), h[0]).dtype == torch.float32


def test_compiled_form_equals_the_eager_one() -> None:
    a, b = _random((3,), torch.float32, 0).tanh().requires_grad_(), _random((2, 8, 3), torch.float32, 1)

    def run(a: Tensor) -> Tensor:
        return linear_recurrence(a, b, dim=1).square().sum()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a), run(a))
    torch.testing.assert_close(torch.autograd.grad(compiled(a), a), torch.autograd.grad(run(a), a))


def test_inputs_are_left_alone() -> None:
    a, b, state = (_random(s, torch.float32, i) for i, s in enumerate([(9, 4), (9, 4), (4,)]))
    before = [x.clone() for x in (a, b, state)]
    linear_recurrence(a, b, dim=0, initial_state=state)
    linear_recurrence_step(a[0], b[0], state)
    assert all(torch.equal(x, y) for x, y in zip((a, b, state), before, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"a": torch.ones(3, 4)}, r"a has shape \(3, 4\)"),
        ({"a": torch.ones(4, dtype=torch.int64)}, "a has dtype torch.int64"),
        ({"b": torch.ones(2, 0, 4)}, "no steps"),
        ({"dim": 3}, "dim=3 is no axis of b"),
        ({"initial_state": torch.ones(5, 4)}, r"initial_state has shape \(5, 4\)"),
        ({"a": torch.ones(4, device="meta")}, "move them to one device"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"a": torch.ones(4), "b": torch.ones(2, 5, 4), "dim": 1, "initial_state": None} | change
    with pytest.raises(ValueError, match=message):
        linear_recurrence(**arguments)


def test_step_names_a_state_of_the_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"state has shape \(3,\)"):
        linear_recurrence_step(torch.ones(4), torch.ones(2, 4), torch.ones(3))
