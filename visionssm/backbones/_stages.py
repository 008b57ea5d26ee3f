"""The network that six families share: stem, stages of blocks, downsampling between them, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from timm.layers import calculate_drop_path_rates
from torch import nn

from visionssm.backbones._base import HierarchicalBackbone, Stage, init_linear_
from visionssm.layers import NormClassifierHead


class StagedBackbone(HierarchicalBackbone):
    """Classifier and feature extractor of stages, any input size.

    Modules are made by callables, which also get `device` and `dtype`.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: timm's pooling name, '' for unpooled maps.
        stem: makes the image's first map from `in_chans` and the channels of the first stage.
        dims: channels per stage.
        depths: blocks per stage.
        blocks: for each stage, what makes a block from the channels and `drop_path`, its stochastic depth.
        downsample: makes the step to the next stage from the channels of both.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks; the published rates are in `configs/`.

    Raises:
        ValueError: `dims`, `depths` and `blocks` are not for the same number of stages.
    """

    head_type: ClassVar[Callable[..., NormClassifierHead]] = NormClassifierHead

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        stem: Callable[..., nn.Module],
        dims: Sequence[int],
        depths: Sequence[int],
        blocks: Sequence[Callable[..., nn.Module]],
        downsample: Callable[..., nn.Module],
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not len(dims) == len(depths) == len(blocks):
            raise ValueError(
                f"depths={tuple(depths)}, dims={tuple(dims)} and {len(blocks)} kinds of blocks: one per stage"
            )
        factory = {"device": device, "dtype": dtype}
        super().__init__(in_chans=in_chans, num_classes=num_classes, dims=dims)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        self.patch_embed = stem(in_chans, dims[0], **factory)
        self.layers = nn.ModuleList()
        for dim, next_dim, block, stage_rates in zip(dims, [*dims[1:], None], blocks, rates, strict=True):
            stage = [block(dim, drop_path=rate, **factory) for rate in stage_rates]
            self.layers.append(Stage(stage, downsample(dim, next_dim, **factory) if next_dim else None))
        self.head = type(self).head_type(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **factory)
        self.apply(self.init_module_)

    @staticmethod
    def init_module_(module: nn.Module) -> None:
        """The published initialisation, where it differs from that of the modules."""
        init_linear_(module)


def doubled(dim: int, stages: int) -> list[int]:
    """Channels of stages that each have twice those of the one before."""
    return [dim * 2**i for i in range(stages)]
