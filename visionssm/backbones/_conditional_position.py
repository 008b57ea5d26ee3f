"""The network that VSSD and Spatial-Mamba share; the families differ in the mixers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from timm.layers import calculate_drop_path_rates
from torch import nn

from visionssm.backbones._base import HierarchicalBackbone, Stage, init_linear_
from visionssm.backbones._keys import Rename
from visionssm.layers import (
    ConditionalPositionBlock,
    InvertedBottleneckDownsample,
    NormClassifierHead,
    ResidualConvStem,
)


class ConditionalPositionBackbone(HierarchicalBackbone):
    """Convolutional stem, stages of conditional-position blocks, any input size.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: timm's pooling name, '' for unpooled maps.
        mixers: for each stage, what makes a block's mixer from the channel count (and `device`, `dtype`).
        depths: blocks a stage.
        dim: channels of the first stage, doubled at each of the next.
        mlp_ratio: hidden channels of the MLPs over those of the stage.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks; the published rates are in `configs/`.

    Raises:
        ValueError: `mixers` and `depths` are of different lengths.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        mixers: Sequence[Callable[..., nn.Module]],
        depths: Sequence[int],
        dim: int,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if len(mixers) != len(depths):
            raise ValueError(f"there are mixers for {len(mixers)} stages, but depths={tuple(depths)}; give one a stage")
        factory = {"device": device, "dtype": dtype}
        dims = [dim * 2**i for i in range(len(depths))]
        super().__init__(in_chans=in_chans, num_classes=num_classes, dims=dims)
        drop_path_rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        self.patch_embed = ResidualConvStem(in_chans, dim, **factory)
        self.layers = nn.ModuleList()
        for width, next_width, mixer, rates in zip(dims, [*dims[1:], None], mixers, drop_path_rates, strict=True):
            blocks = [
                ConditionalPositionBlock(width, mixer(width, **factory), mlp_ratio=mlp_ratio, drop_path=rate, **factory)
                for rate in rates
            ]
            downsample = InvertedBottleneckDownsample(width, next_width, **factory) if next_width else None
            self.layers.append(Stage(blocks, downsample))
        self.head = NormClassifierHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **factory)
        self.apply(init_linear_)


HEAD_RENAMES: tuple[Rename, ...] = ((r"^norm\.", "head.norm."), (r"^head\.(weight|bias)$", r"head.fc.\1"))
