"""What PyTorch's default dtype and default device are makes no difference to any operator or family."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor

import visionssm
from tests.kernels.examples import OPERATORS, Call, normal
from visionssm.kernels import routes

FAMILIES = [name for name in visionssm.list_models() if name.endswith("_nano_test")]
DEFAULTS = (torch.float16, torch.bfloat16, torch.float64, torch.float32)


@pytest.fixture(autouse=True)
def _defaults_return() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)  # type: ignore[arg-type]


def _results(inputs: list[Tensor], call: Call) -> list[Tensor]:
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
    image = normal(1, *model.default_cfg["input_size"])
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
    image = normal(1, *model.default_cfg["input_size"]).bfloat16()
    assert model(image).isfinite().all()


def test_route_tables_are_on_the_default_device_of_each_call() -> None:
    assert routes.zigzag(3, 7).device.type == "cpu"
    torch.set_default_device("meta")
    assert routes.zigzag(3, 7).device.type == "meta"
    torch.set_default_device(None)  # type: ignore[arg-type]
    assert routes.zigzag(3, 7).device.type == "cpu"
