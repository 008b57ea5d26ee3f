"""Gated linear attention: its definition, its properties on every backend, its errors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.kernels.random_tensors import normals
from visionssm.kernels import gated_linear_attention, ssd, use_backend

backends = pytest.mark.parametrize("backend", ["auto", "reference", "chunks"])
directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def running(backend: str) -> AbstractContextManager[Any]:
    """A backend, or the products in chunks that run where there is no compiled kernel."""
    if backend == "chunks":
        return mock.patch("visionssm.kernels.gated_linear_attention.select_backend", return_value="triton")
    return use_backend(backend)


def make(
    *,
    batch: int = 2,
    steps: int = 21,
    heads: int = 3,
    d_state: int = 5,
    width: int = 4,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments with decays from nearly one to nearly zero, and the bonus."""
    normal = normals(seed, dtype)
    sizes = (batch, steps, heads, d_state)
    return {
        "q": normal(*sizes),
        "k": normal(*sizes),
        "v": normal(batch, steps, heads, width),
        "log_decay": -(2 * normal(*sizes) - 1).exp(),
        "bonus": normal(heads, d_state),
    }


def values_and_gradients(arguments: dict[str, Tensor], **options: Any) -> list[Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    y = gated_linear_attention(**leaves, **options)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).mul(9).cos().view(y.shape).to(y.dtype)
    total = (y * weights).sum()
    return [y, *torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)]


def weighted_pairs(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor, reverse: bool) -> Tensor:
    """Each step reads each other one by itself: the sum that the state stands for."""
    steps = q.shape[1]
    y = torch.einsum("bthn,hn,bthn,bthp->bthp", q, bonus, k, v)
    for t in range(steps):
        for s in range(t + 1, steps) if reverse else range(t):
            between = log_decay[:, min(s, t) + 1 : max(s, t)].sum(1).exp()
            y[:, t] += torch.einsum("bhn,bhn,bhn,bhp->bhp", q[:, t], between, k[:, s], v[:, s])
    return y


@backends
@directions
def test_each_step_reads_the_others_by_the_decays_between_them(backend: str, reverse: bool) -> None:
    arguments = make(dtype=torch.float64)
    with running(backend):
        y = gated_linear_attention(**arguments, reverse=reverse)
    torch.testing.assert_close(y, weighted_pairs(**arguments, reverse=reverse))


@pytest.mark.parametrize("backend", ["auto", "reference"])  # in float64: chunks, and one step after the other
@directions
def test_gradients_of_every_order_pass_gradcheck(backend: str, reverse: bool) -> None:
    arguments = make(batch=1, steps=4, heads=2, d_state=2, width=3, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values()]

    def call(*tensors: Tensor) -> Tensor:
        with running(backend):
            return gated_linear_attention(*tensors, reverse=reverse)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


SHAPES = {
    "small": {},
    "one_of_each": {"steps": 1, "heads": 1, "d_state": 1, "width": 1},
    "whole_vectors": {"steps": 40, "heads": 2, "d_state": 16, "width": 16},
    "more_than_vectors": {"steps": 35, "heads": 2, "d_state": 19, "width": 35},
    "chunks": {"steps": 200, "heads": 1, "d_state": 16, "width": 16},
}


@backends
@directions
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_the_float64_definition(backend: str, reverse: bool, shape: str) -> None:
    with running(backend):
        got = values_and_gradients(make(**SHAPES[shape]), reverse=reverse)
    arguments = {name: x.double() for name, x in make(**SHAPES[shape]).items()}
    with use_backend("reference"):
        expected = values_and_gradients(arguments, reverse=reverse)
    for ours, want in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=0, atol=2e-6 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("backend", ["cpu", "chunks"])
def test_a_large_decay_costs_later_steps_no_accuracy(backend: str) -> None:
    arguments = make(steps=40)
    arguments["log_decay"][:, 3] = -1e6
    with running(backend):
        got = gated_linear_attention(**arguments)
    with use_backend("reference"):
        expected = gated_linear_attention(**{name: x.double() for name, x in arguments.items()})
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_views_need_no_copy_by_the_caller() -> None:
    arguments = make()
    wide = torch.cat([arguments[name].flatten(2) for name in ("q", "k", "v", "log_decay")], -1)
    parts = wide.split([15, 15, 12, 15], -1)
    views = [x.unflatten(-1, (3, -1)) for x in parts]
    expected = gated_linear_attention(**arguments)
    torch.testing.assert_close(gated_linear_attention(*views, arguments["bonus"]), expected, rtol=0, atol=0)
    bonus = arguments["bonus"]
    heads_first = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in arguments.items() if x.ndim > 2}
    found = values_and_gradients({**heads_first, "bonus": bonus})
    for got, want in zip(found, values_and_gradients(arguments), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@directions
def test_the_registered_operator_passes_pytorchs_own_check(reverse: bool) -> None:
    tensors = [x.requires_grad_() for name, x in make(steps=37).items() if name != "bonus"]
    with use_backend("cpu"):
        torch.library.opcheck(torch.ops.visionssm.gated_linear_attention, (*tensors, reverse, True))


def test_a_program_of_an_open_length_gives_the_same_numbers() -> None:
    class Attention(torch.nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, bonus: Tensor) -> Tensor:
            return gated_linear_attention(q, k, v, log_decay, bonus, reverse=True)

    steps = torch.export.Dim("steps", min=2, max=1000)
    program = torch.export.export(Attention(), tuple(make().values()), dynamic_shapes=(*[{1: steps}] * 4, None))
    other = make(steps=50)
    expected = gated_linear_attention(**other, reverse=True)
    torch.testing.assert_close(program.module()(*other.values()), expected)


@backends
def test_reverse_is_the_flipped_sequence(backend: str) -> None:
    arguments = make()
    flipped = {name: x if name == "bonus" else x.flip(1) for name, x in arguments.items()}
    with running(backend):
        y = gated_linear_attention(**arguments, reverse=True)
        torch.testing.assert_close(y, gated_linear_attention(**flipped).flip(1), rtol=1e-5, atol=1e-5)


@backends
def test_one_decay_for_all_keys_is_state_space_duality(backend: str) -> None:
    """`ssd` reads after it writes; its own write is that of a bonus of one, and the decay comes before."""
    arguments = make(heads=1)
    q, k, v = (arguments[name] for name in "qkv")
    dt = arguments["log_decay"][..., 0].neg()
    same = -dt[..., None].roll(-1, 1).expand_as(q)  # the decay of the step that follows
    with running(backend):
        y = gated_linear_attention(q, k, dt[..., None] * v, same, torch.ones(1, 5))
        decayed = gated_linear_attention(q * (-dt[..., None]).exp(), k, dt[..., None] * v, -dt[..., None].expand_as(q))
    own = torch.einsum("blhn,blhn,blhp->blhp", q, k, dt[..., None] * v)
    expected = ssd(v, dt, -torch.ones(1), k, q)
    torch.testing.assert_close(decayed + own, expected, rtol=1e-4, atol=1e-5)
    assert y.shape == expected.shape


@backends
def test_huge_decays_forget_and_none_keeps_everything(backend: str) -> None:
    arguments = make()
    bonus = arguments.pop("bonus")
    with running(backend):
        arguments["log_decay"] = torch.full_like(arguments["q"], -1e30)
        last = gated_linear_attention(**arguments, bonus=bonus)
        arguments["log_decay"] = torch.zeros_like(arguments["q"])
        whole = gated_linear_attention(**arguments, bonus=bonus)
    q, k, v = (arguments[name] for name in "qkv")
    own = torch.einsum("blhn,hn,blhn,blhp->blhp", q, bonus, k, v)
    before = torch.einsum("blhn,blhn,blhp->blhp", q[:, 1:], k[:, :-1], v[:, :-1])
    torch.testing.assert_close(last[:, 1:], own[:, 1:] + before, rtol=1e-4, atol=1e-5)
    states = torch.einsum("blhn,blhp->blhnp", k, v).cumsum(1)
    torch.testing.assert_close(
        whole[:, 1:], own[:, 1:] + torch.einsum("blhn,blhnp->blhp", q[:, 1:], states[:, :-1]), rtol=1e-4, atol=1e-4
    )


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_state_in_float32(backend: str, dtype: torch.dtype) -> None:
    arguments = {name: x.to(dtype) for name, x in make(steps=300).items()}
    with use_backend("reference"):
        expected = gated_linear_attention(**{name: x.double() for name, x in arguments.items()})
    with running(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        y = gated_linear_attention(**arguments)
    assert y.dtype == dtype
    assert float((y - expected).abs().max() / expected.abs().max()) < torch.finfo(dtype).eps


@backends
@directions
@pytest.mark.parametrize("empty", [{"steps": 0}, {"batch": 0}])
def test_nothing_gives_nothing(backend: str, reverse: bool, empty: dict[str, int]) -> None:
    with running(backend):
        y, *gradients = values_and_gradients(make(**empty), reverse=reverse)
    assert y.shape == make(**empty)["v"].shape
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("q", (2, 21, 15), r"q has shape \(2, 21, 15\); expected \(B, L, H, N\)"),
        ("k", (2, 21, 3, 4), r"k has shape .*N=5"),
        ("v", (2, 20, 3, 4), r"v has shape .*L=21"),
        ("log_decay", (2, 21, 3, 1), r"log_decay has shape .*N=5"),
        ("bonus", (3, 4), r"bonus has shape .*N=5"),
    ],
)
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(**{**make(), name: torch.zeros(shape)})


def test_integers_and_mixed_devices_are_refused() -> None:
    arguments = make()
    with pytest.raises(ValueError, match="k has dtype"):
        gated_linear_attention(**{**arguments, "k": arguments["k"].long()})
    with pytest.raises(ValueError, match="v is on meta and q on cpu"):
        gated_linear_attention(**{**arguments, "v": arguments["v"].to("meta")})
