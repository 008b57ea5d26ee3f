"""Stem, block and downsampling that VSSD and Spatial-Mamba share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionssm.layers import ConditionalPositionBlock, InvertedBottleneckDownsample, ResidualConvStem


@pytest.mark.parametrize("size,expected", [((8, 8), (2, 2)), ((9, 13), (3, 4)), ((1, 5), (1, 2))])
def test_the_stem_quarters_the_resolution_and_rounds_up(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert ResidualConvStem(3, 8)(torch.randn(2, 3, *size)).shape == (2, *expected, 8)


def test_the_stem_adds_the_first_convolution_before_the_second_halving() -> None:
    stem = ResidualConvStem(3, 8).eval()
    image = torch.randn(1, 3, 16, 16)
    nn.init.zeros_(stem.conv2[1].norm.weight)  # the branch gives nothing
    torch.testing.assert_close(stem(image), stem.conv3(stem.conv1(image)).permute(0, 2, 3, 1))


def test_neither_stem_nor_downsampling_end_with_an_activation() -> None:
    x = ResidualConvStem(3, 8)(torch.randn(2, 3, 16, 16))
    assert (x < 0).any()
    assert (InvertedBottleneckDownsample(8, 16)(x) < 0).any()


@pytest.mark.parametrize("size,expected", [((4, 6), (2, 3)), ((5, 7), (3, 4)), ((1, 1), (1, 1))])
def test_the_downsampling_halves_the_resolution_and_rounds_up(size: tuple, expected: tuple) -> None:
    downsample = InvertedBottleneckDownsample(8, 16).eval()
    assert downsample(torch.randn(2, *size, 8)).shape == (2, *expected, 16)


def test_the_downsampling_normalises_once_at_its_end() -> None:
    names = [name for name, module in InvertedBottleneckDownsample(8, 16).named_modules() if "norm" in name]
    assert names == ["conv.2.norm"]


def test_stochastic_depth_drops_mixer_and_mlp_but_not_the_positions() -> None:
    block = ConditionalPositionBlock(8, nn.Linear(8, 8), mlp_ratio=2.0, drop_path=1.0).train()
    x = torch.randn(2, 5, 4, 8)
    expected = x + block.cpe1(x)
    torch.testing.assert_close(block(x), expected + block.cpe2(expected))


def test_a_pixel_at_the_border_knows_that_it_is_there() -> None:
    block = ConditionalPositionBlock(8, nn.Identity(), mlp_ratio=2.0, drop_path=0.0).eval()
    y = block(torch.ones(1, 7, 7, 8))
    assert not torch.allclose(y[:, 0], y[:, 3])
