"""The convolutional decoder of UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504), made of MONAI's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from visionssm.extras import needs_extra


class UnetrDecoder(nn.Module):
    """Residual blocks on maps of falling resolution, then upwards: transposed convolution, skip, residual block.

    Instance norms have no parameters. Needs MONAI.

    Args:
        spatial_dims: 2 or 3.
        in_widths: channels of the maps, of the image at first; each has half the sides of the one before.
        widths: channels to which the blocks bring them.
        bottom: channels of a still deeper map that goes upwards as it is; None if the last of `widths` does.

    Raises:
        MissingExtraError: (an ImportError) MONAI is not installed.
    """

    def __init__(
        self, spatial_dims: int, in_widths: Sequence[int], widths: Sequence[int], bottom: int | None = None
    ) -> None:
        super().__init__()
        with needs_extra("medical", "The decoder of UNETR"):
            from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock

        def block(width: int, out_width: int) -> nn.Module:
            return UnetrBasicBlock(spatial_dims, width, out_width, **options, stride=1)

        options: dict[str, Any] = {"kernel_size": 3, "norm_name": "instance", "res_block": True}
        self.blocks = nn.ModuleList(block(width, out) for width, out in zip(in_widths, widths, strict=True))
        upwards = [*widths, *([] if bottom is None else [bottom])][::-1]
        self.ups = nn.ModuleList(
            UnetrUpBlock(spatial_dims, width, out, upsample_kernel_size=2, **options)
            for width, out in pairwise(upwards)
        )
        self.last = block(widths[0], widths[0])

    def forward(self, maps: Sequence[Tensor], bottom: Tensor | None = None) -> list[Tensor]:
        """(B, in_width, *sides) maps, the finest first, to those of every step upwards, the coarsest first.

        The last two have the image's sides.
        """
        skips = [block(x) for block, x in zip(self.blocks, maps, strict=True)]
        x = skips.pop() if bottom is None else bottom
        out = []
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip)
            out.append(x)
        return [*out, self.last(x)]
