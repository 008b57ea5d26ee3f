"""PlainMamba (Yang et al. 2024, arXiv 2403.17695): one width and one resolution, and a scan that never jumps.

The four routes are snakes, so that every step goes to a neighbour; a learned vector for the direction of the step that
reached a token is added to its B. All four share every other parameter. There is no MLP and no class token.

The published models re-order only what is scanned: at step t, dt, B and C are those of the row-major token t, whatever
token the route visits then (`step_scan`). So decays are the same along all routes, and in inference on CPUs they are
computed once. A scan that reads all vectors at the token that it visits gets them brought there: R + 2N numbers per
token and route; to re-order u in front of the scan, and its results behind it, would move 4C: in the published sizes 44
to 60 numbers instead of 768 to 1792. And the scan adds the four routes up itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, init_linear_, register_variants
from visionssm.backbones._keys import rename_keys
from visionssm.backbones._plain import PlainBackbone
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels import LowRank, routes
from visionssm.kernels.step_scan import Steps, step_scan, steps_of
from visionssm.layers.conv import MapConv2d, PreciseConv2d, activated
from visionssm.layers.image import checked_images
from visionssm.layers.leaf import leaf_module
from visionssm.layers.linear import linear
from visionssm.layers.memory_format import channels_last
from visionssm.layers.padding import padded_to_multiples
from visionssm.layers.ss2d import default_dt_rank
from visionssm.layers.tokens import PaddedPatchGrid

PAPER = {
    "paper_name": "PlainMamba: Improving Non-Hierarchical Mamba in Visual Recognition",
    "paper_ids": "arXiv:2403.17695",
}
N_MOVES = 5
"""Kinds of steps: the first, right, left, up, down."""


class Snakes(NamedTuple):
    """The routes of a map.

    Attributes:
        order: (4, 1, L) table for the scan.
        steps: what the scan has to know of it.
        moves: for each step and route, the kind of that step, (L·4,): see `N_MOVES`.
    """

    order: Tensor
    steps: Steps
    moves: Tensor


def moves(order: Tensor, width: int) -> Tensor:
    """The kind of each step of (K, S, T) routes without steps outside the map: see `N_MOVES`."""
    row = order // width
    down, right = row.diff(dim=-1), (order - row * width).diff(dim=-1)
    kinds = torch.where(down > 0, 4, torch.where(down < 0, 3, torch.where(right > 0, 1, 2)))
    return torch.cat([torch.zeros_like(order[..., :1]), kinds], dim=-1).long()


@routes.by_size
def snakes(height: int, width: int, *, device: torch.device | str | None = None) -> Snakes:
    """The four routes: rows from the top left and backwards, columns from the top left and backwards."""
    order = routes.zigzags(height, width, device=device)
    return Snakes(order, steps_of(order), moves(order, width)[:, 0].T.flatten())


@leaf_module  # the input checks branch on sizes
class SnakeMixer(nn.Module):
    """PlainMamba's mixer: projection, 7×7 convolution, scan along four snakes, times SiLU(z), projection.

    Args:
        dim: C, channels of the map; D = 2C are scanned.
        d_state: N.
    """

    n_routes = 4

    def __init__(self, dim: int, *, d_state: int = 16, **factory: Any) -> None:
        super().__init__()
        inner, self.dt_rank, self.d_state = 2 * dim, default_dt_rank(dim), d_state
        self.in_proj = nn.Linear(dim, 2 * inner, **factory)
        self.conv2d = MapConv2d(inner, inner, kernel_size=7, padding=3, groups=inner, **factory)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = nn.Linear(self.dt_rank, inner, **factory)
        self.A_logs = nn.Parameter(torch.empty(inner, d_state, **factory))
        self.Ds = nn.Parameter(torch.ones(inner, **factory))
        self.direction_Bs = nn.Parameter(torch.empty(N_MOVES, d_state, **factory))
        self.out_proj = nn.Linear(inner, dim, **factory)
        self.init_scan()

    @torch.no_grad()
    def init_scan(self) -> None:
        """A = −(1 … N); directions as positions are."""
        single = torch.promote_types(self.A_logs.dtype, torch.float32)
        rates = torch.arange(1, self.d_state + 1, dtype=single, device=self.A_logs.device)
        self.A_logs.copy_(rates.log().expand_as(self.A_logs))
        nn.init.trunc_normal_(self.direction_Bs, std=0.02)

    def scan(self, u: Tensor) -> Tensor:
        """Scan a (B, H, W, D) map along the four routes; their sum, (B, L, D)."""
        table = snakes(u.shape[1], u.shape[2], device=u.device)
        pixels = u.flatten(1, 2)
        dt, b, c = linear(self.x_proj, pixels).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        directions = self.direction_Bs.index_select(0, table.moves).unflatten(0, (-1, self.n_routes))
        at_least_float32 = torch.promote_types(self.A_logs.dtype, torch.float32)
        return step_scan(
            pixels,
            LowRank(dt, self.dt_proj.weight.T),
            -torch.exp(self.A_logs.to(at_least_float32)),
            b[:, :, None] + directions.to(b.dtype),
            c,
            d=self.Ds,
            dt_bias=2 * self.dt_proj.bias,  # the projection adds it, and so does the scan
            steps=table.steps,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x, z = linear(self.in_proj, x).chunk(2, dim=-1)
        u = activated(self.conv2d, x, F.silu)
        return linear(self.out_proj, self.scan(u).view(u.shape) * F.silu(z))


class PlainMambaBlock(nn.Module):
    """x + mixer(LN(x)), and with `convolve` GELU(BN(3×3 convolution)) of that, without a residual.

    Args:
        dim: C.
        d_state: N.
        convolve: the convolution is there.
        drop_path: rate at which the mixer is dropped.
    """

    def __init__(self, dim: int, *, d_state: int, convolve: bool, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.mamba = SnakeMixer(dim, d_state=d_state, **factory)
        self.drop_path = DropPath(drop_path)
        self.dw: nn.Module = nn.Identity()
        if convolve:
            conv = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False, **factory)
            self.dw = nn.Sequential(conv, nn.BatchNorm2d(dim, **factory), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.mamba(self.norm(x)))
        return self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@leaf_module  # it looks at the size of the image
class ConvPatchEmbedding(PaddedPatchGrid):
    """Convolutions to a map at half the resolution, and one token for each of its 8×8 patches.

    The map is filled up with zeros on the right and below to whole patches.

    Args:
        in_chans: image channels.
        dim: C, channels of a token.
        hidden: channels of the map.
        n_convs: 3×3 convolutions after the first one.
    """

    patch_size = stride = 16

    def __init__(self, in_chans: int, dim: int, *, hidden: int, n_convs: int, **factory: Any) -> None:
        super().__init__()
        self.stem = _conv_norm_relu(in_chans, hidden, kernel_size=7, stride=2, padding=3, **factory)
        convs = [_conv_norm_relu(hidden, hidden, kernel_size=3, padding=1, **factory) for _ in range(n_convs)]
        self.convs = nn.Sequential(*(module for conv in convs for module in conv))
        self.proj = MapConv2d(hidden, dim, kernel_size=8, stride=8, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to a (B, rows, columns, dim) map."""
        checked_images(x, cast(nn.Conv2d, self.stem[0]).in_channels, least=0)
        self.grid_size((x.shape[2], x.shape[3]))
        x = self.convs(self.stem(channels_last(x)))
        return self.proj(padded_to_multiples(x, (8, 8)).permute(0, 2, 3, 1))


def _conv_norm_relu(in_chans: int, out_chans: int, *, device: Any, dtype: Any, **options: Any) -> nn.Sequential:
    factory = {"device": device, "dtype": dtype}
    conv = PreciseConv2d(in_chans, out_chans, bias=False, **options, **factory)
    return nn.Sequential(conv, nn.BatchNorm2d(out_chans, **factory), nn.ReLU())


class PlainMamba(PlainBackbone):
    """PlainMamba classifier and feature extractor.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: timm's names for the mean or maximum of the tokens, '' for none.
        img_size: (H, W) for which the position table is made; it is resampled for images of any other size.
        embed_dim: C.
        depth: layers.
        d_state: N, states per channel.
        stem_dim: channels of the convolutions before the patches.
        n_convs: 3×3 convolutions before the patches.
        convolved: layers with a depth-wise convolution behind them.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all layers; the published rates are in `configs/`.

    Raises:
        ValueError: `convolved` names a layer that is not there.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        stem_dim: int = 64,
        n_convs: int = 1,
        convolved: Sequence[int] = (0,),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if not all(0 <= i < depth for i in convolved):
            raise ValueError(f"convolved={tuple(convolved)} must be numbers of layers, from 0 to {depth - 1}")
        factory = {"device": device, "dtype": dtype}
        super().__init__(in_chans=in_chans, num_classes=num_classes, dim=embed_dim, depth=depth, stride=16)
        self.patch_embed = ConvPatchEmbedding(in_chans, embed_dim, hidden=stem_dim, n_convs=n_convs, **factory)
        self.grid_size = self.patch_embed.grid_size((img_size, img_size) if isinstance(img_size, int) else img_size)
        n_tokens = self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.empty(1, n_tokens, embed_dim, **factory))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            PlainMambaBlock(embed_dim, d_state=d_state, convolve=i in convolved, drop_path=rate, **factory)
            for i, rate in enumerate(rates)
        )
        self.norm: nn.Module = nn.LayerNorm(embed_dim, eps=1e-6, **factory)
        self.set_pool(global_pool)
        self.head_drop = nn.Dropout(drop_rate)
        self.layers.apply(init_linear_)
        self.head = self.new_head(num_classes)

    def no_weight_decay(self) -> set[str]:
        """Positions and what only a scan has; norms, biases and other 1-D parameters are not decayed either."""
        return {"pos_embed", "*.A_logs", "*.direction_Bs"}

    def begin(self, patches: Tensor) -> Tensor:
        """(B, rows, columns, C) map of patches with their positions."""
        grid = (patches.shape[1], patches.shape[2])
        return patches + self.positions(grid).view(1, *grid, -1)

    def end(self, stream: Tensor) -> Tensor:
        """The map to normalised (B, L, C) tokens."""
        return self.norm(stream.flatten(1, 2))

    def tap(self, stream: Tensor) -> Tensor:
        """The map as tokens."""
        return stream.flatten(1, 2)


_RENAMES = (
    (r"^backbone\.", ""),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^ln1\.", "norm."),
    (r"^head\.fc\.", "head."),
    (r"\.A_log$", ".A_logs"),
    (r"\.D$", ".Ds"),
)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours, and the position table resampled if it was made for another square of patches.

    Norms of a segmentor's other outputs are left out.
    """
    assert isinstance(model, PlainMamba)
    renamed = rename_keys(state_dict, _RENAMES)
    out = {name: value for name, value in renamed.items() if not name.startswith("norm_layer")}
    table = out.get("pos_embed")
    if table is not None:
        out["pos_embed"] = model.fitted_positions(table)
    return out


def _cfg(file: str = "", **overrides: Any) -> OfficialCfg:
    url = f"https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/{file}.pth" if file else ""
    plain = {"pool_size": (14, 14), "first_conv": "patch_embed.stem.0", "classifier": "head", "fixed_input_size": True}
    return imagenet_cfg(url, **PAPER, **{**plain, **overrides})


default_cfgs = generate_default_cfgs(
    {
        "plainmamba_l1.authors_in1k": _cfg("l1"),
        "plainmamba_l2.authors_in1k": _cfg("l2"),
        "plainmamba_l3.authors_in1k": _cfg("l3"),
        "plainmamba_nano_test": _cfg(pool_size=(4, 4), input_size=(3, 64, 64), crop_pct=1.0),
    }
)

_TAPPED = {"feature_indices": (5, 11, 17, 23)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plainmamba_l1": {"embed_dim": 192, "depth": 24, "n_convs": 1, "convolved": (0,), **_TAPPED},
    "plainmamba_l2": {"embed_dim": 384, "depth": 24, "n_convs": 2, "convolved": (), **_TAPPED},
    "plainmamba_l3": {"embed_dim": 448, "depth": 36, "n_convs": 2, "convolved": (), "feature_indices": (8, 17, 26, 35)},
    "plainmamba_nano_test": {"embed_dim": 48, "depth": 4, "stem_dim": 16, "n_convs": 2, "convolved": (0,)},
}

register_variants(__name__, PlainMamba, VARIANTS, checkpoint_filter_fn)
