"""Swin-UMamba (Liu et al. 2024, arXiv 2402.03302): VMamba's encoder with its ImageNet weights, and two decoders.

`swin_umamba` has UNETR's convolutional decoder, `swin_umamba_d` a smaller one of VMamba's blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.backbones._base import init_linear_
from visionssm.backbones._keys import rename_keys, vmamba_to_ours
from visionssm.backbones._stages import doubled
from visionssm.backbones.vmamba import V0, Generation, VMamba, VMambaBlock
from visionssm.checkpoints import read_checkpoint, unwrap_state_dict
from visionssm.heads.medical.keys import start_from
from visionssm.heads.medical.registry import Published, register_segmenter
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.heads.medical.unetr import UnetrDecoder
from visionssm.heads.medical.vmunet import PatchExpanding
from visionssm.layers import GatedSS2D, MapConv2d, PatchMerging
from visionssm.layers.stem import image_to_map

SLOPE = 0.01
SCAN: dict[str, Any] = {"ssm_ratio": 2.0, "d_state": 16}
_STEM_STRIDE = 2


class _HalfStem(nn.Sequential):
    """2×2 patches, then LayerNorm; slots are numbered as in `PatchStem`."""

    def __init__(self, in_chans: int, dim: int, **factory: Any) -> None:
        super().__init__()
        self.add_module("0", MapConv2d(in_chans, dim, kernel_size=2, stride=2, **factory))
        self.add_module("2", nn.LayerNorm(dim, **factory))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H/2, W/2, dim)."""
        return super().forward(image_to_map(x))


HALF_STEM = Generation(stem=_HalfStem, mixer=GatedSS2D, downsample=PatchMerging, conv_bias=True, mlp_ratio=0.0)


class SwinUMambaBase(Segmenter):
    """The encoder of both networks, which may start from VMamba-T's weights.

    Args:
        num_classes, in_chans: see `Segmenter`.
        encoder_chans: channels of what the encoder gets.
        generation: its kinds of modules.
        dim: channels of its first stage, doubled at each of the next.
        depths: its blocks.
        drop_path_rate: of its last block; the others have less.
        deep_supervision: while training, return the logits of several resolutions.
        stride: of the deepest map.
    """

    kept_stem: tuple[str, ...] = ()
    """Parameters of the encoder's stem that are not taken from VMamba's."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_chans: int,
        encoder_chans: int,
        generation: Generation,
        dim: int,
        depths: Sequence[int],
        drop_path_rate: float,
        deep_supervision: bool,
    ) -> None:
        if len(depths) != 4 or min(depths) < 1:
            raise ValueError(f"depths={tuple(depths)} must be four positive numbers, one per stage")
        super().__init__(num_classes=num_classes, in_chans=in_chans, stride=(32, 32))
        self.deep_supervision = deep_supervision
        self.encoder = VMamba(
            in_chans=encoder_chans,
            num_classes=0,
            generation=generation,
            dim=dim,
            depths=depths,
            drop_path_rate=drop_path_rate,
            **SCAN,
        )
        self.encoder.prune_intermediate_layers(len(depths), prune_norm=True)

    def stem_map(self, x: Tensor) -> Tensor:
        """What the encoder gets of an image."""
        return x

    def encoded(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), sides multiples of `stride`, to the maps of the encoder's stages, the finest first."""
        return [level.permute(0, 3, 1, 2) for level in self.stages(self.stem_map(x))]

    def stages(self, x: Tensor) -> list[Tensor]:
        """The encoder's maps, (B, H', W', C'), the finest first."""
        maps = self.encoder.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
        assert isinstance(maps, list)
        return maps

    def load_encoder(self, source: str | Path | Mapping[str, Any]) -> None:
        """Start from ImageNet weights of VMamba's first generation: in the authors' recipe VMamba-T.

        Args:
            source: a file with the authors' names or with ours; or what was read from it.
        Raises:
            CheckpointError: it is of another network, or a needed weight is missing.
        """
        raw = unwrap_state_dict(source if isinstance(source, Mapping) else read_checkpoint(source))
        left_out = frozenset(self.kept_stem)
        state = {
            name: value
            for name, value in vmamba_to_ours(raw, self.encoder).items()
            if name not in left_out and not name.startswith("head.")
        }
        start_from(self.encoder, state, left_out, "with the same depths (vmamba_v0_tiny)")


class SwinUMamba(SwinUMambaBase):
    """Swin-UMamba with UNETR's decoder, for images of any size.

    Args:
        num_classes, in_chans: see `Segmenter`.
        dim: channels of the encoder's first stage, doubled at each of the next; an even number.
        depths: blocks of the encoder's stages.
        drop_path_rate: of its last block; the others have less.
        deep_supervision: while training, return the logits of full, half, quarter and eighth resolution.

    Raises:
        ValueError: a number is out of range.
        MissingExtraError: (an ImportError) MONAI is not installed.
    """

    kept_stem = ("patch_embed.0.weight", "patch_embed.0.bias", "patch_embed.2.weight")
    """The authors' start takes VMamba's shift of this norm, and nothing else of its stem."""

    def __init__(
        self,
        *,
        num_classes: int = 14,
        in_chans: int = 1,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 9, 2),
        drop_path_rate: float = 0.2,
        deep_supervision: bool = True,
    ) -> None:
        width = dim // 2
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            encoder_chans=width,
            generation=HALF_STEM,
            dim=dim,
            depths=depths,
            drop_path_rate=drop_path_rate,
            deep_supervision=deep_supervision,
        )
        self.stem = nn.Conv2d(in_chans, width, 7, stride=2, padding=3)
        self.stem_norm = nn.InstanceNorm2d(width, affine=True)
        widths = doubled(dim, 4)
        self.decoder = UnetrDecoder(
            2, [in_chans, width, *widths[:-1]], [width, *widths[:-1], widths[-1]], bottom=widths[-1]
        )
        self.out_layers = nn.ModuleList(nn.Conv2d(w, num_classes, 1) for w in (width, *widths[:3]))

    def stem_map(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, dim/2, H/2, W/2)."""
        half: Tensor = self.stem_norm(self.stem(x))
        return half

    def logits(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, H, W), sides multiples of `stride`, to logits; while training, of four resolutions."""
        half = self.stem_map(x)
        *fine, deepest = [level.permute(0, 3, 1, 2) for level in self.stages(half)]
        _, eighth, quarter, of_half, _, full = self.decoder([x, half, *fine], deepest)
        if not (self.deep_supervision and self.training):
            return self.out_layers[0](full)
        return [head(y) for head, y in zip(self.out_layers, (full, of_half, quarter, eighth), strict=True)]


class ScanDecoder(nn.Module):
    """From the deepest map upwards: patch expanding, the encoder's map beside it, a linear layer, VMamba's blocks."""

    def __init__(self, num_classes: int, dim: int, depth: int, drop_path_rate: float) -> None:
        super().__init__()
        widths = doubled(dim, 4)[::-1]
        rates = iter(torch.linspace(drop_path_rate, 0, 3 * depth, device="cpu").tolist())
        self.expand_layers, self.concat_back_dim = nn.ModuleList(), nn.ModuleList()
        self.stages = nn.ModuleList()
        for width, out in pairwise(widths):
            self.expand_layers.append(PatchExpanding(width, factor=2, growth=2))
            self.concat_back_dim.append(nn.Linear(2 * out, out))
            blocks = [VMambaBlock(out, V0, drop_path=next(rates), **SCAN) for _ in range(depth)]
            self.stages.append(nn.Sequential(*blocks))
        self.expand_layers.append(PatchExpanding(dim, factor=4, growth=16))
        self.seg_layers = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in (*widths[1:], dim))

    def forward(self, maps: Sequence[Tensor], every: bool) -> list[Tensor]:
        """The encoder's maps, the finest first, to logits, the finest first; that one alone if not `every`."""
        *skips, x = maps
        levels = []
        for expand, merge, blocks, skip in zip(self.expand_layers, self.concat_back_dim, self.stages, reversed(skips)):
            x = blocks(merge(torch.cat([expand(x), skip], dim=-1)))
            levels.append(x)
        levels.append(self.expand_layers[-1](x))
        heads = list(zip(self.seg_layers, levels, strict=True))
        return [head(level.permute(0, 3, 1, 2)) for head, level in reversed(heads if every else heads[-1:])]


class SwinUMambaD(SwinUMambaBase):
    """Swin-UMamba with a decoder of VMamba's blocks, for images of any size.

    Args:
        num_classes, in_chans: see `Segmenter`.
        dim: channels of the encoder's first stage, doubled at each of the next.
        depths: blocks of the encoder's stages.
        decoder_depth: blocks of each of the decoder's three stages.
        drop_path_rate: of the encoder's last block and the decoder's first; the others have less.
        deep_supervision: while training, return the logits of full, quarter, eighth and sixteenth resolution.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int = 14,
        in_chans: int = 1,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 9, 2),
        decoder_depth: int = 2,
        drop_path_rate: float = 0.2,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            in_chans=in_chans,
            encoder_chans=in_chans,
            generation=V0,
            dim=dim,
            depths=depths,
            drop_path_rate=drop_path_rate,
            deep_supervision=deep_supervision,
        )
        if in_chans != 3:
            self.kept_stem = tuple(name for name in self.encoder.state_dict() if name.startswith("patch_embed."))
        self.decoder = ScanDecoder(num_classes, dim, decoder_depth, drop_path_rate)
        self.decoder.apply(init_linear_)
        self.apply(_init_convolution)

    def logits(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, H, W), sides multiples of `stride`, to logits; while training, of four resolutions."""
        every = self.deep_supervision and self.training
        levels = self.decoder(self.stages(x), every)
        return levels if every else levels[0]


def _init_convolution(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RENAMES = (
    (r"^vssm_encoder\.", "encoder."),
    (r"^encoder\.downsamples\.(\d)\.", r"encoder.layers.\1.downsample."),
    (r"^encoder\.patch_embed\.proj\.", "encoder.patch_embed.0."),
    (r"^encoder\.patch_embed\.norm\.", "encoder.patch_embed.2."),
    (r"\.ln_1\.", ".norm."),
    (r"\.self_attention\.", ".op."),
    # Of the convolutional decoder
    (r"^stem\.0\.", "stem."),
    (r"^stem\.1\.", "stem_norm."),
    (r"^encoder(\d)\.", lambda found: f"decoder.blocks.{int(found[1]) - 1}."),
    (r"^decoder1\.", "decoder.last."),
    (r"^decoder(\d)\.", lambda found: f"decoder.ups.{6 - int(found[1])}."),
    (r"^out_layers\.(\d)\.conv\.conv\.", r"out_layers.\1."),
    # Of the other one
    (r"^decoder\.stages\.(\d)\.blocks\.", r"decoder.stages.\1."),
)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' keys to ours."""
    return rename_keys(state_dict, _RENAMES)


_PAPER = "2402.03302"
_VMAMBA_TINY = "https://github.com/MzeroMiko/VMamba/releases/download/%2320240218/vssmtiny_dp01_ckpt_epoch_292.pth"
_CONVOLUTIONAL = {
    "abdomen MR DSC": 77.60,
    "abdomen MR NSD": 84.21,
    "endoscopy DSC": 67.67,
    "endoscopy NSD": 69.22,
    "microscopy F1": 58.06,
}
_SCANNED = {
    "abdomen MR DSC": 77.05,
    "abdomen MR NSD": 83.76,
    "endoscopy DSC": 67.83,
    "endoscopy NSD": 69.33,
    "microscopy F1": 59.82,
}


@register_segmenter(Published(paper=_PAPER, parameters=59_889_368, scores=_CONVOLUTIONAL, encoder_url=_VMAMBA_TINY))
def swin_umamba(num_classes: int = 14, in_chans: int = 1, **changes: Any) -> SwinUMamba:
    """Swin-UMamba, by default for slices of abdominal MR (AMOS22)."""
    return SwinUMamba(num_classes=num_classes, in_chans=in_chans, **changes)


@register_segmenter(Published(paper=_PAPER, parameters=27_497_720, scores=_SCANNED, encoder_url=_VMAMBA_TINY))
def swin_umamba_d(num_classes: int = 14, in_chans: int = 1, **changes: Any) -> SwinUMambaD:
    """Swin-UMamba with a decoder of scans, by default for slices of abdominal MR (AMOS22)."""
    return SwinUMambaD(num_classes=num_classes, in_chans=in_chans, **changes)


_NANO: dict[str, Any] = {"dim": 16, "depths": (1, 1, 1, 1), "drop_path_rate": 0.0}


@register_segmenter()
def swinumamba_nano(num_classes: int = 4, in_chans: int = 1, **changes: Any) -> SwinUMamba:
    """A fortieth of the parameters, for tests and small data sets."""
    return SwinUMamba(num_classes=num_classes, in_chans=in_chans, **{**_NANO, **changes})


@register_segmenter()
def swinumamba_d_nano(num_classes: int = 4, in_chans: int = 1, **changes: Any) -> SwinUMambaD:
    """A fortieth of the parameters, for tests and small data sets."""
    return SwinUMambaD(num_classes=num_classes, in_chans=in_chans, **{**_NANO, "decoder_depth": 1, **changes})
