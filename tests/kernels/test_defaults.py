"""What PyTorch's default dtype and default device are makes no difference to any operator or family."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from torch import Tensor

import visionssm
from visionssm.kernels import (
    LowRank,
    deformable_sum,
    linear_recurrence,
    non_causal_ssd,
    plstm2d,
    plstm2d_four_directions,
    routes,
    scan_states,
    selective_scan,
    ssd,
)
from visionssm.kernels.plstm2d import propagation_gates

FAMILIES = [name for name in visionssm.list_models() if name.endswith("_nano_test")]
DEFAULTS = (torch.float16, torch.bfloat16, torch.float64, torch.float32)


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator(device="cpu").manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu").requires_grad_()


def _scan(**options: bool) -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    table = routes.ss2d(5, 4, device="cpu")
    inputs = [_normal(2, 20, 6), _normal(2, 20, 4, 2), _normal(4, 2, 6), _normal(4, 6, 3), _normal(2, 20, 4, 3)]

    def call(u: Tensor, low: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return selective_scan(u, LowRank(low, weight), -a.exp(), b, b.sin(), order=table, **options)

    return inputs, call


def _of_states() -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    table = routes.raster(5, 4, device="cpu")
    inputs = [_normal(2, 20, 6), _normal(2, 20, 1, 6), _normal(1, 6, 3), _normal(2, 20, 1, 3)]
    return inputs, lambda u, dt, a, b: scan_states(u, dt, -a.exp(), b, order=table)


def _ssd() -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    inputs = [_normal(2, 20, 3, 4), _normal(2, 20, 3), _normal(3), _normal(2, 20, 1, 5)]
    return inputs, lambda x, dt, a, b: ssd(x, dt, -a.exp(), b, b.sin(), softplus=True, return_final_state=True)


def _non_causal() -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    return [_normal(2, 20, 3, 4), _normal(2, 20, 3), _normal(2, 20, 5)], lambda x, m, b: non_causal_ssd(
        x, m, b, b.sin()
    )


def _deformable() -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    inputs = [_normal(1, 16, 5, 2, 16), _normal(1, 16, 5, 2, 9, 2), _normal(1, 16, 5, 2, 9)]
    return inputs, deformable_sum


def _recurrence() -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    return [_normal(1, 6), _normal(20, 6)], lambda a, b: linear_recurrence(a.sigmoid(), b, dim=0)


def _plstm(directions: int) -> tuple[list[Tensor], Callable[..., Tensor | tuple[Tensor, ...]]]:
    lead = (1, 4, 3) if directions == 1 else (1, 4, 4, 3)
    share, scalar = _normal(*lead), _normal(*lead, 1, 1, 1)
    qkv = [_normal(1, 4, 3, width, 1) for width in (2, 2, 5)]

    def call(q: Tensor, k: Tensor, v: Tensor, share: Tensor, scalar: Tensor) -> Tensor:
        gates = propagation_gates(share.sigmoid(), scalar, scalar[..., 0].sigmoid(), scalar)
        one = plstm2d if directions == 1 else plstm2d_four_directions
        out = one(q, k, v, gates)
        assert isinstance(out, Tensor)
        return out

    return [*qkv, share, scalar], call


OPERATORS = {
    "selective_scan": lambda: _scan(return_final_state=True),
    "selective_scan, a map a route": lambda: _scan(merge=False),
    "scan_states": _of_states,
    "ssd": _ssd,
    "non_causal_ssd": _non_causal,
    "deformable_sum": _deformable,
    "linear_recurrence": _recurrence,
    "plstm2d": lambda: _plstm(1),
    "plstm2d_four_directions": lambda: _plstm(4),
}


@pytest.fixture(autouse=True)
def _defaults_return() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)  # type: ignore[arg-type]


def _results(inputs: list[Tensor], call: Callable[..., Tensor | tuple[Tensor, ...]]) -> list[Tensor]:
    found = call(*inputs)
    outputs = (found,) if isinstance(found, Tensor) else found
    total = torch.stack([x.sin().sum() for x in outputs]).sum()
    return [x.detach() for x in (*outputs, *torch.autograd.grad(total, inputs))]


def _assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPERATORS)
def test_operator_gives_the_same_numbers_under_every_default(name: str) -> None:
    inputs, call = OPERATORS[name]()
    expected = _results(inputs, call)
    for dtype in DEFAULTS:
        torch.set_default_dtype(dtype)
        _assert_same(_results(inputs, call), expected)
    torch.set_default_device("meta")
    _assert_same(_results(inputs, call), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_gives_the_same_numbers_under_every_default(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    image = _normal(1, *model.default_cfg["input_size"])
    inputs = [image, *model.parameters()]

    def call(image: Tensor, *_: Tensor) -> Tensor:
        logits = model(image)
        assert isinstance(logits, Tensor)
        return logits

    expected = _results(inputs, call)
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        _assert_same(_results(inputs, call), expected)
    torch.set_default_device("meta")
    _assert_same(_results(inputs, call), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_made_under_a_default_dtype_computes_in_it(name: str) -> None:
    torch.set_default_dtype(torch.bfloat16)
    model = timm.create_model(name, num_classes=3).eval()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    image = _normal(1, *model.default_cfg["input_size"]).bfloat16()
    assert model(image).isfinite().all()


def test_route_tables_are_on_the_default_device_of_each_call() -> None:
    assert routes.zigzag(3, 7).device.type == "cpu"
    torch.set_default_device("meta")
    assert routes.zigzag(3, 7).device.type == "meta"
    torch.set_default_device(None)  # type: ignore[arg-type]
    assert routes.zigzag(3, 7).device.type == "cpu"
