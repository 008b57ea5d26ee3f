"""Exported models run without this package (ONNX) or with it (archive) and compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import visionssm
from tests.tools.test_predict import command
from visionssm.integrations.export import ExportError, export_archive, export_onnx
from visionssm.kernels import LowRank, routes, selective_scan


def _model(name: str = "vmamba_nano_test", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def test_onnx_graph_has_standard_operators_and_runs_at_any_size(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    model, file = _model(depths=(1, 1)), tmp_path / "model.onnx"
    difference = export_onnx(model, file, torch.randn(2, 3, 64, 64), dynamic=True)
    assert difference <= 1e-4

    graph = onnx.load(file).graph
    assert {node.domain for node in graph.node} == {""}
    assert "Scan" in {node.op_type for node in graph.node}
    session = onnxruntime.InferenceSession(str(file))
    for size in [(1, 3, 65, 43), (3, 3, 40, 128)]:
        image = torch.randn(size)
        (actual,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(actual), model(image), rtol=1e-4, atol=1e-5)
    assert list(tmp_path.iterdir()) == [file], "temporary files are left"


def test_archive_runs_at_any_size(tmp_path: Path) -> None:
    model, file = _model(depths=(1, 1)), tmp_path / "model.pt2"
    assert export_archive(model, file, torch.randn(2, 3, 64, 64), dynamic=True) <= 1e-5
    image = torch.randn(3, 3, 65, 43)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(file).module()(image), model(image))


def test_features_of_a_backbone_are_exported(tmp_path: Path) -> None:
    model = _model(features_only=True)
    assert export_archive(model, tmp_path / "features.pt2", torch.randn(1, 3, 64, 64), dynamic=False) <= 1e-5


class _Scan(nn.Module):
    """One scan with every optional input, as a module to export."""

    def __init__(self, merge: bool, low_rank: bool) -> None:
        super().__init__()
        self.merge, self.low_rank = merge, low_rank
        self.a, self.d, self.bias = -torch.rand(4, 8, 3), torch.randn(4, 8), torch.randn(4, 8)
        self.weight = torch.randn(4, 2, 8)

    def forward(self, u: Tensor, dt: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        step = LowRank(dt, self.weight) if self.low_rank else dt
        order = routes.ss2d(3, 5)
        options = {"d": self.d, "dt_bias": self.bias, "initial_state": state, "merge": self.merge}
        return selective_scan(u, step, self.a, b, c, order=order, return_final_state=True, **options)


@pytest.mark.parametrize(
    ("merge", "low_rank"),
    [(True, True), (False, False), *(pytest.param(m, not m, marks=pytest.mark.slow) for m in (True, False))],
)
def test_exportable_form_of_the_scan_equals_the_definition(merge: bool, low_rank: bool) -> None:
    torch.manual_seed(0)
    width = 2 if low_rank else 8
    inputs = torch.randn(2, 15, 8), torch.randn(2, 15, 4, width), torch.randn(2, 15, 4, 3), torch.randn(2, 15, 4, 3)
    module, state = _Scan(merge, low_rank), torch.randn(2, 4, 1, 8, 3)
    with visionssm.use_backend("reference"):
        expected = module(*inputs, state)
    with visionssm.use_backend("export"):
        exported = torch.export.export(module, (*inputs, state)).module()
    torch.testing.assert_close(exported(*inputs, state), expected)


class _Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x  # depends on the values


def test_what_cannot_be_exported_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be exported"):
        export_archive(_Unexportable(), tmp_path / "model.pt2", torch.randn(1, 3, 64, 64))
    assert not list(tmp_path.iterdir())


class _Unstable(nn.Module):
    """Computes something else in every call, as a model whose export went wrong does."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) + torch.rand(1)


def test_export_that_differs_from_eager_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from eager"):
        export_archive(_Unstable(), tmp_path / "model.pt2", torch.randn(1, 3, 64, 64), dynamic=False)
    assert not list(tmp_path.iterdir())


def test_tool_writes_the_file_and_reports_the_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nano.pt2"
    arguments = ["vmamba_nano_test", "--format", "pt2", "--size", "64", "48", "--out", str(out)]
    assert command("export")(arguments) == 0
    assert "largest difference to eager" in capsys.readouterr().out
    assert out.stat().st_size > 1_000_000


def test_tool_explains_an_unknown_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("export")([str(tmp_path / "missing.pth")]) == 2
    said = capsys.readouterr().err
    assert "missing.pth" in said
    assert "Traceback" not in said


def test_weights_that_no_onnx_file_holds_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = timm.create_model("mambavision_large3_256_21k")
    with pytest.raises(ExportError, match=r"2\.8 GiB.*\.pt2"):
        export_onnx(model, tmp_path / "model.onnx", torch.randn(1, 3, 64, 64))


@pytest.mark.slow
def test_archive_made_with_one_window_runs_on_several_of_odd_sides(tmp_path: Path) -> None:
    model = _model("mambavision_nano_test", depths=(1, 1, 2, 1), window_size=(4, 2))
    assert export_archive(model, tmp_path / "model.pt2", torch.randn(2, 3, 64, 64)) <= 1e-4
    exported = torch.export.load(tmp_path / "model.pt2").module()
    image = torch.randn(3, 3, 75, 130)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [n for n in visionssm.list_models() if n.endswith("_nano_test")])
def test_archive_of_every_family_runs_at_odd_sizes(name: str, tmp_path: Path) -> None:
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    side = 128 if name.startswith("msvmamba") else 64  # half of its last map is scanned, which has to have two pixels
    model, file = _model(name), tmp_path / "model.pt2"
    assert export_archive(model, file, torch.randn(2, 3, side, side), dynamic=not fixed) <= 1e-4
    image = torch.randn((2, 3, 64, 64) if fixed else (3, 3, 75, 130))
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(file).module()(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_file_with_open_sizes_can_be_written_after_one_with_fixed_ones(tmp_path: Path) -> None:
    for name, dynamic in (("localvim_nano_test", False), ("localvmamba_nano_test", True)):  # loops of the same sizes
        file = tmp_path / f"{name}.onnx"
        assert export_onnx(_model(name), file, torch.randn(2, 3, 64, 64), dynamic=dynamic) <= 1e-4


# The first is tested above; the others are larger than a file of ONNX can be.
ELSEWHERE = ("vmamba_nano_test", "mambavision_large3_256_21k", "mambavision_large3_512_21k")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the exporter traces thousands of operators twice, which takes minutes
@pytest.mark.parametrize("name", [n for n in visionssm.list_models() if n not in ELSEWHERE])
def test_every_model_is_exported_to_onnx_with_open_sizes(name: str, tmp_path: Path) -> None:
    fixed = timm.get_pretrained_cfg(name).fixed_input_size
    assert export_onnx(_model(name), tmp_path / "model.onnx", torch.randn(2, 3, 64, 64), dynamic=not fixed) <= 1e-4
