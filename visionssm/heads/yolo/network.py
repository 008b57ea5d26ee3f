"""Mamba-YOLO (Wang et al. 2024, arXiv 2406.05835): a backbone of ODSS blocks, a neck of XSS blocks, and a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.backbones.mambayolo import CHECKPOINT_KEYS, ConvNorm, GatedGeluSS2D, MambaYoloBackbone, ScanBlock
from visionssm.heads.yolo.head import REG_MAX, STRIDES, DetectionHead, decode
from visionssm.heads.yolo.keys import checkpoint_filter_fn
from visionssm.layers.padding import padded_to_multiples

PADDING = 114 / 255
"""Grey of the pixels that fill an image up, as in training."""

POOL = 5
"""Side of the windows of the pooling pyramid."""


class SpatialPyramidPooling(nn.Module):
    """1×1 convolution to half the channels, three max poolings one after the other, all four maps side by side, 1×1."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.cv1 = ConvNorm(dim, dim // 2, **factory)
        self.cv2 = ConvNorm(dim // 2 * 4, dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        maps = [self.cv1(x).permute(0, 3, 1, 2)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], POOL, stride=1, padding=POOL // 2))
        return self.cv2(torch.cat(maps, dim=1).permute(0, 2, 3, 1))


class XSSBlock(ScanBlock):
    """The neck's block: mixers one after the other in one residual branch.

    Args:
        in_dim: channels in; where they are not `dim`, a 1×1 convolution without bias comes first.
        dim: C, channels out.
        depth: mixers.
    """

    def __init__(self, in_dim: int, dim: int, depth: int, **factory: Any) -> None:
        super().__init__(
            dim,
            proj=ConvNorm(in_dim, dim, **factory) if in_dim != dim else nn.Identity(),
            op=nn.Sequential(*(GatedGeluSS2D(dim, **factory) for _ in range(depth))),
            **factory,
        )


class PathAggregation(nn.Module):
    """Pooling pyramid on the coarsest map, then down the pyramid to the finest map, and up again (arXiv 1803.01534).

    Args:
        dims: channels of the three levels, at strides 8, 16 and 32.
        depth: mixers per block.
    """

    def __init__(self, dims: Sequence[int], depth: int, **factory: Any) -> None:
        super().__init__()
        fine, middle, coarse = dims
        self.pool = SpatialPyramidPooling(coarse, **factory)
        self.top_down = nn.ModuleList(
            [XSSBlock(coarse + middle, middle, depth, **factory), XSSBlock(middle + fine, fine, depth, **factory)]
        )
        self.downsample = nn.ModuleList(
            [ConvNorm(fine, fine, 3, 2, **factory), ConvNorm(middle, middle, 3, 2, **factory)]
        )
        self.bottom_up = nn.ModuleList(
            [XSSBlock(fine + middle, middle, depth, **factory), XSSBlock(middle + coarse, coarse, depth, **factory)]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Three (B, H, W, C) maps, each of half the size of the one before, to the same shapes."""
        fine, middle, coarse = maps
        coarse = self.pool(coarse)
        middle = self.top_down[0](torch.cat([_doubled(coarse), middle], dim=-1))
        fine = self.top_down[1](torch.cat([_doubled(middle), fine], dim=-1))
        middle = self.bottom_up[0](torch.cat([self.downsample[0](fine), middle], dim=-1))
        coarse = self.bottom_up[1](torch.cat([self.downsample[1](middle), coarse], dim=-1))
        return [fine, middle, coarse]


def _doubled(x: Tensor) -> Tensor:
    """(B, H, W, C) with every pixel four times: (B, 2H, 2W, C)."""
    return F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest").permute(0, 2, 3, 1)


class MambaYolo(nn.Module):
    """Mamba-YOLO: images to logits at all points of three levels, which `decode` turns into boxes and scores.

    Args:
        num_classes: K, without a background.
        dims: channels of the backbone's stages, at strides 4, 8, 16 and 32.
        depths: blocks of the stages.
        neck_depth: mixers in each of the neck's blocks.
        in_chans: image channels.

    Attributes:
        strides: pixels from one point to the next, by level.
        reg_max: bins of the distribution of a distance.

    Raises:
        ValueError: a number is no whole one or out of range.

    Examples:
        >>> import torch
        >>> from visionssm.heads.yolo import create_yolo
        >>> model = create_yolo("mambayolo_nano", num_classes=3).eval()
        >>> [tuple(level.shape) for level in model(torch.rand(1, 3, 64, 96))]
        [(1, 67, 8, 12), (1, 67, 4, 6), (1, 67, 2, 3)]
        >>> boxes, scores = model.predict(torch.rand(1, 3, 50, 75))
        >>> boxes.shape, scores.shape
        (torch.Size([1, 126, 4]), torch.Size([1, 126, 3]))
    """

    strides: ClassVar[tuple[int, ...]] = STRIDES
    reg_max: ClassVar[int] = REG_MAX
    checkpoint_filter_fn = staticmethod(checkpoint_filter_fn)
    checkpoint_keys: ClassVar[tuple[str, ...]] = CHECKPOINT_KEYS

    def __init__(
        self,
        num_classes: int = 80,
        *,
        dims: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (1, 1, 3, 1),
        neck_depth: int = 1,
        in_chans: int = 3,
        **factory: Any,
    ) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("neck_depth", neck_depth), ("in_chans", in_chans)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
        if len(dims) != 4 or len(depths) != 4:
            raise ValueError(f"dims={tuple(dims)} and depths={tuple(depths)} must be four numbers each, one per stage")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.backbone = MambaYoloBackbone(dims=dims, depths=depths, num_classes=0, in_chans=in_chans, **factory)
        self.neck = PathAggregation(dims[1:], neck_depth, **factory)
        self.head = DetectionHead(dims[1:], num_classes, **factory)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) images in [0, 1], sides multiples of 32, to (B, 64 + K, H/8, W/8), …/16 and …/32 logits.

        Raises:
            ValueError: the sides are no multiples of 32, or the images have another shape.
        """
        stride = self.strides[-1]
        if not torch.compiler.is_compiling() and images.ndim == 4 and any(side % stride for side in images.shape[2:]):
            height, width = images.shape[2:]
            raise ValueError(
                f"images of {height}x{width} pixels: both sides must be multiples of {stride}. `predict` and `padded` "
                "fill images up to that"
            )
        maps = self.backbone.forward_intermediates(
            images, indices=[1, 2, 3], output_fmt="NHWC", intermediates_only=True
        )
        return self.head(self.neck(maps))

    def padded(self, images: Tensor) -> Tensor:
        """(B, C, H, W) filled up with grey at the right and at the bottom, to sides that are multiples of 32."""
        return padded_to_multiples(images, (self.strides[-1],) * 2, value=PADDING)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores at all points of images of any size, before overlapping ones are left out.

        Args:
            images: (B, C, H, W) in [0, 1].
        Returns:
            (B, N, 4) left, top, right, bottom in pixels, inside the image; (B, N, K) scores in [0, 1].
        """
        boxes, scores = decode(self(self.padded(images)), self.strides)
        height, width = images.shape[2:]
        x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
        return torch.stack([x, y], dim=-1).flatten(2), scores

    def no_weight_decay(self) -> set[str]:
        """Parameters of more than one dimension that the published recipe does not decay."""
        return {"*.dt_projs_bias"}
