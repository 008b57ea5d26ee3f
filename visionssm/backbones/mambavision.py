"""MambaVision (Hatamizadeh and Kautz 2024, arXiv 2407.08083): convolutions, then scans and attention inside windows.

The first two stages are residual convolutions. The last two cut their map into windows; the first half of their blocks
scans the tokens of each window in one direction, the second half lets them attend to each other. Tokens that only fill
up the last windows take part.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, calculate_drop_path_rates
from timm.models import checkpoint_seq, generate_default_cfgs
from torch import Tensor, nn
from torchvision.ops import Permute

from visionssm.backbones._base import (
    HierarchicalBackbone,
    Stage,
    StateDict,
    imagenet_cfg,
    init_linear_,
    register_variants,
)
from visionssm.backbones._keys import rename_keys
from visionssm.backbones._stages import doubled
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import routes
from visionssm.layers import MapConv2d, NormClassifierHead, RouteScan
from visionssm.layers.cells import into_windows, out_of_windows
from visionssm.layers.layer_scale import branch_scale
from visionssm.layers.linear import Mlp, linear
from visionssm.layers.memory_format import channels_last
from visionssm.layers.ss2d import default_dt_rank

PAPER = {
    "paper_name": "MambaVision: A Hybrid Mamba-Transformer Vision Backbone",
    "paper_ids": "arXiv:2407.08083",
    "license": "cc-by-nc-sa-4.0",  # of the weights
}

STEM_EPS = 1e-4  # of the stem's batch norms; all other norms have 1e-5


class ConvStem(nn.Sequential):
    """Two 3×3 stride-2 convolutions, BatchNorm and ReLU after each: sizes round up."""

    def __init__(self, in_chans: int, dim: int, *, hidden: int, **factory: Any) -> None:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for slot, channels, width in ((0, in_chans, hidden), (3, hidden, dim)):
            modules[f"{slot}"] = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False, **factory)
            modules[f"{slot + 1}"] = nn.BatchNorm2d(width, eps=STEM_EPS, **factory)
            modules[f"{slot + 2}"] = nn.ReLU()
        modules["to_map"] = Permute([0, 2, 3, 1])
        super().__init__(modules)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, ⌈H/4⌉, ⌈W/4⌉, dim)."""
        return super().forward(channels_last(x))


class MapBatchNorm(nn.Sequential):
    """BatchNorm of a channels-last map. PyTorch's own module is inside, which SyncBatchNorm can take the place of."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(Permute([0, 3, 1, 2]), nn.BatchNorm2d(dim, **factory), Permute([0, 2, 3, 1]))


class ConvBlock(nn.Module):
    """x + BN(conv(GELU(BN(conv(x))))), with 3×3 convolutions and the GELU of the tanh formula."""

    def __init__(self, dim: int, *, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.conv1 = MapConv2d(dim, dim, kernel_size=3, padding=1, **factory)
        self.norm1 = MapBatchNorm(dim, **factory)
        self.conv2 = MapConv2d(dim, dim, kernel_size=3, padding=1, **factory)
        self.norm2 = MapBatchNorm(dim, **factory)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        y = F.gelu(self.norm1(self.conv1(x)), approximate="tanh")
        return x + self.drop_path(self.norm2(self.conv2(y)))


class WindowScan(RouteScan):
    """The mixer of the first blocks: half of the channels are scanned, the others are put beside them.

    Both halves go through a depth-wise convolution along the window's tokens and SiLU; it sees the token before and the
    one after. The second half is no gate.

    Args:
        dim: C, channels of a token, an even number.
        d_state: N.
    """

    def __init__(self, dim: int, *, d_state: int = 8, **factory: Any) -> None:
        super().__init__(dim // 2, d_state, default_dt_rank(dim), n_routes=1, **factory)
        self.in_proj = nn.Linear(dim, dim, bias=False, **factory)
        self.conv1d = nn.Conv1d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False, **factory)
        self.out_proj = nn.Linear(dim, dim, bias=False, **factory)

    @torch.no_grad()
    def init_scan(self) -> None:
        """The published initialisation, which treats the steps' projection as any linear layer: its bias is 0."""
        super().init_scan()
        nn.init.trunc_normal_(self.x_proj_weight, std=0.02)
        nn.init.trunc_normal_(self.dt_projs_weight, std=0.02)
        self.dt_projs_bias.zero_()

    def step_bias(self) -> Tensor:
        """The bias of the steps' projection counts twice: the projection adds it, and so does the scan."""
        return 2 * self.dt_projs_bias

    def convolve(self, tokens: Tensor) -> Tensor:
        """(W, T, C) to the same shape.

        As a 2-D convolution, because PyTorch has channels-last kernels for these alone; the permutes are then views.
        """
        rows = tokens.unsqueeze(1).permute(0, 3, 1, 2)  # (W, C, 1, T)
        y = F.conv2d(rows, self.conv1d.weight.unsqueeze(2), padding=(0, 1), groups=tokens.shape[-1])
        return y.permute(0, 2, 3, 1).squeeze(1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(W, T, C) tokens of W windows to the same shape."""
        x, z = F.silu(self.convolve(linear(self.in_proj, tokens))).chunk(2, dim=-1)  # (W, T, C/2) each
        y, _ = self.scan_pixels(x, self.project(x), routes.raster(1, tokens.shape[1], device=tokens.device))
        return linear(self.out_proj, torch.cat([y, z], dim=-1))


class WindowBlock(nn.Module):
    """x + mixer(LN(x)), then x + MLP(LN(x)), of the tokens of windows.

    Args:
        dim: C, channels of a token.
        mixer: makes the mixer from the channels.
        mlp_ratio: hidden channels of the MLP over channels.
        layer_scale: where the factors of both branches start; None for no factors.
        drop_path: rate at which a window's branches are dropped.
    """

    def __init__(
        self,
        dim: int,
        *,
        mixer: Callable[..., nn.Module],
        mlp_ratio: float,
        layer_scale: float | None,
        drop_path: float,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, **factory)
        self.mixer = mixer(dim, **factory)
        self.norm2 = nn.LayerNorm(dim, **factory)
        self.mlp = Mlp(dim, int(mlp_ratio * dim), **factory)
        self.scale1, self.scale2 = (branch_scale(dim, layer_scale, **factory) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(W, T, C) tokens of W windows to the same shape."""
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


class WindowBlocks(nn.Sequential):
    """Blocks that see a map as windows, which are cut once for all of them.

    Windows at the right and lower borders are filled up with zeros before the first block; what the blocks make of
    these is seen by the other tokens of the window, and is cut off after the last one.
    """

    def __init__(self, blocks: Iterable[nn.Module], window: int) -> None:
        super().__init__(*blocks)
        self.window = window

    def in_windows(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function of (W, T, C) tokens to a (B, H, W, C) map."""
        tokens = function(into_windows(x, self.window))
        return out_of_windows(tokens, self.window, x.shape[1], x.shape[2])

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return self.in_windows(x, super().forward)


class WindowStage(Stage):
    """A stage whose blocks see windows."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None, *, window: int) -> None:
        super().__init__((), downsample)
        self.blocks: WindowBlocks = WindowBlocks(blocks, window)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) map through the blocks; the caller applies `downsample`."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self.blocks.in_windows(x, partial(checkpoint_seq, list(self.blocks)))
        return self.blocks(x)


class BatchNormHead(NormClassifierHead):
    """BatchNorm, pool, classify."""

    def __init__(
        self, in_features: int, num_classes: int, *, pool_type: str, drop_rate: float = 0.0, **factory: Any
    ) -> None:
        super().__init__(in_features, num_classes, pool_type=pool_type, drop_rate=drop_rate, **factory)
        self.norm = MapBatchNorm(in_features, **factory)


class MambaVision(HierarchicalBackbone):
    """MambaVision classifier and feature extractor, any input size.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: timm's pooling name, '' for unpooled maps.
        depths: blocks of each of the four stages. Of n blocks of a stage with windows the last ⌊n/2⌋ attend, the
            others scan.
        dim: channels of the first stage, doubled at each of the next.
        stem_dim: channels between the stem's convolutions.
        num_heads: attention heads of the third and of the fourth stage.
        window_size: side of the windows of the third and of the fourth stage, in pixels of their maps. Published dense
            models have windows that hold a whole map.
        mlp_ratio: hidden channels of the MLP over channels.
        layer_scale: where the factors of the branches of the third and fourth stage start; None for no factors.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks; the published rates are in `configs/`.

    Raises:
        ValueError: there are not four stages, or not two numbers of heads and sides of windows, each at least 1.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        depths: Sequence[int] = (1, 3, 8, 4),
        dim: int = 80,
        stem_dim: int = 32,
        num_heads: Sequence[int] = (8, 16),
        window_size: Sequence[int] = (14, 7),
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check_pair("num_heads", num_heads)
        _check_pair("window_size", window_size)
        if len(depths) != 4:
            raise ValueError(f"depths={tuple(depths)} must be four numbers: two stages of convolutions, two of windows")
        factory = {"device": device, "dtype": dtype}
        dims = doubled(dim, len(depths))
        super().__init__(in_chans=in_chans, num_classes=num_classes, dims=dims)
        rates: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        self.patch_embed = ConvStem(in_chans, dim, hidden=stem_dim, **factory)
        steps = [
            MapConv2d(width, 2 * width, kernel_size=3, stride=2, padding=1, bias=False, **factory)
            for width in dims[:-1]
        ]
        convolutions = [
            Stage([ConvBlock(width, drop_path=rate, **factory) for rate in stage_rates], step)
            for width, stage_rates, step in zip(dims[:2], rates[:2], steps[:2], strict=True)
        ]
        windows = []
        for i, step in ((2, steps[2]), (3, None)):
            attention = partial(Attention, num_heads=num_heads[i - 2], qkv_bias=True)
            mixers = [WindowScan] * (depths[i] - depths[i] // 2) + [attention] * (depths[i] // 2)
            options = {"mlp_ratio": mlp_ratio, "layer_scale": layer_scale, **factory}
            blocks = [
                WindowBlock(dims[i], mixer=mixer, drop_path=rate, **options)
                for mixer, rate in zip(mixers, rates[i], strict=True)
            ]
            windows.append(WindowStage(blocks, step, window=window_size[i - 2]))
        self.layers = nn.ModuleList([*convolutions, *windows])
        self.head = BatchNormHead(dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **factory)
        self.apply(init_linear_)

    def no_weight_decay(self) -> set[str]:
        """Biases, norms and other 1-D parameters alone; that of the steps has an axis of one route here."""
        return {"*.dt_projs_bias"}


def _check_pair(name: str, value: Sequence[int]) -> None:
    valid = len(value) == 2 and all(isinstance(x, int) and x >= 1 for x in value)
    if not valid:
        raise ValueError(f"{name}={value!r} must be two whole numbers from 1 on, for the third and the fourth stage")


_RENAMES = (
    (r"^(?:encoder|model)\.", ""),
    (r"^patch_embed\.conv_down\.", "patch_embed."),
    (r"^levels\.([01])\.blocks\.(\d+)\.norm([12])\.", r"layers.\1.blocks.\2.norm\3.1."),
    (r"^levels\.", "layers."),
    (r"\.downsample\.reduction\.0\.", ".downsample."),
    (r"\.gamma_([12])$", r".scale\1.gamma"),
    (r"\.mixer\.A_log$", ".mixer.A_logs"),
    (r"\.mixer\.D$", ".mixer.Ds"),
    (r"^norm\.", "head.norm.1."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)
# Parameters of which ours have an axis of one route more.
_ROUTED = {
    "x_proj.weight": "x_proj_weight",
    "dt_proj.weight": "dt_projs_weight",
    "dt_proj.bias": "dt_projs_bias",
}


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours: of a classifier, of one in a wrapper, or of a detector's or segmentor's backbone.

    The convolutions of the scanned channels and of the others are put one below the other. Norms of a dense model's
    outputs are left out.
    """
    if any(name.startswith("backbone.") for name in state_dict):
        parts = {name: value for name, value in state_dict.items() if name.startswith("backbone.")}
        state_dict = {name.removeprefix("backbone."): value for name, value in parts.items()}
    out: StateDict = {}
    for name, value in rename_keys(state_dict, _RENAMES).items():
        path, _, last = name.rpartition(".mixer.")
        if last in _ROUTED:
            out[f"{path}.mixer.{_ROUTED[last]}"] = value.unsqueeze(0)
        elif not re.match(r"outnorm\d\.", name):
            out[name] = value
    for name in [name for name in out if name.endswith(".mixer.conv1d_x.weight")]:
        other = name.replace("conv1d_x", "conv1d_z")
        if other in out:
            out[name.replace("conv1d_x", "conv1d")] = torch.cat([out.pop(name), out.pop(other)])
    return out


def _cfg(file: str = "", size: int = 224, **overrides: Any) -> OfficialCfg:
    values = {
        "url": f"https://huggingface.co/nvidia/{file}" if file else "",
        "input_size": (3, size, size),
        "pool_size": (size // 32, size // 32),
        "crop_pct": 1.0,
    }
    return imagenet_cfg(**PAPER, **{**values, **overrides})


def _in1k(size: str, file: str, crop_pct: float) -> OfficialCfg:
    return _cfg(f"MambaVision-{size}-1K/resolve/main/mambavision_{file}_1k.pth.tar", crop_pct=crop_pct)


def _in21k(repository: str, file: str, size: int = 224, **overrides: Any) -> OfficialCfg:
    return _cfg(f"MambaVision-{repository}-21K/resolve/main/mambavision_{file}.pth.tar", size, **overrides)


_SQUASHED = {"crop_pct": 0.93, "crop_mode": "squash"}
default_cfgs = generate_default_cfgs(
    {
        "mambavision_tiny.authors_in1k": _in1k("T", "tiny", 1.0),
        "mambavision_tiny2.authors_in1k": _in1k("T2", "tiny2", 0.98),
        "mambavision_small.authors_in1k": _in1k("S", "small", 0.93),
        "mambavision_base.authors_in1k": _in1k("B", "base", 1.0),
        "mambavision_base.authors_in21k_ft_in1k": _in21k("B", "base_21k"),
        "mambavision_large.authors_in1k": _in1k("L", "large", 1.0),
        "mambavision_large.authors_in21k_ft_in1k": _in21k("L", "large_21k"),
        "mambavision_large2.authors_in1k": _in1k("L2", "large2", 1.0),
        "mambavision_large2_512_21k.authors_in21k_ft_in1k": _in21k("L2-512", "L2_21k_240m_512", 512, **_SQUASHED),
        "mambavision_large3_256_21k.authors_in21k_ft_in1k": _in21k("L3-256", "L3_21k_740m_256", 256),
        "mambavision_large3_512_21k.authors_in21k_ft_in1k": _in21k("L3-512", "L3_21k_740m_512", 512, **_SQUASHED),
        "mambavision_nano_test": _cfg(size=64),
    }
)

_SMALL: dict[str, Any] = {"depths": (3, 3, 7, 5), "dim": 96, "stem_dim": 64}
_BASE: dict[str, Any] = {"depths": (3, 3, 10, 5), "dim": 128, "stem_dim": 64, "layer_scale": 1e-5}
_LARGE: dict[str, Any] = {**_BASE, "dim": 196, "num_heads": (16, 32)}
_LARGE2: dict[str, Any] = {**_LARGE, "depths": (3, 3, 12, 5)}
_LARGE3: dict[str, Any] = {**_LARGE, "depths": (3, 3, 20, 10), "dim": 256}
VARIANTS: dict[str, dict[str, Any]] = {
    "mambavision_tiny": {"depths": (1, 3, 8, 4), "dim": 80, "stem_dim": 32},
    "mambavision_tiny2": {"depths": (1, 3, 11, 4), "dim": 80, "stem_dim": 32},
    "mambavision_small": _SMALL,
    "mambavision_base": _BASE,
    "mambavision_large": _LARGE,
    "mambavision_large2": _LARGE2,
    "mambavision_large2_512_21k": {**_LARGE2, "window_size": (32, 16)},
    "mambavision_large3_256_21k": {**_LARGE3, "window_size": (16, 8)},
    "mambavision_large3_512_21k": {**_LARGE3, "window_size": (32, 16)},
    "mambavision_nano_test": {
        "depths": (1, 1, 3, 2),
        "dim": 12,
        "stem_dim": 8,
        "num_heads": (4, 8),
        "window_size": (3, 2),
        "layer_scale": 0.5,  # so that tests see what the branches do
    },
}

register_variants(__name__, MambaVision, VARIANTS, checkpoint_filter_fn)
