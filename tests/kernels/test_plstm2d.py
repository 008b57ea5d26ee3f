"""The two-dimensional recurrence of pLSTM: the authors' cases, and the parallel form against the definition."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.loops import scan_in_a_loop
from tests.reference_cases import Case, every_case, find_cases
from visionssm.kernels import plstm2d, plstm2d_four_directions, use_backend
from visionssm.kernels.plstm2d import FOUR_DIRECTIONS, Gates, propagation_gates
from visionssm.kernels.plstm2d.export import plstm2d_by_diagonals
from visionssm.kernels.plstm2d.reference import plstm2d_reference

TOLERANCE = 6e-7  # the cases are recorded with seven digits
GATE_NAMES = {
    "source_r": "S_r",
    "source_d": "S_d",
    "transition_rl": "T_rl",
    "transition_du": "T_du",
    "mark_l": "M_l",
    "mark_u": "M_u",
    "transition_ru": "T_ru",
    "transition_dl": "T_dl",
}


def _tensor(stored: dict[str, Any] | None) -> Tensor | None:
    if stored is None:
        return None
    return torch.tensor(stored["values"], dtype=torch.float64).reshape(stored["shape"])


def _relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected).abs().max() / expected.abs().max())


def _check_case(recorded: Case, max_block: int) -> None:
    case = recorded.data
    inputs = {name: _tensor(stored) for name, stored in case["inputs"].items()}
    for x in inputs.values():
        if x is not None:
            x.requires_grad_()
    q, k, v, direct = (inputs[name] for name in "QKVD")
    gates = Gates(**{ours: inputs[theirs] for ours, theirs in GATE_NAMES.items()})
    if case["meta"]["fused"]:
        outputs = {"output": plstm2d_four_directions(q, k, v, gates, direct, max_block=max_block)}
    else:
        state = (inputs["C_left"], inputs["C_top"]) if "C_left" in inputs else None
        out, final = plstm2d(q, k, v, gates, direct, initial_state=state, return_final_state=True, max_block=max_block)
        outputs = {"output": out, "C_right_last": final[0], "C_down_last": final[1]}
        without_states = plstm2d(q, k, v, gates, direct, initial_state=state, max_block=max_block)
        torch.testing.assert_close(without_states, out)
    for name, stored in case["outputs"].items():
        assert _relative_error(outputs[name], _tensor(stored)) <= TOLERANCE, name
    if "grads" not in case:
        return
    sum((outputs[name] * _tensor(stored)).sum() for name, stored in case["cotangents"].items()).backward()
    for name, stored in case["grads"].items():
        assert _relative_error(inputs[name].grad, _tensor(stored)) <= TOLERANCE, name


@pytest.mark.parametrize("max_block", [1, 2, 4, 64])
@every_case("pLSTM operator")
def test_parallel_form_equals_authors_whatever_the_block(case: Case, max_block: int) -> None:
    _check_case(case, max_block)


@every_case("pLSTM operator")
def test_definition_equals_authors(case: Case) -> None:
    with use_backend("reference"):
        _check_case(case, 64)


@pytest.mark.parametrize("case", [case for case in find_cases("pLSTM operator") if case.meta["mode"] == "P"])
def test_propagation_gates_are_the_authors(case: Case) -> None:
    raw = (_tensor(case.data["raw"][name]) for name in ("orientation", "source", "transition", "mark"))
    for name, gate in propagation_gates(*raw)._asdict().items():
        torch.testing.assert_close(gate, _tensor(case.data["inputs"][GATE_NAMES[name]]), rtol=1e-6, atol=1e-7)


def _random_inputs(
    grid: tuple[int, int], directions: tuple[int, ...] = (), *, sizes: tuple[int, ...] = (1, 1, 1, 1, 1), seed: int = 0
) -> tuple[list[Tensor], Gates, Tensor]:
    """q, k, v and gates with both turns and direct part, float64; sizes are JT, JK, JV, JO, JQ."""
    generator = torch.Generator().manual_seed(seed)
    jt, jk, jv, jo, jq = sizes

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1

    cells = (2, *directions, *grid)
    qkv = [uniform(2, *grid, 3, jq), uniform(2, *grid, 3, jk), uniform(2, *grid, 2, jv)]
    gates = Gates(
        source_r=uniform(*cells, jt, jk, jv),
        source_d=uniform(*cells, jt, jk, jv),
        transition_rl=uniform(*cells, jt, jt) / jt,
        transition_du=uniform(*cells, jt, jt) / jt,
        mark_l=uniform(*cells, jo, jq, jt),
        mark_u=uniform(*cells, jo, jq, jt),
        transition_ru=uniform(*cells, jt, jt) / jt,
        transition_dl=uniform(*cells, jt, jt) / jt,
    )
    return qkv, gates, uniform(2, *grid, jo, jq, jk, jv)


def _border_states(grid: tuple[int, int], jt: int, seed: int) -> tuple[Tensor, Tensor]:
    """States that enter the grid along x and along y."""
    generator = torch.Generator().manual_seed(seed)
    along_x, along_y = (torch.randn(2, n, 3, 2, jt, generator=generator, dtype=torch.float64) for n in grid[::-1])
    return along_x, along_y


grids = st.tuples(st.integers(1, 7), st.integers(1, 7))
inner_sizes = st.tuples(*[st.integers(1, 2)] * 5)
blocks = st.sampled_from([1, 2, 4, 64])


@settings(max_examples=30, deadline=None)
@given(grid=grids, sizes=inner_sizes, max_block=blocks, seed=st.integers(0, 1000), with_state=st.booleans())
def test_parallel_form_equals_definition_in_one_direction(
    grid: tuple[int, int], sizes: tuple[int, ...], max_block: int, seed: int, with_state: bool
) -> None:
    qkv, gates, direct = _random_inputs(grid, sizes=sizes, seed=seed)
    state = _border_states(grid, sizes[0], seed) if with_state else None
    options = {"initial_state": state, "return_final_state": True}
    with use_backend("reference"):
        expected, expected_states = plstm2d(*qkv, gates, direct, **options)
    actual, states = plstm2d(*qkv, gates, direct, max_block=max_block, **options)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(states, expected_states)
    torch.testing.assert_close(plstm2d(*qkv, gates, direct, initial_state=state, max_block=max_block), expected)


@settings(max_examples=30, deadline=None)
@given(grid=grids, sizes=inner_sizes, max_block=blocks, seed=st.integers(0, 1000))
def test_parallel_form_equals_definition_in_four_directions(
    grid: tuple[int, int], sizes: tuple[int, ...], max_block: int, seed: int
) -> None:
    qkv, gates, direct = _random_inputs(grid, (4,), sizes=sizes, seed=seed)
    with use_backend("reference"):
        expected = plstm2d_four_directions(*qkv, gates, direct)
    actual = plstm2d_four_directions(*qkv, gates, direct, max_block=max_block)
    torch.testing.assert_close(actual, expected)


@settings(max_examples=20, deadline=None)
@given(grid=grids, sizes=inner_sizes, seed=st.integers(0, 1000), with_state=st.booleans())
def test_exportable_form_equals_definition(
    grid: tuple[int, int], sizes: tuple[int, ...], seed: int, with_state: bool
) -> None:
    (q, k, v), gates, direct = _random_inputs(grid, sizes=sizes, seed=seed)
    state = _border_states(grid, sizes[0], seed) if with_state else None
    expected = plstm2d_reference(q, k, v, gates, direct, state)
    with patch("visionssm.kernels.plstm2d.export.scan", scan_in_a_loop):
        torch.testing.assert_close(plstm2d_by_diagonals(q, k, v, gates, direct, state), expected)


@pytest.mark.parametrize("with_state", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_exportable_form_equals_definition_with_pytorchs_scan(with_state: bool) -> None:
    (q, k, v), gates, direct = _random_inputs((3, 4), sizes=(2, 1, 2, 1, 1))
    state = _border_states((3, 4), 2, 0) if with_state else None
    expected = plstm2d_reference(q, k, v, gates, direct, state)
    torch.testing.assert_close(plstm2d_by_diagonals(q, k, v, gates, direct, state), expected)


@pytest.mark.parametrize("turn", ["transition_ru", "transition_dl"])
def test_missing_turn_is_a_turn_of_zero(turn: str) -> None:
    qkv, gates, direct = _random_inputs((3, 5), (4,))
    zero = gates._replace(**{turn: torch.zeros_like(gates.transition_rl)})
    expected = plstm2d_four_directions(*qkv, zero, direct)
    torch.testing.assert_close(plstm2d_four_directions(*qkv, gates._replace(**{turn: None}), direct), expected)


def test_directions_are_flips_of_the_map_and_the_direct_part_counts_once() -> None:
    (q, k, v), gates, direct = _random_inputs((3, 6), (4,))
    expected = plstm2d(q, k, v, Gates(*(x[:, 0] for x in gates)), direct)
    for number, (against_x, against_y) in enumerate(FOUR_DIRECTIONS[1:], start=1):
        axes = [1] * against_x + [2] * against_y
        flipped = Gates(*(x[:, number].flip(axes) for x in gates))
        expected = expected + plstm2d(q.flip(axes), k.flip(axes), v.flip(axes), flipped).flip(axes)
    torch.testing.assert_close(plstm2d_four_directions(q, k, v, gates, direct), expected)


def test_a_cell_reads_its_own_source_only_through_the_direct_part() -> None:
    (q, k, v), gates, direct = _random_inputs((1, 1), (4,))
    assert (plstm2d_four_directions(q, k, v, gates) == 0).all()
    scores = (q[..., 0] * k[..., 0]).sum(-1) / math.sqrt(3)
    expected = (direct.flatten(3)[..., 0] * scores)[..., None, None] * v
    torch.testing.assert_close(plstm2d_four_directions(q, k, v, gates, direct), expected)


def test_a_state_passed_on_in_pieces_is_the_state_of_the_whole() -> None:
    (q, k, v), gates, direct = _random_inputs((6, 4))
    whole, states = plstm2d(q, k, v, gates, direct, return_final_state=True)
    upper, lower = slice(0, 2), slice(2, 6)
    first, (along_x, along_y) = plstm2d(
        q[:, upper], k[:, upper], v[:, upper], Gates(*(x[:, upper] for x in gates)), direct[:, upper],
        return_final_state=True,
    )  # fmt: skip
    nothing = torch.zeros(2, 4, 3, 2, 1, dtype=torch.float64)
    second, (last_x, last_y) = plstm2d(
        q[:, lower], k[:, lower], v[:, lower], Gates(*(x[:, lower] for x in gates)), direct[:, lower],
        initial_state=(along_x, nothing), return_final_state=True,
    )  # fmt: skip
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close((last_x, torch.cat([along_y, last_y], dim=1)), states)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_are_those_of_finite_differences(backend: str) -> None:
    qkv, gates, direct = _random_inputs((2, 2), (4,))
    tensors = [x[:1].clone().requires_grad_() for x in (*qkv, *gates, direct)]

    def operator(*x: Tensor) -> Tensor:
        return plstm2d_four_directions(*x[:3], Gates(*x[3:11]), x[11])

    with use_backend(backend):
        assert torch.autograd.gradcheck(operator, tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    qkv, gates, direct = _random_inputs((5, 4), (4,))
    halves = [x.to(dtype) for x in qkv], Gates(*(x.to(dtype) for x in gates)), direct.to(dtype)
    expected = plstm2d_four_directions(
        *(x.float() for x in halves[0]), Gates(*(x.float() for x in halves[1])), halves[2].float()
    )
    with torch.autocast("cpu", dtype=dtype):
        actual = plstm2d_four_directions(*halves[0], halves[1], halves[2])
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)


def test_compiled_operator_equals_eager() -> None:
    qkv, gates, direct = _random_inputs((3, 2), (4,))
    compiled = torch.compile(plstm2d_four_directions, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*qkv, gates, direct), plstm2d_four_directions(*qkv, gates, direct))


def _with(name: str, change: Any) -> dict[str, Any]:
    (q, k, v), gates, direct = _random_inputs((3, 2), (4,))
    given = {"q": q, "k": k, "v": v, "gates": gates, "direct": direct}
    if name in gates._fields:
        return {**given, "gates": gates._replace(**{name: change(getattr(gates, name))})}
    return {**given, name: change(given.get(name))}


@pytest.mark.parametrize(
    "name,change,message",
    [
        ("q", lambda x: x[0], r"q has shape .*expected \(B, X, Y, DK, JQ\)"),
        ("k", lambda x: x[:, :2], "k has shape"),
        ("v", lambda x: x.long(), "v has dtype"),
        ("source_r", lambda x: x[:, 0], r"gates.source_r has shape .*directions=4"),
        ("transition_ru", lambda x: x[..., :0], "gates.transition_ru has shape"),
        ("mark_u", lambda x: x[:1], "gates.mark_u has shape"),
        ("direct", lambda x: x[..., 0], "direct has shape"),
        ("max_block", lambda _: 12, "max_block=12 is not a power of two"),
    ],
)
def test_bad_inputs_are_named(name: str, change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plstm2d_four_directions(**_with(name, change))


def test_propagation_takes_states_of_one_number() -> None:
    with pytest.raises(ValueError, match="JT = 1"):
        propagation_gates(*(torch.zeros(1, 2, 2, *rest) for rest in ((), (2, 1, 1), (2, 2), (1, 1, 2))))
