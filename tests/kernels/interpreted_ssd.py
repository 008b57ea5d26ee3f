"""Run the Triton kernels of `ssd` in Triton's interpreter and print their errors: `python -m tests.kernels.…`.

Triton decides at its first import whether kernels are interpreted, so a process of their own runs these cases;
`test_ssd_gpu.py` starts it once and checks every case's errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from visionssm.kernels.ssd.reference import ssd_reference

NAMES = ("x", "dt", "a", "b", "c", "d", "initial_state")
RESULTS = ("y", "final_state", *NAMES)


@dataclass(frozen=True)
class Case:
    """One problem; `plain`: no d, initial state or gradient of the final state."""

    steps: int
    batch: int = 1
    heads: int = 2
    groups: int = 1
    width: int = 5
    d_state: int = 3
    chunk_size: int = 16
    plain: bool = False
    dtype: torch.dtype = torch.float32
    views: bool = False
    scale: float = 1.0  # of the step sizes


CASES = {
    "one_step": Case(1, heads=1, width=1, d_state=1),
    "part_of_a_chunk": Case(7, batch=2),
    "whole_chunk": Case(16),
    "three_chunks": Case(37, batch=2),
    "groups": Case(20, heads=6, groups=3),
    "one_group_a_head": Case(18, heads=3, groups=3),
    "plain": Case(21, plain=True),
    "many_states": Case(20, d_state=70, width=17),
    "wide_heads": Case(20, width=70, heads=1),
    "chunks_of_32": Case(70, chunk_size=32, width=16, d_state=16),
    "long_chunks_are_cut": Case(70, chunk_size=128, heads=1),
    "chunks_of_64": Case(70, chunk_size=64, width=16, d_state=16, dtype=torch.float16),
    "no_steps": Case(0),
    "no_batch": Case(5, batch=0),
    "strided_views": Case(19, views=True),
    "large_steps": Case(40, scale=40.0),
    "tiny_steps": Case(40, scale=1e-4),
    "bfloat16": Case(20, dtype=torch.bfloat16),
    "float16": Case(20, dtype=torch.float16),
}


def make_inputs(case: Case) -> list[Tensor | None]:
    """x, dt, a, b, c, d, initial_state of a case (a number of its own seeds them)."""
    generator = torch.Generator().manual_seed(list(CASES.values()).index(case))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    sizes = case.batch, case.steps
    wide = normal(*sizes, case.heads * case.width + 2 * case.groups * case.d_state).to(case.dtype)
    parts = wide.split([case.heads * case.width, *[case.groups * case.d_state] * 2], -1)
    x, b, c = (t if case.views else t.contiguous() for t in parts)
    x = x.unflatten(-1, (case.heads, case.width))
    b, c = (t.unflatten(-1, (case.groups, case.d_state)) for t in (b, c))
    dt = normal(*sizes, case.heads).exp() * case.scale
    a = -normal(case.heads).exp()
    optional = (
        [None, None] if case.plain else [normal(case.heads), normal(case.batch, case.heads, case.width, case.d_state)]
    )
    return [x, dt, a, b, c, *optional]


def _cotangents(y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Fixed gradients of the two results."""
    return tuple(
        torch.linspace(-1, 1, x.numel(), dtype=torch.float64).mul(7).cos().view_as(x).to(x.dtype) for x in (y, state)
    )  # type: ignore[return-value]


def expected(case: Case) -> dict[str, Tensor]:
    """Values and gradients of the definition in float64."""
    leaves = [None if x is None else x.double().requires_grad_() for x in make_inputs(case)]
    x, dt, a, *rest = leaves
    y, state = ssd_reference(x, dt, dt * a, *rest)  # type: ignore[arg-type, operator]
    grad_y, grad_state = _cotangents(y, state)
    total = (y * grad_y.to(case.dtype)).sum() + (0.0 if case.plain else (state * grad_state.float()).sum())
    given = [x for x in leaves if x is not None]
    found = iter(torch.autograd.grad(total, given, allow_unused=True, materialize_grads=True))
    grads = [None if x is None else next(found) for x in leaves]
    return {n: x.detach() for n, x in zip(RESULTS, (y, state, *grads), strict=True) if x is not None}


def actual(case: Case) -> dict[str, Tensor]:
    """Values and gradients of the Triton kernels."""
    from visionssm.kernels.ssd import gpu

    gpu.precision = lambda dtype: "ieee"  # the interpreter knows no other products of float32
    inputs = make_inputs(case)
    dt, a = inputs[1:3]
    assert dt is not None
    assert a is not None
    inputs[2] = dt * a  # the kernels take log decays
    y, state, saved = gpu.forward(*inputs, chunk_size=case.chunk_size, save_states=True)  # type: ignore[arg-type]
    assert saved.shape == gpu.states_shape(inputs[0], inputs[3], case.chunk_size)  # type: ignore[arg-type]
    grad_y, grad_state = _cotangents(y, state)
    grad_final = None if case.plain else grad_state
    grads = gpu.backward(grad_y, grad_final, *inputs, saved, chunk_size=case.chunk_size)  # type: ignore[arg-type]
    for x, grad in zip(inputs, grads, strict=True):
        assert (x is None) == (grad is None)
        assert x is None or grad is None or (grad.shape == x.shape and grad.dtype == x.dtype)
    grad_x, grad_dt, grad_log, *rest = grads
    grads = (grad_x, torch.addcmul(grad_dt, grad_log, a), (grad_log * dt).sum((0, 1)), *rest)
    return {name: x for name, x in zip(RESULTS, (y, state, *grads), strict=True) if x is not None}


def errors(case: Case) -> dict[str, float]:
    """Largest error of each result, relative to the largest value of the definition; NaN counts as infinite."""
    found, wanted = actual(case), expected(case)
    assert found.keys() == wanted.keys()
    result = {}
    for name, want in wanted.items():
        error = (found[name].double() - want).abs()
        worst = error.max().item() / max(want.abs().max().item(), 1e-30) if want.numel() else 0.0
        result[name] = worst if worst == worst else float("inf")
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: errors(case) for name, case in CASES.items()}))
