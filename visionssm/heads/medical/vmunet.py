"""VM-UNet (Ruan et al. 2024, arXiv 2402.02491): a U-Net of VMamba's first blocks.

The encoder is VMamba's, whose ImageNet weights it may start from; the decoder mirrors it. Skips are added, before the
resolution is doubled, so that the finest one is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import adapt_input_conv
from torch import Tensor, nn

from visionssm.backbones._base import init_linear_
from visionssm.backbones._keys import rename_keys, vmamba_to_ours
from visionssm.checkpoints import read_checkpoint, unwrap_state_dict
from visionssm.heads.medical.keys import start_from
from visionssm.heads.medical.registry import Published, register_segmenter
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.layers import GatedSS2D, PatchMerging, PatchStem

Mixer = Callable[[int], nn.Module]
"""Channels C to a module from (B, H, W, C) to the same shape."""

_PATCH = 4
_SCANNED = 3
"""Channels of the stem: grey images are repeated to the three of the ImageNet weights."""


class ScanBlock(nn.Module):
    """x + mixer(LN(x))."""

    def __init__(self, dim: int, mixer: Mixer, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = mixer(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return x + self.drop_path(self.op(self.norm(x)))


class PatchExpanding(nn.Module):
    """Linear, `factor`² groups of channels to as many pixels, LayerNorm: the reverse of patch merging.

    The channels of a pixel are the rows of its cell, in them the columns, in them the channels, which is not the order
    of `nn.PixelShuffle`.

    Args:
        dim: channels in; dim·growth/factor² come out.
        factor: of the resolution.
        growth: of the channels in the linear layer.
    """

    def __init__(self, dim: int, *, factor: int, growth: int) -> None:
        super().__init__()
        self.factor = factor
        self.expand = nn.Linear(dim, growth * dim, bias=False)
        self.norm = nn.LayerNorm(growth * dim // factor**2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, factor·H, factor·W, C')."""
        cells = self.expand(x).unflatten(-1, (self.factor, self.factor, -1))  # (B, H, W, factor, factor, C')
        return self.norm(cells.transpose(2, 3).flatten(3, 4).flatten(1, 2))


class EncoderStage(nn.Module):
    """Blocks, then patch merging except after the last stage."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H/2, W/2, 2C); the last stage to the same shape."""
        return self.downsample(self.blocks(x))


class DecoderStage(nn.Module):
    """Patch expanding except before the first stage, then blocks."""

    def __init__(self, blocks: Sequence[nn.Module], upsample: nn.Module | None) -> None:
        super().__init__()
        self.upsample = upsample or nn.Identity()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, 2H, 2W, C/2); the first stage to the same shape."""
        return self.blocks(self.upsample(x))


def _vmamba_mixer(dim: int) -> nn.Module:
    return GatedSS2D(dim, ssm_ratio=2.0, d_state=16, conv_bias=True)


class VMUNet(Segmenter):
    """VM-UNet, any image size.

    Args:
        num_classes, in_chans: see `Segmenter`. With `in_chans=1` the image is repeated to three channels.
        dim: channels of the first stage, doubled at each of the next.
        depths: blocks per stage of the encoder.
        decoder_depths: of the decoder, from the coarsest stage on; as many.
        drop_path_rate: of the last block of the encoder and the first of the decoder; the others have less.
        mixer: what scans in a block, by its channels.
    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1,
        in_chans: int = 3,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        decoder_depths: Sequence[int] = (2, 2, 2, 1),
        drop_path_rate: float = 0.2,
        mixer: Mixer = _vmamba_mixer,
    ) -> None:
        if len(depths) != len(decoder_depths) or min(*depths, *decoder_depths) < 1:
            raise ValueError(
                f"depths={tuple(depths)} and decoder_depths={tuple(decoder_depths)} must have as many numbers, each at"
                " least 1"
            )
        if dim < 4 or dim % 4:
            raise ValueError(f"dim must be a positive multiple of 4, got {dim}")
        n_stages = len(depths)
        super().__init__(num_classes=num_classes, in_chans=in_chans, stride=[_PATCH << (n_stages - 1)] * 2)
        self.dims = [dim << i for i in range(n_stages)]
        self.patch_embed = PatchStem(_SCANNED if in_chans == 1 else in_chans, dim)

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        self.encoder = nn.ModuleList()
        for i, (width, stage_rates) in enumerate(zip(self.dims, rates, strict=True)):
            blocks = [ScanBlock(width, mixer, rate) for rate in stage_rates.tolist()]
            self.encoder.append(EncoderStage(blocks, PatchMerging(width, 2 * width) if i < n_stages - 1 else None))

        rates = torch.linspace(drop_path_rate, 0, sum(decoder_depths), device="cpu").split(list(decoder_depths))
        self.decoder = nn.ModuleList()
        for i, (width, stage_rates) in enumerate(zip(reversed(self.dims), rates, strict=True)):
            blocks = [ScanBlock(width, mixer, rate) for rate in stage_rates.tolist()]
            self.decoder.append(DecoderStage(blocks, PatchExpanding(2 * width, factor=2, growth=2) if i else None))

        self.final_up = PatchExpanding(dim, factor=_PATCH, growth=_PATCH)
        self.final_conv = nn.Conv2d(dim // _PATCH, num_classes, 1)
        self.apply(init_linear_)

    def stages(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), sides multiples of `stride`, to the (B, H', W', D) maps of the stem and of every stage."""
        if self.in_chans == 1:
            x = x.expand(-1, _SCANNED, -1, -1)
        maps = [self.patch_embed(x)]
        for stage in self.encoder:
            maps.append(stage(maps[-1]))
        return maps

    def encoded(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W), sides multiples of `stride`, to the maps of the encoder's stages, the finest first."""
        return [level.permute(0, 3, 1, 2) for level in self.stages(x)[1:]]

    def logits(self, x: Tensor) -> Tensor:
        """(B, C, H, W), sides multiples of `stride`, to (B, num_classes, H, W)."""
        *skips, x = self.stages(x)
        for i, stage in enumerate(self.decoder):
            x = stage(x + skips[-i] if i else x)
        return self.final_conv(self.final_up(x).permute(0, 3, 1, 2))

    def load_encoder(self, source: str | Path | Mapping[str, Any]) -> None:
        """Start from ImageNet weights of VMamba's first generation: in the authors' recipe VMamba-S.

        Blocks of the encoder get the weights of the same-named ones. Those of the decoder get the ones of the encoder's
        stage of their resolution. The rest keeps its values.

        Args:
            source: a file with the authors' names, of older or newer releases, or with ours; or what was read from it.
        Raises:
            CheckpointError: it is of another network, or a needed weight is missing.
        """
        raw = unwrap_state_dict(source if isinstance(source, Mapping) else read_checkpoint(source))
        state = rename_keys(vmamba_to_ours(raw, self), [(r"^layers\.", "encoder.")])
        stem = "patch_embed.0.weight"
        if stem in state and state[stem].ndim == 4 and state[stem].shape[1] == _SCANNED:
            state[stem] = adapt_input_conv(self.patch_embed.get_parameter("0.weight").shape[1], state[stem])
        last = len(self.dims) - 1
        for name in list(state):
            if found := re.fullmatch(r"encoder\.(\d{1,3})\.(blocks\..+)", name):
                state[f"decoder.{last - int(found[1])}.{found[2]}"] = state[name]

        wanted = set(self.state_dict())
        started = {name: value for name, value in state.items() if name in wanted}
        kept = frozenset(
            name for name in wanted if name.startswith("final_") or ".upsample." in name
        )  # which no classifier has
        start_from(self, started, kept, "(vmamba_v0_small) with at least as many blocks")


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' keys to ours."""
    state = {name.removeprefix("vmunet."): value for name, value in state_dict.items()}
    if any(re.match(r"layers_up\.", name) for name in state):
        state = vmamba_to_ours(state, model)
    return rename_keys(state, [(r"^layers\.", "encoder."), (r"^layers_up\.", "decoder.")])


_PAPER = "2402.02491"
_VMAMBA_SMALL = "https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth"
_ISIC = {"ISIC17 mIoU": 80.23, "ISIC17 DSC": 89.03, "ISIC18 mIoU": 81.35, "ISIC18 DSC": 89.71}
_SYNAPSE = {"Synapse DSC": 81.08, "Synapse HD95": 19.21}


@register_segmenter(Published(paper=_PAPER, parameters=27_427_561, scores=_ISIC, encoder_url=_VMAMBA_SMALL))
def vmunet_isic(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> VMUNet:
    """VM-UNet for skin lesions (ISIC17, ISIC18)."""
    return VMUNet(num_classes=num_classes, in_chans=in_chans, **changes)


@register_segmenter(Published(paper=_PAPER, parameters=27_427_761, scores=_SYNAPSE, encoder_url=_VMAMBA_SMALL))
def vmunet_synapse(num_classes: int = 9, in_chans: int = 1, **changes: Any) -> VMUNet:
    """VM-UNet for slices of abdominal CT (Synapse)."""
    return VMUNet(num_classes=num_classes, in_chans=in_chans, **changes)


@register_segmenter(Published(paper=_PAPER, parameters=44_273_833, encoder_url=_VMAMBA_SMALL))
def vmunet_default(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> VMUNet:
    """VM-UNet with the depths that its constructor has as default."""
    depths: dict[str, Any] = {"depths": (2, 2, 9, 2), "decoder_depths": (2, 9, 2, 2)}
    return VMUNet(num_classes=num_classes, in_chans=in_chans, **{**depths, **changes})


NANO: Mapping[str, Any] = {
    "dim": 24,
    "depths": (1, 1, 1, 1),
    "decoder_depths": (1, 1, 1, 1),
    "drop_path_rate": 0.0,
}
"""The shape of small networks, for tests and small data sets."""


@register_segmenter()
def vmunet_nano(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> VMUNet:
    """A twentieth of the parameters, for tests and small data sets."""
    return VMUNet(num_classes=num_classes, in_chans=in_chans, **{**NANO, **changes})
