"""Maps cut into cells."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visionssm.layers.cells import into_cells, out_of_cells


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
