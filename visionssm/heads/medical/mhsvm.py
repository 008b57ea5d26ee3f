"""MHS-VM (Ji 2024, arXiv 2406.05992): VM-UNet with scans in parallel subspaces, each along routes of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visionssm.backbones._keys import Rename
from visionssm.heads.medical import vmunet
from visionssm.heads.medical.keys import rename_aliases
from visionssm.heads.medical.registry import Published, register_segmenter
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.heads.medical.vmunet import VMUNet
from visionssm.kernels import routes
from visionssm.layers.conv import MapConv2d
from visionssm.layers.ss2d import RouteScan, default_dt_rank

HEADS = {"C": routes.zigzags, "X": routes.diagonals, "S": routes.spirals, "Z": routes.rasters}
"""Routes of the heads, in their order, by the authors' letters."""

_D_STATE = 16


def gated_by_disagreement(y: Tensor, threshold: float) -> Tensor:
    """Sum of what K routes give, times how much they disagree: the authors' scan-route attention.

    Σ y · ReLU(std(y) / (mean(y − min y) + 1e-5) − threshold), all over the routes, std with K − 1 in the denominator.
    Where all routes agree, the gate and its gradient are zero.

    Args:
        y: (B, K, L, D).
        threshold: of the gate. With four routes that differ, the quotient is between 2/3 and 2.
    Returns:
        (B, L, D).

    Examples:
        >>> import torch
        >>> from visionssm.heads.medical.mhsvm import gated_by_disagreement
        >>> y = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 4, 1, 1)
        >>> round(gated_by_disagreement(y, 0.0).item(), 3)  # 12 · 2.160 / 2
        12.961
    """
    lifted = y - y.amin(1, keepdim=True)  # small where the routes agree, so that nothing is lost in the squares
    mean = lifted.mean(1)
    variance = (lifted - mean[:, None]).square().sum(1) / (y.shape[1] - 1)
    agreed = variance == 0  # where the root has no derivative
    std = variance.masked_fill(agreed, 1).sqrt().masked_fill(agreed, 0)
    return y.sum(1) * F.relu(std / (mean + 1e-5) - threshold)


class ScanHead(RouteScan):
    """Scans of one subspace along four routes, gated by how much they disagree.

    Args:
        dim: channels of the subspace.
        table: (height, width, device) to the four routes; one of `HEADS`.
        threshold: see `gated_by_disagreement`.
    """

    def __init__(self, dim: int, table: Any, threshold: float) -> None:
        super().__init__(dim, _D_STATE, default_dt_rank(dim), n_routes=4)
        self.table, self.threshold = table, threshold

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) to the same shape."""
        order = self.table(x.shape[1], x.shape[2], device=x.device)
        u = x.flatten(1, 2)
        precise = u.to(torch.promote_types(u.dtype, torch.float32))  # the gate is a quotient of small differences
        y, _ = self.scan_pixels(precise, self.project(u), order, merge=False)
        return gated_by_disagreement(y, self.threshold).to(x.dtype).view(x.shape)


class MultiHeadScan(nn.Module):
    """Subspaces of the channels, a `ScanHead` for each, and their outputs side by side, normalised and projected.

    Args:
        dim: C.
        heads: number of subspaces, 1 to 4, of C // heads channels each.
        projection: norm and projection back to C; without them C must be a multiple of `heads`.
        threshold: see `gated_by_disagreement`.
    """

    def __init__(self, dim: int, heads: int, *, projection: bool, threshold: float) -> None:
        super().__init__()
        width = dim // heads
        self.subspaces = nn.Linear(dim, width * heads, bias=False)
        self.heads = nn.ModuleList([ScanHead(width, table, threshold) for table in list(HEADS.values())[:heads]])
        self.norm = nn.LayerNorm(width * heads) if projection else nn.Identity()
        self.proj = nn.Linear(width * heads, dim, bias=False) if projection else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        parts = self.subspaces(x).chunk(len(self.heads), dim=-1)
        y = torch.cat([head(part) for head, part in zip(self.heads, parts, strict=True)], dim=-1)
        return self.proj(self.norm(y))


class GatedMultiHeadScan(nn.Module):
    """MHS-VM's mixer: projection, depth-wise convolution, `MultiHeadScan`, norm, and a gate SiLU(z) at the end.

    Unlike VM-UNet's it scans C channels, not 2C, and has no projection after the gate.

    Args:
        dim: C.
        scan: arguments of `MultiHeadScan`.
    """

    def __init__(self, dim: int, **scan: Any) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 2 * dim, bias=False)
        self.conv2d = MapConv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        self.mhs = MultiHeadScan(dim, **scan)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x, z = self.in_proj(x).chunk(2, dim=-1)
        return self.out_norm(self.mhs(F.silu(self.conv2d(x)))) * F.silu(z)


class MHSVM(VMUNet):
    """MHS-VM, any image size.

    Args:
        heads: number of subspaces, 1 to 4: along zigzags, diagonals, spirals and rasters.
        projection: whether a block projects the heads' outputs.
        threshold: of the heads' gates, 0 to 1. It is not among the weights: files are used with the one that they were
            trained with.
        options: the others of `VMUNet`.
    Raises:
        ValueError: a number is out of range, or the channels do not divide by the heads without the projection.
    """

    def __init__(self, *, heads: int = 3, projection: bool = True, threshold: float = 0.0, **options: Any) -> None:
        if not 1 <= heads <= len(HEADS):
            raise ValueError(f"heads must be 1 to {len(HEADS)}, got {heads}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
        dim = options.get("dim", 96)
        if dim // heads < 1 or (not projection and dim % heads):
            raise ValueError(
                f"dim={dim} does not divide into {heads} heads; choose a multiple, or leave the projection on"
            )
        mixer = partial(GatedMultiHeadScan, heads=heads, projection=projection, threshold=threshold)
        super().__init__(mixer=mixer, **options)
        self.threshold = threshold

    def load_encoder(self, source: str | Path | Mapping[str, Any]) -> None:
        """There are no weights of a classifier with these blocks.

        Raises:
            ValueError: always.
        """
        Segmenter.load_encoder(self, source)


_ALIASES: Sequence[Rename] = (
    (r"\.x_ssproj_W$", ".x_ssproj.weight"),
    (r"\.scanning\.seq2seq_engine\.", ".mambaeng."),
    *((rf"\.scanhead_{letter}\.mambaeng\.", f".heads.{i}.") for i, letter in enumerate(HEADS)),
    (r"\.mhs\.x_ssproj\.", ".mhs.subspaces."),
    (r"\.mhs\.cat_norm\.", ".mhs.norm."),
    (r"\.mhs\.y_proj\.", ".mhs.proj."),
)


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' keys, of which two may name one tensor, to ours.

    Raises:
        CheckpointError: two names of one tensor have different values.
    """
    return rename_aliases(vmunet.checkpoint_filter_fn(state_dict, model), _ALIASES)


_PAPER = "2406.05992"
_FILES = "https://github.com/PixDeep/MHS-VM/raw/main/pretrained"


@register_segmenter(Published(paper=_PAPER, parameters=17_386_153, url=f"{_FILES}/best_3h.pth"))
def mhsvm_3h(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> MHSVM:
    """Three heads: zigzags, diagonals and spirals."""
    return MHSVM(num_classes=num_classes, in_chans=in_chans, **{"heads": 3, **changes})


@register_segmenter(
    Published(
        paper=_PAPER,
        parameters=17_257_129,
        scores={"ISIC17 mIoU": 82.02, "ISIC17 DSC": 90.12, "ISIC18 mIoU": 80.85, "ISIC18 DSC": 89.41},
        url=f"{_FILES}/best_4h.pth",
    )
)
def mhsvm_4h(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> MHSVM:
    """Four heads, as trained on ISIC18. The authors test their file with `threshold=0.4`."""
    return MHSVM(num_classes=num_classes, in_chans=in_chans, **{"heads": 4, "threshold": 0.5, **changes})


@register_segmenter(Published(paper=_PAPER, parameters=17_257_129))
def mhsvm_4h_t0(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> MHSVM:
    """Four heads, as trained on ISIC17."""
    return MHSVM(num_classes=num_classes, in_chans=in_chans, **{"heads": 4, **changes})


@register_segmenter(Published(paper=_PAPER, parameters=14_121_577))
def mhsvm_4h_noproj(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> MHSVM:
    """Four heads whose outputs are not projected: an ablation."""
    arguments: dict[str, Any] = {"heads": 4, "projection": False, "threshold": 0.4}
    return MHSVM(num_classes=num_classes, in_chans=in_chans, **{**arguments, **changes})


@register_segmenter()
def mhsvm_4h_nano(num_classes: int = 1, in_chans: int = 3, **changes: Any) -> MHSVM:
    """Four heads in the shape of `vmunet_nano`, for tests and small data sets."""
    arguments: dict[str, Any] = {"heads": 4, **vmunet.NANO}
    return MHSVM(num_classes=num_classes, in_chans=in_chans, **{**arguments, **changes})
