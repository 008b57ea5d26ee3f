"""Maps cut into cells and windows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.layers.cells import into_cells, into_windows, out_of_cells, out_of_windows


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("sides", [(6, 12), (5, 7), (1, 4)])
def test_cells_hold_the_map_and_zeros_and_give_it_back(sides: tuple[int, int], size: int) -> None:
    x = torch.randn(2, *sides, 5)
    cells = into_cells(x, size)
    rows, columns = (-(-side // size) for side in sides)
    assert cells.shape == (2, rows, size, columns, size, 5)
    padded = F.pad(x, (0, 0, 0, columns * size - sides[1], 0, rows * size - sides[0]))
    for row in range(size):
        for column in range(size):
            torch.testing.assert_close(cells[:, :, row, :, column], padded[:, row::size, column::size], rtol=0, atol=0)
    torch.testing.assert_close(out_of_cells(cells, *sides), x, rtol=0, atol=0)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("sides", [(6, 12), (5, 7), (1, 4)])
def test_windows_are_read_row_by_row_and_filled_up_with_zeros(sides: tuple[int, int], size: int) -> None:
    x = torch.randn(2, *sides, 5)
    windows = into_windows(x, size)
    rows, columns = (-(-side // size) for side in sides)
    padded = F.pad(x, (0, 0, 0, columns * size - sides[1], 0, rows * size - sides[0]))
    expected = [
        padded[image, size * row : size * (row + 1), size * column : size * (column + 1)].reshape(-1, 5)
        for image in range(2)
        for row in range(rows)
        for column in range(columns)
    ]
    torch.testing.assert_close(windows, torch.stack(expected), rtol=0, atol=0)
    torch.testing.assert_close(out_of_windows(windows, size, *sides), x, rtol=0, atol=0)


def test_map_that_is_one_window_is_not_copied() -> None:
    x = torch.randn(2, 3, 3, 5)
    windows = into_windows(x, 3)
    assert windows.data_ptr() == x.data_ptr()
    assert out_of_windows(windows, 3, 3, 3).data_ptr() == x.data_ptr()


class _InWindows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return out_of_windows(into_windows(x, 4).cumsum(1), 4, x.shape[1], x.shape[2])


def test_windows_of_an_exported_map_of_one_window_can_be_several() -> None:
    axes = dict.fromkeys((0, 1, 2), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(_InWindows(), (torch.randn(2, 4, 4, 3),), dynamic_shapes=(axes,)).module()
    for shape in ((2, 4, 4, 3), (1, 3, 4, 3), (3, 9, 7, 3), (1, 4, 5, 3)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), _InWindows()(x))


@pytest.mark.slow
def test_windows_of_an_onnx_graph_of_one_window_can_be_several(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    axes = {0: "batch", 1: "height", 2: "width"}
    program = torch.onnx.export(
        _InWindows().eval(),
        (torch.randn(2, 4, 4, 3),),
        dynamo=True,
        dynamic_shapes=(axes,),
        input_names=["x"],
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "windows.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "windows.onnx")
    for shape in ((2, 4, 4, 3), (1, 3, 4, 3), (3, 9, 7, 3), (1, 4, 5, 3)):
        x = torch.randn(shape)
        (found,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), _InWindows()(x))
