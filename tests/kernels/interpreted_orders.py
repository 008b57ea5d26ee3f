"""Run Triton kernels with their programs in two orders and print how far the results are apart, as JSON.

`python -m tests.kernels.interpreted_orders` in a process in which Triton interprets kernels: programs then run one
after the other, from the first to the last or, here, from the last to the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tests.kernels.examples import Call, normal
from visionssm.kernels import LowRank, deformable_sum, plstm2d_four_directions, routes, selective_scan, ssd, use_backend
from visionssm.kernels.plstm2d import propagation_gates


def _scan() -> tuple[list[Tensor], Call]:
    table = torch.cat([routes.bidirectional(2, 2), routes.raster(2, 2)])  # sums of two do not depend on their order

    def call(u: Tensor, low: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
        y = selective_scan(u, LowRank(low, weight), -a.exp(), b, b.sin(), order=table, d=a[..., 0])
        assert isinstance(y, Tensor)
        return y

    return [normal(3, 4, 5), normal(3, 4, 3, 2), normal(3, 2, 5), normal(3, 5, 1), normal(3, 4, 3, 1)], call


def _ssd() -> tuple[list[Tensor], Call]:
    inputs = [normal(1, 18, 3, 4), normal(1, 18, 3), normal(3), normal(1, 18, 1, 5)]
    return inputs, lambda x, dt, a, b: ssd(x, dt, -a.exp(), b, b.sin(), softplus=True, return_final_state=True)


def _pairs() -> tuple[list[Tensor], Call]:
    qkv = [normal(1, 3, 3, 2, 1) for _ in range(3)]

    def call(q: Tensor, k: Tensor, v: Tensor, share: Tensor, scalar: Tensor) -> Tensor:
        gates = propagation_gates(share.sigmoid(), scalar, scalar[..., 0].sigmoid(), scalar)
        return plstm2d_four_directions(q, k, v, gates)

    return [*qkv, normal(1, 4, 3, 3), normal(1, 4, 3, 3, 1, 1, 1)], call


PROBLEMS: dict[str, Callable[[], tuple[list[Tensor], Call]]] = {
    "selective_scan": _scan,
    "ssd": _ssd,
    "deformable_sum": lambda: (
        [normal(1, 2, 2, 1, 3), normal(1, 2, 2, 1, 9, 2), normal(1, 2, 2, 1, 9)],
        deformable_sum,
    ),
    "plstm2d_four_directions": _pairs,
}


def small_tiles() -> None:
    """Several programs for everything that is summed."""
    from visionssm.kernels.plstm2d import gpu as pairs
    from visionssm.kernels.selective_scan import gpu
    from visionssm.kernels.ssd import gpu as duality
    from visionssm.kernels.tiles import Tile

    gpu.forward_tile = gpu.backward_tile = lambda *sizes: Tile(4, 4, num_warps=1)
    gpu.saved_apart = lambda d_state: 4
    pairs._BACKWARD[4] = (2, 1)
    duality.precision = lambda dtype: "ieee"  # the interpreter has no other that is as exact


@contextmanager
def last_program_first() -> Iterator[None]:
    """Programs run against their numbers."""
    from triton.runtime.interpreter import interpreter_builder as builder

    real = builder.set_grid_idx
    builder.set_grid_idx = lambda x, y, z: real(builder.grid_dim[0] - 1 - x, y, z)
    try:
        yield
    finally:
        builder.set_grid_idx = real


def results(name: str) -> list[Tensor]:
    """Values and gradients of an operator's example."""
    inputs, call = PROBLEMS[name]()
    found = call(*inputs)
    outputs = (found,) if isinstance(found, Tensor) else found
    return [*(x.detach() for x in outputs), *torch.autograd.grad([x.sin().sum() for x in outputs], inputs)]


def difference(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest, relative to the largest value of a result."""
    pairs = zip(first, second, strict=True)
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-30)) for x, y in pairs)


def in_two_orders(name: str) -> tuple[list[Tensor], float]:
    """Results, and how far those of the other order are from them."""
    found = results(name)
    with last_program_first():
        return found, difference(results(name), found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    small_tiles()
    report = {}
    for name in PROBLEMS:
        with use_backend("triton"):
            _, usual = in_two_orders(name)
            torch.use_deterministic_algorithms(True)
            found, deterministic = in_two_orders(name)
            torch.use_deterministic_algorithms(False)
        with use_backend("reference"):
            error = difference(found, results(name))
        report[name] = {"usual": usual, "deterministic": deterministic, "error": error}
    print(json.dumps(report))
