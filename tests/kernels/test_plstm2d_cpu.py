"""The pairwise weights of pLSTM on CPUs: the compiled kernel, its registration, and where it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.interpreted_plstm2d import CASES, Case, errors, make_inputs
from visionssm.kernels import plstm2d, plstm2d_four_directions
from visionssm.kernels.plstm2d import Gates

TOLERANCE = 1e-6  # rounding in float32


def _inputs(grid: tuple[int, int], batch: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of `plstm2d_four_directions` with scalar gates."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1).to(dtype)

    cells = (batch, 4, *grid)
    written, passed = ((*cells, 1, 1, 1) for _ in range(2)), ((*cells, 1, 1) for _ in range(2))
    gates = Gates(*(uniform(*s) for s in (*written, *passed)), uniform(*cells, 1, 1, 1), uniform(*cells, 1, 1, 1))
    gates = gates._replace(transition_ru=uniform(*cells, 1, 1))
    q, k, v = (uniform(batch, *grid, width, 1) for width in (4, 4, 3))
    return {"q": q, "k": k, "v": v, "gates": gates, "direct": uniform(batch, *grid, 1, 1, 1, 1)}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_float64_definition(case: str) -> None:
    wrong = {name: error for name, error in errors(CASES[case], "cpu").items() if not error <= TOLERANCE}
    assert not wrong


@settings(max_examples=25, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    directions=st.sampled_from([1, 4]),
    turns=st.tuples(st.booleans(), st.booleans()),
    direct=st.booleans(),
)
def test_any_grid_equals_the_definition(
    grid: tuple[int, int], directions: int, turns: tuple[bool, bool], direct: bool
) -> None:
    case = Case(grid, directions=directions, turns=turns, direct=direct)
    wrong = {name: error for name, error in errors(case, "cpu").items() if not error <= TOLERANCE}
    assert not wrong


# Sixteen sources are a block on CPUs: these have several, which begin and end inside rows, or in long ones.
@pytest.mark.parametrize("grid", [(9, 9), (2, 35), (70, 1), (8, 8)])
def test_grids_of_several_blocks_equal_the_definition(grid: tuple[int, int]) -> None:
    wrong = {name: error for name, error in errors(Case(grid), "cpu").items() if not error <= TOLERANCE}
    assert not wrong


def test_threads_do_not_change_a_bit() -> None:
    gates, direct = make_inputs(Case((9, 9)))
    n_threads = torch.get_num_threads()
    results = []
    for n in (1, 3):
        torch.set_num_threads(n)
        inputs = [None if x is None else x.detach().requires_grad_() for x in gates]
        weights = torch.ops.visionssm.plstm2d_pairs(*inputs, direct)
        weights.square().sum().backward()
        results.append([weights, *(x.grad for x in inputs if x is not None)])
    torch.set_num_threads(n_threads)
    for one, three in zip(*results, strict=True):
        assert torch.equal(one, three)


def test_weights_are_zero_where_no_path_leads() -> None:
    """A single direction: readers before a source, in row or column, get nothing, and the source itself only D."""
    gates, _ = make_inputs(Case((9, 8), directions=1))
    weights = torch.ops.visionssm.plstm2d_pairs(*gates, None).unflatten(1, (9, 8)).unflatten(3, (9, 8))[0]
    x, y = torch.arange(9), torch.arange(8)
    after = (x[:, None, None, None] >= x[None, None, :, None]) & (y[None, :, None, None] >= y[None, None, None, :])
    own = (x[:, None, None, None] == x[None, None, :, None]) & (y[None, :, None, None] == y[None, None, None, :])
    assert torch.equal(weights != 0, after & ~own)


@pytest.mark.parametrize("case", ["both_turns", "left_turn", "one_direction"])
def test_operator_passes_opcheck(case: str) -> None:
    gates, direct = make_inputs(CASES[case])
    inputs = tuple(None if x is None else x.requires_grad_() for x in (*gates, direct))
    torch.library.opcheck(torch.ops.visionssm.plstm2d_pairs.default, inputs)


def test_compiled_graph_is_whole_and_equals_eager() -> None:
    inputs = _inputs((3, 5))
    inputs["q"].requires_grad_()
    expected = plstm2d_four_directions(**inputs)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), inputs["q"])
    compiled = torch.compile(plstm2d_four_directions, fullgraph=True, backend="aot_eager")
    actual = compiled(**inputs)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(torch.autograd.grad(actual.square().sum(), inputs["q"])[0], expected_grad)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every run of the compiled kernel."""
    from visionssm.kernels.plstm2d import cpu

    seen: list[int] = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *x: seen.append(1) or forward(*x))
    return seen


@pytest.mark.parametrize("grid", [(3, 5), (3, 1), (1, 4), (1, 1)])
def test_kernel_and_products_equal_float64(grid: tuple[int, int], calls: list[int]) -> None:
    expected = plstm2d_four_directions(**_inputs(grid, dtype=torch.float64))
    assert not calls  # float64 is not for the kernel
    actual = plstm2d_four_directions(**_inputs(grid))
    assert len(calls) == 1
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-6)


def test_kernel_is_taken_for_scalar_gates_in_one_block(calls: list[int]) -> None:
    inputs = _inputs((3, 5))
    expected = plstm2d_four_directions(**inputs)
    assert len(calls) == 1
    torch.testing.assert_close(plstm2d_four_directions(**inputs, max_block=4), expected, rtol=1e-5, atol=1e-6)
    assert len(calls) == 1  # several blocks
    wide = {**inputs, "k": inputs["k"].repeat(1, 1, 1, 1, 2), "direct": inputs["direct"].repeat(1, 1, 1, 1, 1, 2, 1)}
    sources = {f"source_{side}": getattr(inputs["gates"], f"source_{side}").repeat(*[1] * 5, 2, 1) for side in "rd"}
    plstm2d_four_directions(**{**wide, "gates": inputs["gates"]._replace(**sources)})
    assert len(calls) == 1  # several keys a cell


def test_one_direction_takes_the_kernel_unless_states_are_wanted(calls: list[int]) -> None:
    inputs = _inputs((4, 3))
    gates = Gates(*(None if x is None else x[:, 0] for x in inputs["gates"]))
    out = plstm2d(inputs["q"], inputs["k"], inputs["v"], gates, inputs["direct"])
    assert len(calls) == 1
    expected, _ = plstm2d(inputs["q"], inputs["k"], inputs["v"], gates, inputs["direct"], return_final_state=True)
    assert len(calls) == 1
    torch.testing.assert_close(out, expected)


@pytest.mark.slow  # a grid of one size; tests/integrations/test_export_operators.py leaves it open
def test_operator_exports_to_standard_onnx_with_any_batch(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason="comes with the extra `export`")

    class Operator(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, direct: Tensor, *gates: Tensor) -> Tensor:
            return plstm2d_four_directions(q, k, v, Gates(*gates), direct)

    def flat(inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        return (*(inputs[name] for name in ("q", "k", "v", "direct")), *(x for x in inputs["gates"] if x is not None))

    inputs, other = _inputs((3, 4)), _inputs((3, 4), batch=5)
    batch = torch.export.Dim("batch")
    dynamic = {**{name: {0: batch} for name in "qkv"}, "direct": {0: batch}, "gates": tuple([{0: batch}] * 7)}
    path = tmp_path / "operator.onnx"
    program = torch.onnx.export(Operator().eval(), flat(inputs), dynamic_shapes=dynamic, dynamo=True, verbose=False)
    program.save(path)
    domains = {node.domain for node in program.model.graph}
    assert domains <= {"", "ai.onnx"}
    session = ort.InferenceSession(path)
    for given_ in (inputs, other):
        feed = {x.name: t.numpy() for x, t in zip(session.get_inputs(), flat(given_), strict=True)}
        (actual,) = session.run(None, feed)
        np.testing.assert_allclose(actual, plstm2d_four_directions(**given_).numpy(), rtol=1e-4, atol=1e-5)
