"""U-Mamba (Ma, Li & Wang 2024, arXiv 2401.04722): nnU-Net's residual U-Net with Mamba in its encoder.

`bot` has one Mamba layer at the deepest map, `enc` after every stage (3-D) or every second one (2-D). A map is scanned
as one sequence, row by row from the first slice to the last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visionssm.data.arguments import checked
from visionssm.heads.medical.plan import Axes, Plan
from visionssm.heads.medical.registry import Published, register_segmenter
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.kernels.instance_norm import instance_norm_leaky, runs_fused
from visionssm.kernels.transforms import traced, transformed
from visionssm.layers.linear import plain
from visionssm.layers.mamba import Mamba, convert_mamba_key
from visionssm.layers.memory_format import channels_last_of_any
from visionssm.layers.saved import made_again

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
SLOPE = 0.01


class ResidualBlock(nn.Module):
    """Two convolutions with instance norms and leaky ReLUs; with `shortcut`, a 1×1 convolution beside them.

    Args:
        width: channels in.
        out_width: channels out.
        kernel: odd sides.
        stride: step of the first convolution and of the shortcut.
        shortcut: whether the input is projected before it is added; without it the widths must be equal and the
            stride 1.
    """

    def __init__(self, width: int, out_width: int, kernel: Axes, stride: Axes, *, shortcut: bool) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[len(kernel)], NORMS[len(kernel)]
        padding: Any = tuple(side // 2 for side in kernel)
        sides: Any = kernel
        steps: Any = stride
        self.conv1 = convolution(width, out_width, sides, steps, padding)
        self.norm1 = norm(out_width, affine=True)
        self.conv2 = convolution(out_width, out_width, sides, padding=padding)
        self.norm2 = norm(out_width, affine=True)
        self.conv3 = convolution(width, out_width, 1, steps) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, *sides) to (B, out_width, *sides/stride)."""
        y = self.conv1(x)
        if fused := plain(self.norm1, NORMS[x.ndim - 2]) and runs_fused(y, self.norm1.weight):
            y = channels_last_of_any(y)
        kind = CONVOLUTIONS[x.ndim - 2]
        inner = _normed(self.norm1, y, overwrite=plain(self.conv1, kind))
        again = partial(_normed, self.norm1, y)
        with made_again(inner, again, reads=(y, *self.norm1.parameters())) if fused else nullcontext():
            z = self.conv2(inner)
        del y, inner, again
        return _normed(self.norm2, z, x if self.conv3 is None else self.conv3(x), overwrite=plain(self.conv2, kind))


def _normed(
    norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor, added: Tensor | None = None, *, overwrite: bool = False
) -> Tensor:
    """LeakyReLU(norm(x) + added); for `overwrite` see `instance_norm_leaky`."""
    if plain(norm, NORMS[x.ndim - 2]):
        return instance_norm_leaky(x, norm.weight, norm.bias, added, slope=SLOPE, eps=norm.eps, overwrite=overwrite)
    y: Tensor = norm(x)
    return F.leaky_relu(y if added is None else y + added, SLOPE)


def blocks(n: int, width: int, out_width: int, kernel: Axes, stride: Axes) -> nn.Sequential:
    """A block from one width to the other, and n − 1 at the new one."""
    same = (1,) * len(kernel)
    return nn.Sequential(
        ResidualBlock(width, out_width, kernel, stride, shortcut=True),
        *(ResidualBlock(out_width, out_width, kernel, same, shortcut=False) for _ in range(n - 1)),
    )


class MambaLayer(nn.Module):
    """LayerNorm and Mamba over the pixels of a map, which the result replaces.

    Under autocast to float16 it computes in float32, where the gated products of long sequences overflow otherwise.

    Args:
        dim: channels; with `of_channels` pixels of the map.
        of_channels: take the channels as tokens, and the pixels as their features.
    """

    def __init__(self, dim: int, *, of_channels: bool) -> None:
        super().__init__()
        self.of_channels = of_channels
        self.norm = nn.LayerNorm(dim)
        self.mamba = Mamba(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *sides) to the same shape."""
        # What is kept of long sequences would be as much as of all convolutions, and costs little to compute again.
        if self.training and torch.is_grad_enabled() and not traced((x,)) and not transformed():
            y: Tensor = checkpoint(self._precise, x, use_reentrant=False, preserve_rng_state=False)
            return y
        return self._precise(x)

    def _precise(self, x: Tensor) -> Tensor:
        kind = x.device.type
        # Tensors without data have no autocast, and asking for it raises.
        if kind != "meta" and torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16:
            with torch.autocast(kind, enabled=False):
                return self._mixed(x.float())
        return self._mixed(x)

    def _mixed(self, x: Tensor) -> Tensor:
        if self.of_channels:
            y: Tensor = self.mamba(self.norm(x.flatten(2)))
            return y.unflatten(2, x.shape[2:])
        tokens = self.mamba(self.norm(x.flatten(2).transpose(1, 2)))
        # Of a single image tokens may have any stride from image to image. The next convolution would then not see that
        # the map is channels-last, and copy it: here the stride is computed anew.
        return tokens.flatten(0, 1).unflatten(0, (x.shape[0], *x.shape[2:])).movedim(-1, 1)


class Encoder(nn.Module):
    """Stem and stages of residual blocks, each followed by a Mamba layer where there is one."""

    def __init__(self, in_chans: int, plan: Plan, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        counts = encoder_blocks(plan)
        widths, kernels, strides = plan.widths, plan.kernels, plan.strides
        self.stem = blocks(counts[0], in_chans, widths[0], kernels[0], strides[0])
        self.stages = nn.ModuleList(
            blocks(n, before, width, kernel, stride)
            for n, before, width, kernel, stride in zip(counts, (widths[0], *widths), widths, kernels, strides)
        )
        self.mamba_layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, *sides) to the maps of the stages, the finest first."""
        x = self.stem(x)
        maps = []
        for stage, layer in zip(self.stages, self.mamba_layers):
            x = layer(stage(x))
            maps.append(x)
        return maps


class UpsampleConv(nn.Module):
    """1×1 convolution, then every pixel repeated: equal to the published other order, and as much cheaper."""

    def __init__(self, width: int, out_width: int, stride: Axes) -> None:
        super().__init__()
        self.scale = [float(step) for step in stride]
        self.conv = CONVOLUTIONS[len(stride)](width, out_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, *sides) to (B, out_width, *stride·sides)."""
        return F.interpolate(self.conv(x), scale_factor=self.scale, mode="nearest")


def _joined(enlarge: nn.Module, x: Tensor, skip: Tensor | None) -> Tensor:
    """The enlarged map, and the encoder's beside it if it is used."""
    x = enlarge(x)
    return x if skip is None else torch.cat([x, skip], dim=1)


class Decoder(nn.Module):
    """From the deepest map upwards: enlarge, put the encoder's map beside it, residual blocks, and a head each.

    The finest stage of 2-D networks does without the encoder's map, as published.
    """

    def __init__(self, num_classes: int, plan: Plan) -> None:
        super().__init__()
        self.upsample_layers, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.uses_skip: list[bool] = []
        for n, level in zip(decoder_blocks(plan), reversed(range(len(plan.widths) - 1))):
            width, kernel = plan.widths[level], plan.kernels[level]
            uses_skip = level > 0 or plan.spatial_dims == 3
            self.uses_skip.append(uses_skip)
            self.upsample_layers.append(UpsampleConv(plan.widths[level + 1], width, plan.strides[level + 1]))
            self.stages.append(blocks(n, width * (1 + uses_skip), width, kernel, (1,) * plan.spatial_dims))
            self.seg_layers.append(CONVOLUTIONS[plan.spatial_dims](width, num_classes, 1))

    def forward(self, maps: Sequence[Tensor], every: bool) -> list[Tensor]:
        """The encoder's maps, the finest first, to logits, the finest first; that one alone if not `every`."""
        x = maps[-1]
        logits = []
        parts = zip(self.upsample_layers, self.stages, self.seg_layers, self.uses_skip, reversed(maps[:-1]))
        for level, (enlarge, stage, head, uses_skip, skip) in enumerate(parts):
            join = partial(_joined, enlarge, x, skip if uses_skip else None)
            joined = join()
            with made_again(joined, join, reads=(x, *([skip] if uses_skip else []), *enlarge.parameters())):
                x = stage(joined)
            del joined
            if every or level == len(self.stages) - 1:
                logits.append(head(x))
        return logits[::-1]


class UMamba(Segmenter):
    """U-Mamba for images or volumes, as a plan says.

    Args:
        in_chans: channels of an image.
        num_classes: classes, the background among them.
        plan: patch, widths, strides and kernels; a `Plan`, or its arguments in a dictionary.
        mamba: "bot" for one Mamba layer at the deepest map, "enc" for those in the encoder. Stages of "enc" whose
            planned map has no more pixels than channels take the channels as tokens; such a network takes images of
            the planned patch only.
        deep_supervision: while training, return the logits of every decoder stage.

    Raises:
        ValueError: the plan does not fit together or has unknown entries, or an image is not of the planned patch where
            it must be.

    Examples:
        >>> plan = Plan(patch=(16, 32, 32), widths=(8, 16), strides=(1, 2))
        >>> UMamba(in_chans=1, num_classes=4, plan=plan).eval()(torch.randn(1, 1, 16, 31, 33)).shape
        torch.Size([1, 4, 16, 31, 33])
    """

    least_cells = 2

    def __init__(
        self,
        *,
        in_chans: int,
        num_classes: int,
        plan: Plan | Mapping[str, Any],
        mamba: Literal["bot", "enc"] = "bot",
        deep_supervision: bool = True,
    ) -> None:
        plan = plan if isinstance(plan, Plan) else checked(Plan, "plan", plan, ValueError)
        super().__init__(num_classes=num_classes, in_chans=in_chans, stride=plan.reduction)
        if mamba not in ("bot", "enc"):
            raise ValueError(f"mamba={mamba!r}; choose 'bot' or 'enc'")
        self.plan = plan
        self.deep_supervision = deep_supervision
        self.encoder = Encoder(in_chans, plan, mamba_layers(plan, mamba))
        self.decoder = Decoder(num_classes, plan)
        self.apply(_init_convolution)

    @property
    def only_sides(self) -> Axes | None:
        """The planned patch, if channels are tokens somewhere."""
        fixed = any(isinstance(layer, MambaLayer) and layer.of_channels for layer in self.encoder.mamba_layers)
        return self.plan.patch if fixed else None

    def encoded(self, x: Tensor) -> list[Tensor]:
        """(B, C, *sides), sides multiples of `stride`, to the maps of the encoder's stages, the finest first."""
        maps: list[Tensor] = self.encoder(x)
        return maps

    def logits(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *sides), sides multiples of `stride`, to logits; while training, of every stage, the finest first."""
        every = self.deep_supervision and self.training
        levels = self.decoder(self.encoded(x), every)
        return levels if every else levels[0]

    def _check(self, x: Tensor) -> None:
        super()._check(x)
        if self.only_sides not in (None, tuple(x.shape[2:])):
            raise ValueError(
                f"the image has sides {tuple(x.shape[2:])}, but the network was planned for {self.plan.patch}, and "
                "the pixels of its deepest maps are features (channel tokens); give patches of that size, as a "
                "sliding window does, or make the network with another plan"
            )


def encoder_blocks(plan: Plan) -> Axes:
    """Residual blocks of the encoder's stages: as asked for in the first half, then one."""
    half = math.ceil(len(plan.widths) / 2)
    return (*plan.blocks[:half], *(1 for _ in plan.blocks[half:]))


def decoder_blocks(plan: Plan) -> Axes:
    """Residual blocks of the decoder's stages from the deepest up: as asked for in the first half, then one."""
    half = math.ceil((len(plan.widths) - 1) / 2 + 0.5)
    asked = plan.blocks[:-1]
    return (*asked[:half], *(1 for _ in asked[half:]))


def mamba_layers(plan: Plan, where: str) -> list[nn.Module]:
    """What follows each encoder stage: a Mamba layer, or nothing."""
    last = len(plan.widths) - 1
    layers: list[nn.Module] = []
    for stage, width in enumerate(plan.widths):
        if where == "bot":
            layers.append(MambaLayer(width, of_channels=False) if stage == last else nn.Identity())
        elif plan.spatial_dims == 2 and (last - stage) % 2:
            layers.append(nn.Identity())
        else:
            positions = plan.positions(stage)
            of_channels = positions <= width
            layers.append(MambaLayer(positions if of_channels else width, of_channels=of_channels))
    return layers


def _init_convolution(module: nn.Module) -> None:
    """He's normal distribution for leaky ReLUs and no bias, for all but the 1-D convolutions in Mamba."""
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' keys to ours.

    In their files one tensor has up to four names, since the decoder holds the encoder and a block its layers twice.
    Any one of them is enough; of several the one counts that their own loader would leave in the model, the last.
    """
    out: dict[str, Tensor] = {}
    assert isinstance(model, UMamba)
    last = len(model.plan.widths) - 1
    for name in sorted(state_dict, key=lambda key: (key.startswith("decoder.encoder."), ".all_modules." in key)):
        value = state_dict[name]
        name = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
        name = re.sub(r"\.conv([12])\.(?:conv|all_modules\.0)\.", r".conv\1.", name)
        name = re.sub(r"\.conv([12])\.(?:norm|all_modules\.1)\.", r".norm\1.", name)
        name = re.sub(r"^mamba_layer\.", f"encoder.mamba_layers.{last}.", name)
        name, value = convert_mamba_key(name, value)
        out[name] = value
    return out


_PAPER = "2401.04722"
_3D: dict[str, Any] = {
    "widths": (32, 64, 128, 256, 320, 320),
    "strides": (1, (1, 2, 2), 2, 2, 2, (1, 2, 2)),
    "kernels": ((1, 3, 3), 3, 3, 3, 3, 3),
}
ABDOMEN_CT = Plan(patch=(40, 224, 192), batch_size=2, **_3D)
"""Of FLARE22."""
ABDOMEN_MR = Plan(patch=(48, 160, 224), batch_size=2, **_3D)
"""Of AMOS22's MR volumes."""
_2D: dict[str, Any] = {"widths": (32, 64, 128, 256, 512, 512, 512), "strides": (1, 2, 2, 2, 2, 2, 2)}
ABDOMEN_MR_SLICES = Plan(patch=(320, 320), **_2D)
MICROSCOPY = Plan(patch=(512, 512), widths=(*_2D["widths"], 512), strides=(*_2D["strides"], 2), batch_size=12)
"""Of the NeurIPS 2022 challenge."""


@register_segmenter(Published(paper=_PAPER, scores={"abdomen CT DSC": 86.83}))
def umamba_bot3d(num_classes: int = 14, in_chans: int = 1, **changes: Any) -> UMamba:
    """U-Mamba with one Mamba layer for volumes, by default of abdominal CT (FLARE22)."""
    return UMamba(num_classes=num_classes, in_chans=in_chans, **{"plan": ABDOMEN_CT, "mamba": "bot", **changes})


@register_segmenter(Published(paper=_PAPER, scores={"abdomen MR DSC": 85.01}))
def umamba_enc3d(num_classes: int = 14, in_chans: int = 1, **changes: Any) -> UMamba:
    """U-Mamba with Mamba layers in the encoder for volumes, by default of abdominal MR (AMOS22)."""
    return UMamba(num_classes=num_classes, in_chans=in_chans, **{"plan": ABDOMEN_MR, "mamba": "enc", **changes})


@register_segmenter(Published(paper=_PAPER, scores={"endoscopy DSC": 65.40, "endoscopy NSD": 66.92}))
def umamba_bot2d(num_classes: int = 14, in_chans: int = 1, **changes: Any) -> UMamba:
    """U-Mamba with one Mamba layer for images, by default slices of abdominal MR (AMOS22)."""
    return UMamba(num_classes=num_classes, in_chans=in_chans, **{"plan": ABDOMEN_MR_SLICES, "mamba": "bot", **changes})


@register_segmenter(Published(paper=_PAPER, scores={"abdomen MR DSC": 76.25, "microscopy F1": 56.07}))
def umamba_enc2d(num_classes: int = 14, in_chans: int = 1, **changes: Any) -> UMamba:
    """U-Mamba with Mamba layers in the encoder for images, by default slices of abdominal MR (AMOS22)."""
    return UMamba(num_classes=num_classes, in_chans=in_chans, **{"plan": ABDOMEN_MR_SLICES, "mamba": "enc", **changes})


@register_segmenter()
def umamba_enc3d_nano(num_classes: int = 4, in_chans: int = 1, **changes: Any) -> UMamba:
    """A hundredth of the parameters, for tests and small data sets: four stages, patches of 32×48×48."""
    small = Plan(patch=(32, 48, 48), widths=(8, 16, 24, 32), strides=(1, 2, 2, 2), blocks=(1,))
    return UMamba(num_classes=num_classes, in_chans=in_chans, **{"plan": small, "mamba": "enc", **changes})


@register_segmenter()
def umamba_enc2d_nano(num_classes: int = 4, in_chans: int = 1, **changes: Any) -> UMamba:
    """A hundredth of the parameters, for tests and small data sets: four stages, images of 64×64 or any size."""
    small = Plan(patch=(64, 64), widths=(16, 24, 32, 48), strides=(1, 2, 2, 2), blocks=(1,))
    return UMamba(num_classes=num_classes, in_chans=in_chans, **{"plan": small, "mamba": "enc", **changes})
