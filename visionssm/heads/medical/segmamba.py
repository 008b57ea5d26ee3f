"""SegMamba (Xing et al. 2024, arXiv 2401.13560): volumes scanned in three orientations, under UNETR's decoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.heads.medical.registry import Published, register_segmenter
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.heads.medical.unetr import UnetrDecoder
from visionssm.kernels import routes
from visionssm.kernels.routes import n_cells
from visionssm.layers.leaf import leaf_module
from visionssm.layers.mamba import BidirectionalMamba, TokenScan, convert_mamba_key
from visionssm.layers.padding import cropped, padded_to_multiples


@leaf_module  # it looks at sizes
class InterleavedTokenScan(TokenScan):
    """`TokenScan` from piece to piece: the first token of every piece, the second of every piece, and so on.

    The pieces are `pieces` equal parts of the tokens. Where these cannot be divided so, the last pieces are shorter,
    and the convolution and the scan see zeros in place of what is missing.
    """

    def __init__(self, *, pieces: int, **options: Any) -> None:
        super().__init__(**options)
        self.pieces = pieces

    def convolve(self, row: Tensor) -> Tensor:
        """The same as bringing the tokens into their order, convolving, and bringing them back: (B, 1, T, D)."""
        n, tokens = self.pieces, row.shape[2]
        length = n_cells(tokens, n)
        x = padded_to_multiples(row, (n, 1)).squeeze(1).unflatten(1, (n, length))  # (B, n, length, D)
        before = []  # the pieces before the first are the last ones, whose tokens come one step later
        for back in reversed(range(1, self.conv1d.kernel_size[0])):
            steps = n_cells(back, n)
            piece = x.select(1, -back % n)
            before.append(F.pad(piece, (0, 0, steps, 0)).narrow(1, 0, length))
        x = torch.cat([torch.stack(before, 1), x], 1) if before else x
        y = F.conv2d(x.permute(0, 3, 1, 2), self.conv1d.weight.unsqueeze(3), self.conv1d.bias, groups=self.dim)
        return cropped(y.permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(1), (tokens,))

    def activate(self, row: Tensor) -> Tensor:
        """SiLU of the convolution: what is scanned."""
        return F.silu(self.convolve(row))

    def route(self, row: Tensor) -> Tensor:
        """The order in which tokens are scanned."""
        return routes.interleaved(1, row.shape[2], self.pieces, device=row.device)


class TriOrientedMamba(BidirectionalMamba):
    """Mamba's scans forwards, backwards and across pieces, of parameters of their own, added before the gate."""

    def __init__(self, dim: int, *, pieces: int, **options: Any) -> None:
        super().__init__(dim, **options)
        self.across = InterleavedTokenScan(pieces=pieces, **self._scan_options)
        for scan in (self.back, self.across):  # their steps begin as any linear layer's bias
            nn.init.uniform_(scan.dt_projs_bias, -(scan.dt_rank**-0.5), scan.dt_rank**-0.5)

    def scan(self, x: Tensor) -> Tensor:
        """The scanned branch: (B, T, D) to the same shape."""
        x = x.contiguous()  # half of what in_proj made: copied once, not by each of the convolutions
        return self.ahead(x) + self.back(x) + self.across(x)


class TriOrientedLayer(nn.Module):
    """x + mixer(LN(x)) over the pixels of a volume, D slowest and W fastest."""

    def __init__(self, dim: int, pieces: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mamba = TriOrientedMamba(dim, pieces=pieces)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        return x + self.mamba(self.norm(x))


class GatedSpatialConvolution(nn.Module):
    """Two 3³ convolutions beside a 1³ one, added, and a 1³ convolution of the sum; added to the input.

    The published code adds the two branches, which the paper multiplies. Instance norm and ReLU follow each
    convolution.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(dim, dim, 3, padding=1)
        self.proj2 = nn.Conv3d(dim, dim, 3, padding=1)
        self.proj3 = nn.Conv3d(dim, dim, 1)
        self.proj4 = nn.Conv3d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape."""
        wide = _activated(self.proj2(_activated(self.proj(x))))
        return x + _activated(self.proj4(wide + _activated(self.proj3(x))))


def _activated(x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(x))


class FeatureMlp(nn.Module):
    """Instance norm and an MLP of 1³ convolutions: what the decoder sees of a stage."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(dim, 2 * dim, 1)
        self.fc2 = nn.Conv3d(2 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W) to the same shape."""
        return self.fc2(F.gelu(self.fc1(F.instance_norm(x))))


class Encoder(nn.Module):
    """Stages at a half, a quarter, … of the resolution: step down, gated spatial convolution, scans."""

    def __init__(self, in_chans: int, widths: Sequence[int], depths: Sequence[int], pieces: Sequence[int]) -> None:
        super().__init__()
        steps: list[nn.Module] = [nn.Conv3d(in_chans, widths[0], 7, stride=2, padding=3)]
        steps += [nn.Conv3d(width, out, 2, stride=2) for width, out in pairwise(widths)]
        self.downsample_layers = nn.ModuleList(steps)
        self.gscs = nn.ModuleList(GatedSpatialConvolution(width) for width in widths)
        self.stages = nn.ModuleList(
            nn.Sequential(*(TriOrientedLayer(width, n) for _ in range(depth)))
            for width, depth, n in zip(widths, depths, pieces, strict=True)
        )
        self.mlps = nn.ModuleList(FeatureMlp(width) for width in widths)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, D, H, W) to what the decoder sees of every stage, the finest first."""
        features = []
        parts = zip(self.downsample_layers, self.gscs, self.stages, self.mlps)
        for level, (down, convolutions, scans, mlp) in enumerate(parts):
            x = convolutions(down(F.instance_norm(x) if level else x))
            tokens = scans(x.flatten(2).transpose(1, 2))
            x = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
            features.append(mlp(x))
        return features


class SegMamba(Segmenter):
    """SegMamba for volumes of any size.

    Args:
        num_classes, in_chans: see `Segmenter`.
        widths: channels of the encoder's stages.
        bottleneck: channels of the deepest map of the decoder.
        depths: scanned layers of each stage.
        slices: pieces into which the third scan of each stage cuts the pixels. The published numbers are the depth of
            the stages for volumes of 128 slices, and are taken whatever the depth.

    Raises:
        ValueError: `widths`, `depths` and `slices` are not for the same number of stages.
        MissingExtraError: (an ImportError) MONAI is not installed.
    """

    least_cells = 2

    def __init__(
        self,
        *,
        num_classes: int = 4,
        in_chans: int = 4,
        widths: Sequence[int] = (48, 96, 192, 384),
        bottleneck: int = 768,
        depths: Sequence[int] = (2, 2, 2, 2),
        slices: Sequence[int] = (64, 32, 16, 8),
    ) -> None:
        if not len(widths) == len(depths) == len(slices) or min(*widths, *depths, *slices) < 1:
            raise ValueError(
                f"widths={tuple(widths)}, depths={tuple(depths)} and slices={tuple(slices)} must have one positive "
                "number per stage"
            )
        super().__init__(num_classes=num_classes, in_chans=in_chans, stride=(2 ** len(widths),) * 3)
        self.encoder = Encoder(in_chans, widths, depths, slices)
        self.decoder = UnetrDecoder(3, [in_chans, *widths], [*widths, bottleneck])
        self.out = nn.Conv3d(widths[0], num_classes, 1)

    def encoded(self, x: Tensor) -> list[Tensor]:
        """(B, C, D, H, W), sides multiples of `stride`, to what the decoder sees of every stage, the finest first."""
        maps: list[Tensor] = self.encoder(x)
        return maps

    def logits(self, x: Tensor) -> Tensor:
        """(B, C, D, H, W), sides multiples of `stride`, to (B, num_classes, D, H, W)."""
        return self.out(self.decoder([x, *self.encoded(x)])[-1])


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' keys to ours."""
    assert isinstance(model, SegMamba)
    stages = len(model.decoder.blocks)
    out: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        name = name.removeprefix("module.")
        name = re.sub(r"^vit\.downsample_layers\.(\d)\.[01]\.", r"encoder.downsample_layers.\1.", name)
        name = re.sub(r"^vit\.", "encoder.", name)
        name = re.sub(r"^encoder(\d+)\.", lambda found: f"decoder.blocks.{int(found[1]) - 1}.", name)
        name = re.sub(r"^decoder1\.", "decoder.last.", name)
        name = re.sub(r"^decoder(\d+)\.", lambda found: f"decoder.ups.{stages - int(found[1])}.", name)
        name = name.replace("out.conv.conv.", "out.", 1)
        name, value = convert_mamba_key(name, value)
        out[name] = value
    return out


_BRATS = {"BraTS2023 WT DSC": 93.61, "BraTS2023 TC DSC": 92.65, "BraTS2023 ET DSC": 87.71}


@register_segmenter(Published(paper="2401.13560", parameters=67_416_196, scores=_BRATS))
def segmamba(num_classes: int = 4, in_chans: int = 4, **changes: Any) -> SegMamba:
    """SegMamba for brain tumours (BraTS 2023)."""
    return SegMamba(num_classes=num_classes, in_chans=in_chans, **changes)


@register_segmenter()
def segmamba_nano(num_classes: int = 4, in_chans: int = 1, **changes: Any) -> SegMamba:
    """A hundredth of the parameters, for tests and small data sets."""
    small: dict[str, Any] = {
        "widths": (8, 16, 24),
        "bottleneck": 32,
        "depths": (1, 1, 1),
        "slices": (16, 8, 4),
    }
    return SegMamba(num_classes=num_classes, in_chans=in_chans, **{**small, **changes})
