"""Run the Triton pairwise weights in Triton's interpreter, print their errors: `python -m tests.kernels.…` as a child.

Triton decides at its first import whether kernels are interpreted, so a process of their own runs these cases;
`test_plstm2d_gpu.py` starts it once and checks every case's errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from visionssm.kernels import plstm2d, plstm2d_four_directions, use_backend
from visionssm.kernels.plstm2d import Gates

GATES = Gates._fields


@dataclass(frozen=True)
class Case:
    """One problem; without a turn its gate is None. `strided`: gates are views with gaps.

    The interpreter's scan is slow: unless `real_tile`, a GPU's block has four sources, and small maps several blocks.
    """

    grid: tuple[int, int]
    batch: int = 1
    directions: int = 4
    turns: tuple[bool, bool] = (True, True)
    direct: bool = True
    strided: bool = False
    real_tile: bool = False


CASES = {
    "one_cell": Case((1, 1), batch=2),
    "both_turns": Case((3, 5), batch=2),
    "left_turn": Case((4, 3), turns=(True, False)),
    "right_turn": Case((2, 3), turns=(False, True)),
    "no_turn": Case((3, 2), turns=(False, False), direct=False),
    "one_direction": Case((4, 3), directions=1),
    "long_rows": Case((2, 9), turns=(True, False)),
    "long_columns": Case((9, 1)),
    "real_tile": Case((3, 2), real_tile=True),
    "strided_gates": Case((2, 3), strided=True),
    "no_batch": Case((3, 3), batch=0),
}


def make_inputs(case: Case) -> tuple[list[Tensor | None], Tensor | None]:
    """The gates (B, K, X, Y) in the order of `Gates`, and the direct weights (B, X, Y), float32."""
    generator = torch.Generator().manual_seed(case.grid[0] + 10 * case.grid[1])
    shape = (case.batch, case.directions, *case.grid)
    gates: list[Tensor | None] = []
    for number in range(len(GATES)):
        gate = 2 * torch.rand(*shape, 2, generator=generator)[..., 0] - 1
        gates.append(gate if case.strided else gate.contiguous())
        if number >= 6 and not case.turns[number - 6]:
            gates[-1] = None
    return gates, torch.rand(case.batch, *case.grid, generator=generator) if case.direct else None


def defined_weights(gates: list[Tensor | None], direct: Tensor | None) -> Tensor:
    """What the definition makes of unit vectors: (B, C, C) in the dtype of the gates."""
    first = gates[0]
    assert first is not None
    batch, directions, rows, columns = first.shape
    n_cells = rows * columns
    ones = first.new_ones(batch, rows, columns, 1, 1)
    units = torch.eye(n_cells, dtype=first.dtype).view(1, rows, columns, n_cells, 1).expand(batch, -1, -1, -1, -1)
    kept = Gates(*(None if g is None else g[..., None, None] for g in gates))  # type: ignore[arg-type]
    kept = kept._replace(**{name: getattr(kept, name)[..., None] for name in GATES[:2] + GATES[4:6]})
    own = None if direct is None else direct[..., None, None, None, None]
    with use_backend("reference"):
        if directions == 4:
            out = plstm2d_four_directions(ones, ones, units, kept, own)
        else:
            out = plstm2d(ones, ones, units, Gates(*(None if g is None else g[:, 0] for g in kept)), own)  # type: ignore[arg-type]
    return out.reshape(batch, n_cells, n_cells)


def errors(case: Case, backend: str) -> dict[str, float]:
    """Relative errors of the float32 operator's values and of all gradients, against the float64 definition."""
    gates, direct = make_inputs(case)
    kernel = [None if x is None else x.detach().requires_grad_() for x in (*gates, direct)]
    with use_backend(backend):
        weights = torch.ops.visionssm.plstm2d_pairs(*kernel)
        cotangent = torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
        (weights * cotangent).sum().backward()
    exact = [None if x is None else x.detach().double().requires_grad_() for x in (*gates, direct)]
    expected = defined_weights(exact[:-1], exact[-1])
    (expected * cotangent.double()).sum().backward()
    found = {"weights": _error(weights, expected)}
    for name, x, y in zip((*GATES, "direct"), kernel, exact, strict=True):
        if x is not None and y is not None:
            found[name] = _error(x.grad, torch.zeros_like(y) if y.grad is None else y.grad)
    return found


def _error(actual: Tensor | None, expected: Tensor) -> float:
    assert actual is not None
    assert actual.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    return float((actual.detach() - expected.detach()).abs().max() / expected.detach().abs().max().clamp(min=1e-3))


def main() -> None:
    """Errors of all cases, as JSON."""
    from visionssm.kernels.plstm2d import gpu

    torch.set_num_threads(1)
    real, found = (gpu.forward_tile, gpu.backward_tile), {}

    def small(columns: int) -> gpu.Tile:
        return gpu.Tile(real[0](columns).columns, 4, 1)

    for name, case in CASES.items():
        gpu.forward_tile, gpu.backward_tile = real if case.real_tile else (small, small)
        found[name] = errors(case, "triton")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
