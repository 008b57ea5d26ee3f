"""Every operator is exported with an open batch and an open map, to ONNX and to an archive, and computes the same.

An operator stands in a small model that makes its inputs from an image by point-wise products.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from visionssm.backbones.efficientvmamba import AtrousSS2D
from visionssm.integrations.export import export_archive, export_onnx
from visionssm.kernels import (
    LowRank,
    deformable_sum,
    gated_linear_attention,
    linear_recurrence,
    non_causal_ssd,
    plstm2d,
    plstm2d_four_directions,
    routes,
    scan_states,
    selective_scan,
    ssd,
)
from visionssm.kernels.plstm2d import Gates, propagation_gates

CHANNELS, HEADS, STATES, RANK, ROUTES = 8, 2, 3, 2, 4


class _Made:
    """Numbers between −1 and 1 for every pixel of an image: `made(n)` is (B, H, W, n), other numbers at each call."""

    def __init__(self, image: Tensor, weights: Tensor) -> None:
        self.image, self.weights = image.permute(0, 2, 3, 1), weights

    def __call__(self, *shape: int) -> Tensor:
        n = torch.Size(shape).numel()
        weights, self.weights = self.weights[:, :n], self.weights[:, n:]
        return torch.tanh(self.image @ weights).unflatten(-1, shape)

    def pixels(self, *shape: int) -> Tensor:
        """(B, H·W, …)."""
        return self(*shape).flatten(1, 2)


class _FromAnImage(nn.Module):
    """An operator whose inputs are made of a (B, 3, H, W) image."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))

    def parameter(self, *shape: int) -> Tensor:
        return self.weights.flatten()[: torch.Size(shape).numel()].view(shape)

    def forward(self, image: Tensor) -> Tensor:
        return self.operate(_Made(image, self.weights), *image.shape[2:])

    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        raise NotImplementedError


class _SelectiveScan(_FromAnImage):
    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        step = LowRank(
            made.pixels(ROUTES, RANK), self.weights.flatten()[: ROUTES * RANK * CHANNELS].view(ROUTES, RANK, -1)
        )
        a = -self.parameter(ROUTES, CHANNELS, STATES).abs()
        b, c = made.pixels(ROUTES, STATES), made.pixels(ROUTES, STATES)
        y = selective_scan(made.pixels(CHANNELS), step, a, b, c, order=routes.ss2d(height, width))
        assert isinstance(y, Tensor)
        return y


class _ScanStates(_FromAnImage):
    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        a = -self.parameter(1, CHANNELS, STATES).abs()
        dt, b = made.pixels(1, CHANNELS), made.pixels(1, STATES)
        return scan_states(made.pixels(CHANNELS), dt, a, b, order=routes.raster(height, width))


class _Ssd(_FromAnImage):
    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        x, dt, a = made.pixels(HEADS, 4), made.pixels(HEADS), -self.parameter(HEADS).abs()
        y = ssd(x, dt, a, made.pixels(1, STATES), made.pixels(1, STATES), softplus=True)
        assert isinstance(y, Tensor)
        return y


class _GatedLinearAttention(_FromAnImage):
    """From both ends."""

    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        q, k, v = made.pixels(HEADS, STATES), made.pixels(HEADS, STATES), made.pixels(HEADS, 4)
        log_decay = -made.pixels(HEADS, STATES).exp()
        past = gated_linear_attention(q, k, v, log_decay, self.parameter(HEADS, STATES))
        return past + gated_linear_attention(q, k, v, log_decay, reverse=True)


class _NonCausalSsd(_FromAnImage):
    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        return non_causal_ssd(made.pixels(HEADS, 4), made.pixels(HEADS), made.pixels(STATES), made.pixels(STATES))


class _LinearRecurrence(_FromAnImage):
    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        a = made(CHANNELS)
        return linear_recurrence(a, made(CHANNELS), dim=1) + linear_recurrence(a, made(CHANNELS), dim=2, reverse=True)


class _DeformableSum(_FromAnImage):
    """Offsets of up to two pixels, some of which lead outside."""

    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        return deformable_sum(made(2, 4), 2 * made(2, 9, 2), made(2, 9), scale=0.5)


class _Plstm2d(_FromAnImage):
    """The D-mode, along one direction, with states that leave the grid."""

    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        sources, marks = (made(1, 1, 1) for _ in range(2)), (made(1, 1, 1) for _ in range(2))
        transitions = [made(1, 1) for _ in range(3)]
        gates = Gates(*sources, *transitions[:2], *marks, transitions[2])
        q, k, v = (made(4, 1) for _ in range(3))
        out, (along_x, along_y) = plstm2d(q, k, v, gates, made(1, 1, 1, 1), return_final_state=True)
        return out + along_x[:, None, :, 0] + along_y[:, :, None, 0]


class _Plstm2dFourDirections(_FromAnImage):
    """The P-mode."""

    def operate(self, made: _Made, height: int, width: int) -> Tensor:
        orientation = made(4).sigmoid().movedim(-1, 1)
        source, mark = (made(4, 1, 1, 1).movedim(3, 1) for _ in range(2))
        transition = made(4, 1, 1).movedim(3, 1) / 2
        gates = propagation_gates(orientation, source, transition, mark)
        return plstm2d_four_directions(*(made(4, 1) for _ in range(3)), gates)


OPERATORS = [
    _SelectiveScan,
    _ScanStates,
    _Ssd,
    _GatedLinearAttention,
    _NonCausalSsd,
    _LinearRecurrence,
    _DeformableSum,
    pytest.param(_Plstm2d, marks=pytest.mark.slow),  # its chunks are a large graph, which takes the exporter long
    pytest.param(_Plstm2dFourDirections, marks=pytest.mark.slow),
]
every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda x: x.__name__.lstrip("_"))
IMAGE = torch.randn(2, 3, 34, 37, generator=torch.Generator().manual_seed(1)) / 4


@pytest.mark.parametrize(
    "operator",  # of scans, test_export.py exports a whole network
    [pytest.param(x, marks=pytest.mark.slow) if x is _SelectiveScan else x for x in OPERATORS],
    ids=lambda x: x.__name__.lstrip("_"),
)
def test_onnx_graph_of_standard_operators_runs_at_any_batch_and_size(operator: type[nn.Module], tmp_path: Path) -> None:
    import onnx

    file = tmp_path / "operator.onnx"
    assert export_onnx(operator(), file, IMAGE, dynamic=True) <= 1e-4
    model = onnx.load(file)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert {node.domain for node in nodes} <= {"", *(function.domain for function in model.functions)}
    assert {x.domain for x in model.opset_import} - {function.domain for function in model.functions} == {""}


@every_operator
def test_archive_runs_at_any_batch_and_size(operator: type[nn.Module], tmp_path: Path) -> None:
    assert export_archive(operator(), tmp_path / "operator.pt2", IMAGE, dynamic=True) <= 1e-4


class _Tables(nn.Module):
    """Route tables that have to round sizes up."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        height, width = x.shape[1:3]
        return routes.atrous(height, width, 2, device=x.device), routes.window(height, width, 3, device=x.device)


def test_route_tables_of_an_onnx_graph_round_sizes_up(tmp_path: Path) -> None:
    """Where division rounds towards zero, as in ONNX, −(−25 // 2) is 12 and the last row is never visited."""
    onnxruntime = pytest.importorskip("onnxruntime")
    names = ({0: "batch", 1: "height", 2: "width"},)
    with torch.no_grad():
        program = torch.onnx.export(_Tables().eval(), (torch.zeros(2, 8, 12, 1),), dynamo=True, dynamic_shapes=names)
    program.save(tmp_path / "tables.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "tables.onnx"), providers=["CPUExecutionProvider"])
    for size in ((8, 12), (25, 7), (10, 11)):
        x = torch.zeros(1, *size, 1)
        tables = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for actual, expected in zip(tables, _Tables()(x), strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), expected)


def test_archive_of_an_atrous_scan_takes_odd_maps() -> None:
    torch.manual_seed(0)
    mixer = AtrousSS2D(16, ssm_ratio=2.0, d_state=4, dt_rank=1, conv_bias=True).eval()
    opened = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(mixer, (torch.randn(2, 8, 12, 16),), dynamic_shapes=({1: opened, 2: opened},))
        for size in ((8, 12), (7, 12), (9, 5)):
            x = torch.randn(2, *size, 16)
            torch.testing.assert_close(program.module()(x), mixer(x))
