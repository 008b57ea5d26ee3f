"""The ways to write Vim's convolution are one convolution."""

from __future__ import annotations

import torch

from visionssm.benchmarks import convolution
from visionssm.layers.mamba import TokenScan


def test_all_ways_compute_the_same_and_see_no_later_token() -> None:
    torch.manual_seed(0)
    layer = TokenScan(24, d_state=2, dt_rank=2)
    x = torch.randn(2, 9, 24)
    later = x.clone()
    later[:, 5:] += 1
    expected = convolution.as_layer(layer, x)
    for way in (convolution.as_layer, convolution.as_conv1d, convolution.as_shifted_sum):
        torch.testing.assert_close(way(layer, x), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(way(layer, later)[:, :5], expected[:, :5], rtol=1e-5, atol=1e-6)


def test_every_vim_has_a_row() -> None:
    rows = convolution.run(batches=(1,), seconds=0.02)
    assert [row["convolution"] for row in rows] == ["Vim-T", "Vim-S", "Vim-B"]
    assert all(value > 0 for row in rows for value in row.values() if isinstance(value, float))
