"""Parts of HRNet: enlarging a branch to the exact size of another."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.layers.hrnet import enlarge


class _Enlarge(nn.Module):
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return enlarge(x, 2, like)


def _maps(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A map of half the size, rounded up as strided convolutions do, and one of the whole."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 2, -(-height // 2), -(-width // 2), generator=generator), torch.empty(1, 2, height, width)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (8, 5)])
def test_map_is_enlarged_by_the_factor_and_then_to_the_size(size: tuple[int, int]) -> None:
    x, like = _maps(*size)
    expected = F.interpolate(x, scale_factor=2.0, mode="bilinear")
    if size != tuple(expected.shape[2:]):
        expected = F.interpolate(expected, size=size, mode="bilinear")
    torch.testing.assert_close(enlarge(x, 2, like), expected, rtol=0, atol=0)


def test_graph_exported_at_even_sizes_also_enlarges_to_odd_ones() -> None:
    open_sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(_Enlarge(), _maps(8, 6), dynamic_shapes=(open_sizes, open_sizes)).module()
    for size in ((8, 6), (7, 5), (10, 9)):
        maps = _maps(*size)
        torch.testing.assert_close(graph(*maps), enlarge(maps[0], 2, maps[1]))
