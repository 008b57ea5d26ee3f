"""Linear layers and MLPs through oneDNN: the same numbers, and every observer sees what it would see otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from visionssm.layers import linear as module
from visionssm.layers.linear import Mlp, affine, by_onednn, linear

ROWS, DIM = 400, 96

needs_onednn = pytest.mark.skipif(module._product() is None, reason="this PyTorch or processor has no such product")


@pytest.fixture(autouse=True)
def _small_products_too() -> Any:
    with mock.patch.object(module, "LEAST", 1):
        yield


def _map() -> Tensor:
    return torch.randn(2, ROWS // 2, DIM, generator=torch.Generator().manual_seed(0))


def _error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).norm() / exact.norm())


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("fan_in", [3, DIM, 3072])
def test_product_is_as_precise_as_that_of_pytorch(bias: bool, fan_in: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(fan_in, 200, bias=bias), torch.randn(2, 49, fan_in)
    exact = F.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    y = linear(layer, x)
    assert y.shape == exact.shape
    assert _error(y, exact) < 3 * _error(layer(x), exact) + 1e-8
    assert torch.equal(affine(x, layer.weight, layer.bias), y)


@torch.no_grad()
def test_mlp_is_that_of_timm() -> None:
    torch.manual_seed(0)
    mlp = Mlp(DIM, 4 * DIM).eval()
    x = _map()
    exact = super(Mlp, mlp.double()).forward(x.double())
    mlp.float()
    y = mlp(x)
    assert _error(y, exact) < 1.5 * _error(super(Mlp, mlp).forward(x), exact)


@needs_onednn
def test_it_is_used_where_no_gradient_is_asked_for() -> None:
    mlp, x = Mlp(DIM).eval(), _map()
    with mock.patch.object(module, "_product", wraps=module._product) as product:
        with torch.no_grad():
            mlp(x)
        assert product.call_count > 0
        product.reset_mock()
        mlp(x).sum().backward()
        assert product.call_count == 0
    assert mlp.fc1.weight.grad is not None


def _other_dtype(x: Tensor, layer: nn.Linear) -> Tensor:
    return linear(layer.double(), x.double())


def _autocast(x: Tensor, layer: nn.Linear) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return linear(layer, x)


def _vmapped(x: Tensor, layer: nn.Linear) -> Tensor:
    return torch.vmap(lambda one: linear(layer, one))(x)


def _strided(x: Tensor, layer: nn.Linear) -> Tensor:
    return linear(layer, x.mT.contiguous().mT)


def _switched_off(x: Tensor, layer: nn.Linear) -> Tensor:
    with torch.backends.mkldnn.flags(enabled=False):
        return linear(layer, x)


@torch.no_grad()
@pytest.mark.parametrize("call", [_other_dtype, _autocast, _vmapped, _strided, _switched_off])
def test_all_other_calls_are_those_of_the_layer(call: Callable[[Tensor, nn.Linear], Tensor]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(DIM, 7), _map()
    with mock.patch.object(module, "_product", side_effect=AssertionError):
        y = call(x, layer)
    assert y.dtype == (
        torch.float64 if call is _other_dtype else torch.bfloat16 if call is _autocast else torch.float32
    )
    torch.testing.assert_close(y.float(), layer.float()(x), rtol=2e-2, atol=2e-2)


@torch.no_grad()
def test_wrong_widths_raise_the_error_of_pytorch() -> None:
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(nn.Linear(DIM + 1, 8), _map())
    assert linear(nn.Linear(DIM, 8), _map()[:0]).shape == (0, ROWS // 2, 8)


@torch.no_grad()
@pytest.mark.parametrize("name", ["fc1", "act", "drop1", "norm", "fc2"])
def test_a_hook_of_any_part_of_an_mlp_sees_its_own_input_and_output(name: str) -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(DIM).eval(), _map()
    seen: dict[str, Tensor] = {}
    part = mlp.get_submodule(name)
    handle = part.register_forward_hook(lambda _, inputs, output: seen.update(input=inputs[0], output=output))
    y = mlp(x)
    handle.remove()
    torch.testing.assert_close(part(seen["input"]), seen["output"])
    torch.testing.assert_close(y, mlp(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_layer_that_stands_in_for_another_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    mlp, x = Mlp(DIM).eval(), _map()
    mlp.fc2 = nn.Linear(DIM, DIM, bias=False)
    once = mlp(x)
    doubled = Doubled(DIM, DIM, bias=False)
    doubled.load_state_dict(mlp.fc2.state_dict())
    mlp.fc2 = doubled
    torch.testing.assert_close(mlp(x), 2 * once, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_dropout_in_training_drops() -> None:
    mlp = Mlp(DIM, drop=0.5).train()
    mlp.drop2.p = 0.0
    x = _map()
    assert not torch.equal(mlp(x), mlp(x))


@torch.no_grad()
def test_counters_and_tracers_see_linear_layers() -> None:
    mlp, x = Mlp(DIM).eval(), _map()
    with FlopCounterMode(display=False) as counter:
        mlp(x)
    assert counter.get_total_flops() == 2 * 2 * ROWS * DIM * DIM
    graph = fx.symbolic_trace(mlp)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"][:2] == ["fc1", "act"]
    torch.testing.assert_close(graph(x), mlp(x), rtol=1e-4, atol=1e-5)
    assert "mkldnn" not in str(torch.jit.trace(mlp, x).inlined_graph)
    assert not by_onednn(x.to("meta"), mlp.fc1.weight.to("meta"))
