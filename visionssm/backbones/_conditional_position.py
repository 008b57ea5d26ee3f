"""The network that VSSD and Spatial-Mamba share; the families differ in the mixers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from visionssm.backbones._keys import Rename
from visionssm.backbones._stages import StagedBackbone, doubled
from visionssm.layers import ConditionalPositionBlock, InvertedBottleneckDownsample, ResidualConvStem


class ConditionalPositionBackbone(StagedBackbone):
    """Convolutional stem, stages of conditional-position blocks, any input size.

    Args:
        mixers: for each stage, what makes a block's mixer from the channel count (and `device`, `dtype`).
        depths: blocks per stage.
        dim: channels of the first stage, doubled at each of the next.
        mlp_ratio: hidden channels of the MLPs over those of the stage.
        options: the others of `StagedBackbone`.

    Raises:
        ValueError: `mixers` and `depths` are of different lengths.
    """

    def __init__(
        self,
        *,
        mixers: Sequence[Callable[..., nn.Module]],
        depths: Sequence[int],
        dim: int,
        mlp_ratio: float = 4.0,
        **options: Any,
    ) -> None:
        if len(mixers) != len(depths):
            raise ValueError(
                f"there are mixers for {len(mixers)} stages, but depths={tuple(depths)}; give one per stage"
            )
        super().__init__(
            stem=ResidualConvStem,
            dims=doubled(dim, len(depths)),
            depths=depths,
            blocks=[partial(_block, make_mixer=mixer, mlp_ratio=mlp_ratio) for mixer in mixers],
            downsample=InvertedBottleneckDownsample,
            **options,
        )


def _block(
    dim: int, *, make_mixer: Callable[..., nn.Module], mlp_ratio: float, drop_path: float, **factory: Any
) -> nn.Module:
    mixer = make_mixer(dim, **factory)
    return ConditionalPositionBlock(dim, mixer, mlp_ratio=mlp_ratio, drop_path=drop_path, **factory)


HEAD_RENAMES: tuple[Rename, ...] = ((r"^norm\.", "head.norm."), (r"^head\.(weight|bias)$", r"head.fc.\1"))
