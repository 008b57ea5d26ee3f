"""Every operator on a GPU: the interpreter's cases, and shapes of published models against the CPU kernels.

Needs no more than the checkout on PYTHONPATH. `VISIONSSM_TEST_DEVICE=cpu TRITON_INTERPRET=1` runs the same code where
there is no GPU.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from tests.kernels.on_device import OnDevice

DEVICE = os.environ.get("VISIONSSM_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no GPU")
pytest.importorskip("triton", reason="Triton is only published for Linux")

OPERATORS = ("selective_scan", "ssd", "linear_recurrence", "deformable_sum", "plstm2d")

# The interpreter's cases hold 1e-6 there; hardware has approximate exponentials and divisions, and products in parts.
TOLERANCES = {torch.float32: 2e-5, torch.complex64: 2e-5, torch.bfloat16: 1e-2, torch.float16: 5e-3}


def _cases() -> Iterator[Any]:
    """Every case, with the small tiles of the interpreter's tests and with those that users get."""
    for name in OPERATORS:
        for case_name, case in importlib.import_module(f"tests.kernels.interpreted_{name}").CASES.items():
            tiles = {True} if getattr(case, "real_tile", True) else {False, True}
            for real in sorted(tiles):
                yield pytest.param(name, case_name, real, id=f"{name}-{case_name}-{'real' if real else 'small'}")


@pytest.fixture
def products_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """`interpreted_ssd` asks for products that the interpreter knows; a GPU gets those that users get."""
    kernels = importlib.import_module("visionssm.kernels.ssd.gpu")
    real = kernels.precision

    class Keeps(ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, real if name == "precision" else value)

    if DEVICE == "cuda":
        monkeypatch.setattr(kernels, "__class__", Keeps)


@pytest.mark.parametrize(("operator", "case_name", "real_tile"), _cases())
@pytest.mark.usefixtures("products_of_users")
def test_values_and_gradients_equal_the_float64_definition(
    operator: str, case_name: str, real_tile: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"tests.kernels.interpreted_{operator}")
    case = module.CASES[case_name]
    if operator == "selective_scan" and DEVICE == "cuda":
        monkeypatch.setattr(module, "SMALL_TILE", (16, 16))  # the least that tensor cores multiply
        make_inputs = module.make_inputs
        monkeypatch.setattr(module, "make_inputs", lambda case: _table_on_device(*make_inputs(case)))
    if hasattr(case, "real_tile"):
        case = module.CASES[case_name] = replace(case, real_tile=real_tile)  # seeds are numbers of cases
    with OnDevice(DEVICE):
        if operator == "plstm2d":
            found: Any = module.errors(case, "triton")
        else:
            found = module.errors(case) if hasattr(module, "errors") else {"worst": module.error(case)}
    tolerance = TOLERANCES[getattr(case, "dtype", torch.float32)]
    assert not {name: error for name, error in found.items() if not error <= tolerance}


def _table_on_device(inputs: Any, order: Tensor) -> tuple[Any, Tensor]:
    """Route tables name the CPU themselves, so `OnDevice` leaves them there."""
    return inputs, order.to(DEVICE)


def _shapes() -> list[Any]:
    from visionssm.benchmarks.kernels import SHAPES

    return [pytest.param(shape, id=shape.name.replace(" ", "_")) for shape in SHAPES]


@pytest.mark.skipif(DEVICE == "cpu", reason="these shapes take the interpreter hours")
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", _shapes())
def test_scans_of_published_models_equal_the_cpu_kernels(shape: Any, dtype: torch.dtype, batch: int) -> None:
    here, there = (_values_and_gradients(replace(shape, batch=batch), dtype, where) for where in ("cpu", DEVICE))
    tolerance = 1e-5 if dtype == torch.float32 else 5e-3
    for name, want in here.items():
        error = (there[name] - want).norm() / want.norm()
        assert error <= tolerance, name


def _values_and_gradients(shape: Any, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """In float64 on the CPU, by name."""
    from visionssm.benchmarks.gpu.scans import inputs_on
    from visionssm.benchmarks.kernels import ours

    x = inputs_on(shape, device, dtype)
    x.require_grad()
    y = ours(x)
    weights = (torch.arange(y.numel(), device=device) % 7 - 3).view_as(y).to(y.dtype) / 4
    grads = torch.autograd.grad((y * weights).float().sum(), x.leaves())
    names = ("y", "u", "low", "weight", "a", "b", "c", "d", "bias")
    return {name: t.detach().double().cpu() for name, t in zip(names, (y, *grads), strict=True)}


# ------------------------------------------------------------------------------------------------------ CUDA graphs

HAVE_TABLES = ("selective_scan", "scan_states")
LAUNCHING = ("selective_scan", "scan_states", "ssd", "deformable_sum", "linear_recurrence", "plstm2d_four_directions")
on_hardware = pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU whose work could be captured")


class _Module(torch.nn.Module):
    """An operator's example: its first input comes with the call, the others are parameters."""

    first: Tensor
    operator: Callable[..., Tensor | tuple[Tensor, ...]]

    def __init__(self, name: str) -> None:
        super().__init__()
        from tests.kernels.examples import OPERATORS as EXAMPLES

        # A table that a capture had to fetch from the CPU would end it.
        where = (DEVICE,) if name in HAVE_TABLES else ()
        (first, *others), self.operator = EXAMPLES[name](*where)
        self.register_buffer("first", first.detach().to(DEVICE))  # no parameter: the call does not use it
        self.others = torch.nn.ParameterList([x.detach().to(DEVICE) for x in others])

    def forward(self, x: Tensor) -> Tensor:
        return _first(self.operator(x, *self.others))


def _first(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    return found if isinstance(found, Tensor) else found[0]


def _trained(function: Callable[..., Any], own: _Module, x: Tensor) -> list[Tensor]:
    x = x.detach().clone().requires_grad_()
    y = function(x)
    leaves = [x, *own.others]
    return [y.detach().clone(), *(g.clone() for g in torch.autograd.grad(y.float().sin().sum(), leaves))]


def _assert_near(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Atomic additions come in another order, and nothing else differs."""
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-4 * max(1.0, y.abs().max().item()))


@on_hardware
@pytest.mark.parametrize("name", LAUNCHING)
def test_graphed_callable_computes_what_the_operator_does(name: str) -> None:
    own = _Module(name)
    first = own.first.detach()
    wanted = _trained(own, own, 0.5 * first)
    graphed = torch.cuda.make_graphed_callables(own, (first.clone().requires_grad_(),))
    for _ in range(2):  # replayed, with other values than the captured ones
        _trained(graphed, own, first)
        _assert_near(_trained(graphed, own, 0.5 * first), wanted)


@on_hardware
@pytest.mark.parametrize("name", LAUNCHING)
def test_compiled_with_reduced_overhead_computes_what_the_operator_does(name: str) -> None:
    own = _Module(name)
    first = own.first.detach()
    wanted = _trained(own, own, 0.5 * first)
    torch._dynamo.reset()
    compiled = torch.compile(own.operator, mode="reduce-overhead")
    others = list(own.others)  # in PyTorch 2.11 torch.compile does not unpack lists of parameters
    skipped = counters["inductor"]["cudagraph_skips"]
    for _ in range(4):  # compiled, warmed up, captured, replayed
        torch.compiler.cudagraph_mark_step_begin()
        found = _trained(lambda x: _first(compiled(x, *others)), own, 0.5 * first)
    _assert_near(found, wanted)
    assert counters["inductor"]["cudagraph_skips"] == skipped


@on_hardware
@pytest.mark.parametrize("name", LAUNCHING)
def test_deterministic_results_have_the_same_bits_in_every_run(name: str) -> None:
    own = _Module(name)
    torch.use_deterministic_algorithms(True)
    try:
        first, *others = (_trained(own, own, own.first.detach()) for _ in range(5))
    finally:
        torch.use_deterministic_algorithms(False)
    for other in others:
        assert all(torch.equal(x, y) for x, y in zip(other, first, strict=True))


# ---------------------------------------------------------------------------- operators without kernels for GPUs

WITHOUT_KERNELS = ("sparse_conv", "gated_linear_attention", "ttt_linear", "non_causal_ssd")


def _on(device: str, name: str) -> list[Tensor]:
    """Values and gradients of an operator's example, on the CPU."""
    from tests.kernels.examples import OPERATORS as EXAMPLES

    inputs, operator = EXAMPLES[name]()
    leaves = [x.detach().to(device).requires_grad_() for x in inputs]
    y = _first(operator(*leaves))
    return [x.detach().cpu() for x in (y, *torch.autograd.grad(y.sin().sum(), leaves))]


@on_hardware
@pytest.mark.parametrize("name", WITHOUT_KERNELS)
def test_operators_without_kernels_for_gpus_compute_there_what_they_do_on_the_cpu(name: str) -> None:
    for x, y in zip(_on(DEVICE, name), _on("cpu", name), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5 * max(1.0, y.abs().max().item()))


@on_hardware
def test_rotated_boxes_are_on_the_gpu_what_they_are_on_the_cpu() -> None:
    from visionssm.kernels import rotated_iou, rotated_nms

    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(200, 7, generator=generator) * torch.tensor([9.0, 9, 1, 4, 2, 1, 6]) + 0.1
    scores = torch.rand(200, generator=generator)
    there, where = boxes.to(DEVICE), scores.to(DEVICE)
    overlaps = rotated_iou(there[:, None], there).cpu()
    torch.testing.assert_close(overlaps, rotated_iou(boxes[:, None], boxes), rtol=1e-5, atol=1e-6)
    assert rotated_nms(there, where, 0.3).tolist() == rotated_nms(boxes, scores, 0.3).tolist()


@on_hardware
def test_lion_computes_on_the_gpu_what_it_does_on_the_cpu() -> None:
    from visionssm.pointcloud.backbone import LionBackbone
    from visionssm.pointcloud.voxels import Grid, VoxelEncoder

    torch.manual_seed(0)
    encoder = VoxelEncoder(Grid((0, -4, -2, 8, 4, 2), (0.5, 0.5, 0.25)), 4, (8, 8)).eval()
    backbone = LionBackbone(dim=8, windows=((5, 5, 16), (5, 5, 8)), group_sizes=(16, 8), drop_path=0.0).eval()
    points = torch.rand(300, 4) * torch.tensor([8.0, 8, 4, 1]) - torch.tensor([0.0, 4, 2, 0])

    def run(device: str) -> tuple[Tensor, Tensor, list[Tensor]]:
        """In float64, as untrained layers amplify rounding."""
        network = torch.nn.ModuleList([encoder, backbone]).double().to(device)
        network.zero_grad()
        y, sites = backbone(*encoder([points.double().to(device)])).output
        y.sin().sum().backward()
        return y.detach().cpu(), sites.coords.cpu(), [p.grad.cpu() for p in network.parameters() if p.grad is not None]

    (y, coords, grads), (wanted, wanted_coords, wanted_grads) = run(DEVICE), run("cpu")
    assert torch.equal(coords, wanted_coords)
    torch.testing.assert_close(y, wanted, rtol=1e-6, atol=1e-7)
    for x, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(x, other, rtol=1e-5, atol=1e-6 * max(1.0, other.abs().max().item()))
