"""LocalMamba (Huang et al. 2024, arXiv 2403.09338): Vim and VMamba whose routes differ from layer to layer.

A layer scans along four of eight routes, by rows, by columns and through windows, each from both ends; a search found
which. The routes' maps are weighted by gates, one number per channel and route, and added up.

LocalVim has Vim's layers. Each route has a causal convolution of its own, which goes along the route as the scan does,
so the tokens are brought into the order of the steps before it. Where windows reach over the border of the grid, the
tokens there are zeros before the convolution, and take part in it and in the scan.

LocalVMamba has the layers of VMamba's first generation. Its convolution is that of the map, so nothing is re-ordered:
what the authors fill up with zeros after it is the step −1 of a route.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, init_linear_, register_variants
from visionssm.backbones._keys import vmamba_to_ours
from visionssm.backbones._localmamba_keys import localvim_to_ours
from visionssm.backbones._localmamba_routes import (
    ALL_DIRECTIONS,
    LOCALVIM_TINY,
    LOCALVMAMBA_SMALL,
    LOCALVMAMBA_TINY,
    NO_SEARCH,
    map_routes,
    per_layer,
    token_routes,
)
from visionssm.backbones._stages import StagedBackbone, doubled
from visionssm.backbones._stream import Stream, StreamBackbone, StreamBlock
from visionssm.checkpoints import OfficialCfg
from visionssm.kernels.causal_conv import causal_conv_silu
from visionssm.layers import GatedSS2D, PatchMerging, PatchStem
from visionssm.layers.conv import activated
from visionssm.layers.linear import linear
from visionssm.layers.ss2d import RouteScan, default_dt_rank
from visionssm.layers.tokens import PaddedPatchEmbedding, resample_positions

PAPER = {
    "paper_name": "LocalMamba: Visual State Space Model with Windowed Selective Scan",
    "paper_ids": "arXiv:2403.09338",
}


class ChannelGate(nn.Module):
    """A weight from 0 to 1 for each channel of a map, from the mean of its normalised pixels (section 3.3)."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, **factory)
        self.global_reduce = nn.Linear(dim, dim // 8, **factory)
        self.channel_select = nn.Linear(dim // 8, dim, **factory)

    def forward(self, maps: Tensor) -> Tensor:
        """(…, L, C) to (…, 1, C)."""
        mean = self.norm(maps).mean(-2, keepdim=True)
        return linear(self.channel_select, F.gelu(linear(self.global_reduce, mean))).sigmoid()


class RouteSum(nn.Module):
    """The maps of all routes, each times its gate, added up.

    Args:
        dim: E, channels of the maps.
        n_weights: of the supernet, K; each gated map is then normalised and counts by a weight of its own, of the
            softmax over routes. The routes with the largest weights are those that a search chooses (section 3.4).
    """

    def __init__(self, dim: int, *, n_weights: int = 0, **factory: Any) -> None:
        super().__init__()
        self.attn = ChannelGate(dim, **factory)
        self.weights = nn.Parameter(torch.ones(n_weights, 1, 1, 1, **factory)) if n_weights else None

    def forward(self, maps: Tensor, misplaced: Tensor | None = None) -> Tensor:
        """(B, K, L, E) to (B, L, E); `misplaced` as of `MapRoutes`."""
        if misplaced is not None:
            maps = maps.flatten(1, 2).index_select(1, misplaced).view(maps.shape)
        gated = self.attn(maps)
        if self.weights is None:
            return (maps * gated).sum(1)
        normed = F.layer_norm(maps * gated, maps.shape[-1:])
        return (normed * self.weights.softmax(0)[:, 0]).sum(1)


class LocalTokenMixer(RouteScan):
    """Projection, and for every route a causal convolution, SiLU and scan along it, times SiLU(z); sum, projection.

    The K routes are K groups of channels, so that one convolution and one scan serve all of them.

    Args:
        dim: C, channels of a token; E = 2C channels are scanned.
        directions: names of the routes.
        d_state: N.
        d_conv: tokens under the convolution.
        class_token: there is a class token in the middle of the tokens, and of the steps of every route.
        weighted: as a supernet; see `RouteSum`.
        authors_inverse: see `LocalVim`.
    """

    def __init__(
        self,
        dim: int,
        *,
        directions: tuple[str, ...],
        d_state: int = 16,
        d_conv: int = 4,
        class_token: bool = False,
        weighted: bool = False,
        authors_inverse: bool = False,
        **factory: Any,
    ) -> None:
        inner, n_routes = 2 * dim, len(directions)
        super().__init__(inner, d_state, default_dt_rank(dim), n_routes, **factory)
        self.directions, self.class_token, self.authors_inverse = directions, class_token, authors_inverse
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **factory)
        self.conv1d = nn.Conv1d(n_routes * inner, n_routes * inner, d_conv, groups=n_routes * inner, **factory)
        self.multi_scan = RouteSum(inner, n_weights=n_routes if weighted else 0, **factory)
        self.out_proj = nn.Linear(inner, dim, bias=False, **factory)

    @torch.no_grad()
    def init_scan(self) -> None:
        """The published initialisation, which treats the steps' projection as any linear layer: its bias is 0."""
        super().init_scan()
        nn.init.trunc_normal_(self.x_proj_weight, std=0.02)
        nn.init.trunc_normal_(self.dt_projs_weight, std=0.02)
        self.dt_projs_bias.zero_()

    def project(self, u: Tensor) -> Tensor:
        """dt, B and C of every step and route, from the channels of that route: (B, T, K·E) to (B, T, K, R + 2N)."""
        return torch.einsum("btke,kre->btkr", u.unflatten(-1, (self.n_routes, self.dim)), self.x_proj_weight)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, T, C) tokens of a grid of (rows, columns) patches to the same shape."""
        x, z = linear(self.in_proj, tokens).chunk(2, dim=-1)
        n_routes = self.n_routes
        table = token_routes(*grid, self.directions, self.class_token, self.authors_inverse, device=tokens.device)

        steps = F.pad(x, (0, 0, 0, 1)).index_select(1, table.reads).unflatten(1, (-1, n_routes)).flatten(2)
        assert self.conv1d.bias is not None
        u = causal_conv_silu(steps, self.conv1d.weight.squeeze(1), self.conv1d.bias)
        y, _ = self.scan_pixels(u, self.project(u), table.order)
        results = y.unflatten(2, (n_routes, self.dim)).flatten(1, 2).index_select(1, table.places)
        maps = results.unflatten(1, (n_routes, -1)) * F.silu(z).unsqueeze(1)
        return linear(self.out_proj, self.multi_scan(maps, table.misplaced))


class LocalStream(NamedTuple):
    """`Stream`, and what the blocks need to know of the tokens beside it."""

    hidden: Tensor  # (B, T, C) output of the last mixer, or the tokens at the beginning
    residual: Tensor | None  # sum of all before it, float32 (float64 in float64 models); None at the beginning
    grid: tuple[int, int]  # rows and columns of patches
    turns: tuple[Tensor, Tensor] | None  # cosines and sines of the angles, (1, T, C)

    def sum(self, drop_path: nn.Module) -> Tensor:
        """The residual stream with the last output added."""
        return Stream(self.hidden, self.residual).sum(drop_path)

    def turned(self) -> LocalStream:
        """With channels turned in pairs, in the output and in the sum: before every layer, so that angles add up."""
        if self.turns is None:
            return self
        residual = None if self.residual is None else _rotated(self.residual, *self.turns)
        return self._replace(hidden=_rotated(self.hidden, *self.turns), residual=residual)


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """(a, b) → (a cos − b sin, b cos + a sin) of neighbouring channels."""
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    aside = torch.stack([-second, first], dim=-1).flatten(-2)
    return x * cosines.to(x.dtype) + aside * sines.to(x.dtype)


def rotary_angles(grid: tuple[int, int], dim: int, device: Any = None) -> Tensor:
    """(1, rows·columns, C): half of the channels turn by the row, the others by the column, in pairs.

    Rows and columns count from 0 to 14, however many there are. Frequencies are those of language models: 10000^(−2j/d)
    for pair j of d channels.
    """
    # Rounded as by the authors: supernets amplify the last digit of an angle a thousandfold.
    rates = 1 / 10000 ** (torch.arange(0, dim // 2, 2, dtype=torch.float32, device=device) / (dim // 2))
    rates = rates.repeat_interleave(2)
    rows, columns = (torch.arange(n, device=device)[:, None] / n * 14 * rates for n in grid)
    halves = [rows[:, None].expand(*grid, -1), columns[None].expand(*grid, -1)]
    return torch.cat(halves, dim=-1).flatten(0, 1)[None]


class LocalVimBlock(StreamBlock):
    """`StreamBlock` that turns the stream first."""

    def forward(self, stream: LocalStream) -> LocalStream:  # type: ignore[override]
        """Stream to stream."""
        stream = stream.turned()
        residual = stream.sum(self.drop_path)
        return stream._replace(residual=residual, hidden=self.mixer(self.norm(residual), stream.grid))


class LocalVim(StreamBackbone):
    """LocalVim classifier and feature extractor.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: 'token' for the class token, timm's names for the mean or maximum of the patches' tokens, '' for
            none; None for 'token' if there is a class token and 'avg' if not.
        img_size: (H, W) for which positions and angles are made; they are resampled for images of any other size.
        patch_size: side of a patch in pixels.
        embed_dim: C, a multiple of 4.
        depth: layers.
        directions: names of the routes of each layer, or of all alike; see `per_layer`. They must be those that a
            checkpoint was trained with, which it does not tell.
        weighted: build the supernet, whose routes have weights; see `RouteSum`.
        d_state: N, states per channel.
        class_token: put a class token into the middle of the patches; the stream is then not turned by angles.
        authors_inverse: put the results of routes by columns where the authors' code puts them, which on grids that are
            not square is a wrong place. Only for comparison with that code.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all layers; the published rates are in `configs/`.

    Raises:
        ValueError: `directions` is not for these layers, or `embed_dim` is no multiple of 4.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        embed_dim: int = 192,
        depth: int = 20,
        directions: Sequence[str] | Sequence[Sequence[str]] = LOCALVIM_TINY,
        weighted: bool = False,
        d_state: int = 16,
        class_token: bool = False,
        authors_inverse: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if embed_dim % 4:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of 4: halves of the channels turn in pairs")
        factory = {"device": device, "dtype": dtype}
        layers = per_layer(directions, depth)
        following = iter(layers)

        def block(rate: float) -> LocalVimBlock:
            mixer = LocalTokenMixer(
                embed_dim,
                directions=next(following),
                d_state=d_state,
                class_token=class_token,
                weighted=weighted,
                authors_inverse=authors_inverse,
                **factory,
            )
            return LocalVimBlock(mixer, embed_dim, rate, **factory)

        super().__init__(
            PaddedPatchEmbedding(in_chans, embed_dim, patch_size=patch_size, stride=patch_size, **factory),
            block,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            img_size=img_size,
            dim=embed_dim,
            depth=depth,
            class_token=class_token,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            **factory,
        )
        self.directions = layers
        angles = None if class_token else rotary_angles(self.grid_size, embed_dim, device)
        for name, function in (("cosines", torch.cos), ("sines", torch.sin)):
            self.register_buffer(name, None if angles is None else function(angles).to(dtype), persistent=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The published initialisation, where it differs from that of the modules."""
        assert self.pos_embed is not None
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.zeros_(self.cls_token)
        self.layers.apply(init_linear_)
        for layer in self.layers:
            projection = cast(LocalTokenMixer, layer.mixer).out_proj
            nn.Linear.reset_parameters(projection)
            projection.weight.div_(len(self.layers) ** 0.5)

    def no_weight_decay(self) -> set[str]:
        """Positions, class token and the steps' biases, as Vim."""
        return {"pos_embed", "cls_token", "*.dt_projs_bias"}

    def class_slot(self, n_patches: int) -> int | None:
        """The class token comes before patch ⌊M/2⌋."""
        return None if self.cls_token is None else n_patches // 2

    @torch.jit.ignore
    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Resample the tables of positions and angles for images of (H, W) pixels, to train on at this size.

        Angles are not among the weights, and those of a model made for this size differ from resampled ones: load what
        was trained so into a model of the first size on which this was called too.
        """
        turns = self._turns(self.patch_embed.grid_size(img_size))
        super().set_input_size(img_size)
        if turns is not None:
            self.cosines, self.sines = turns

    def _turns(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
        if self.cls_token is not None:
            return None
        assert isinstance(self.cosines, Tensor)
        assert isinstance(self.sines, Tensor)
        return (
            resample_positions(self.cosines, self.grid_size, grid),
            resample_positions(self.sines, self.grid_size, grid),
        )

    def begin(self, patches: Tensor) -> LocalStream:  # type: ignore[override]
        """(B, rows, columns, C) map of patches to the stream of (B, T, C) that enters the first layer."""
        grid = (patches.shape[1], patches.shape[2])
        return LocalStream(*super().begin(patches), grid, self._turns(grid))


class LocalSS2D(GatedSS2D):
    """VMamba's first mixer along given routes, whose maps are gated before they are added up.

    Args:
        dim: C, channels of the map; 2C are scanned.
        directions: names of the routes.
        weighted: as a supernet; see `RouteSum`.
        authors_inverse: see `LocalVim`.
    """

    def __init__(
        self,
        dim: int,
        *,
        directions: tuple[str, ...],
        weighted: bool = False,
        authors_inverse: bool = False,
        **factory: Any,
    ) -> None:
        n_routes = len(directions)
        super().__init__(dim, ssm_ratio=2.0, d_state=16, conv_bias=True, n_routes=n_routes, **factory)
        self.directions, self.authors_inverse = directions, authors_inverse
        self.multi_scan = RouteSum(self.dim, n_weights=n_routes if weighted else 0, **factory)

    def mix(self, x: Tensor) -> Tensor:
        """Convolve, scan along the routes and normalise a (B, H, W, D) map."""
        u = activated(self.conv2d, x, self.activation)
        table = map_routes(u.shape[1], u.shape[2], self.directions, self.authors_inverse, device=u.device)
        pixels = u.flatten(1, 2)
        maps, _ = self.scan_pixels(pixels, self.project(pixels), table.order, merge=False)
        return self.out_norm(self.multi_scan(maps, table.misplaced).view(u.shape))


class LocalVMambaBlock(nn.Module):
    """x + mixer(LN(x))."""

    def __init__(self, dim: int, *, drop_path: float, **options: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, device=options["device"], dtype=options["dtype"])
        self.op = LocalSS2D(dim, **options)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        return x + self.drop_path(self.op(self.norm(x)))


class LocalVMamba(StagedBackbone):
    """LocalVMamba classifier and feature extractor, any input size.

    Args:
        depths: blocks per stage.
        dim: channels of the first stage, doubled at each of the next.
        directions: names of the routes of each block, counted over all stages, or of all alike; see `per_layer`. They
            must be those that a checkpoint was trained with, which it does not tell.
        weighted: build the supernet, whose routes have weights; see `RouteSum`.
        authors_inverse: see `LocalVim`.
        options: the others of `StagedBackbone`.

    Raises:
        ValueError: `directions` is not for these blocks.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 9, 2),
        dim: int = 96,
        directions: Sequence[str] | Sequence[Sequence[str]] = LOCALVMAMBA_TINY,
        weighted: bool = False,
        authors_inverse: bool = False,
        **options: Any,
    ) -> None:
        layers = per_layer(directions, sum(depths))
        following = iter(layers)

        def block(width: int, **factory: Any) -> nn.Module:
            own = {"weighted": weighted, "authors_inverse": authors_inverse, **factory}
            return LocalVMambaBlock(width, directions=next(following), **own)

        super().__init__(
            stem=PatchStem,
            dims=doubled(dim, len(depths)),
            depths=depths,
            blocks=[block] * len(depths),
            downsample=PatchMerging,
            **options,
        )
        self.directions = layers

    def no_weight_decay(self) -> set[str]:
        """A_logs and Ds, as VMamba; biases and norms are 1-D and not decayed either."""
        return {"*.A_logs", "*.Ds"}


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours, and LocalVim's positions resampled if they were made for another square of patches."""
    return localvim_to_ours(state_dict, model) if isinstance(model, LocalVim) else vmamba_to_ours(state_dict, model)


_RELEASE = "https://github.com/hunto/LocalMamba/releases"


def _cfg(file: str = "", **overrides: Any) -> OfficialCfg:
    url = f"{_RELEASE}/download/v1.0.0/{file}" if file else ""
    return imagenet_cfg(url, **PAPER, **overrides)


def _vim_cfg(file: str = "", **overrides: Any) -> OfficialCfg:
    plain = {"pool_size": (14, 14), "first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True}
    return _cfg(file, **{**plain, **overrides})


_TEST: dict[str, Any] = {"input_size": (3, 64, 64), "crop_pct": 1.0}
_BY_HAND: dict[str, Any] = {"manual_url": f"{_RELEASE}/tag/v1.0.0"}
default_cfgs = generate_default_cfgs(
    {
        "localvim_tiny.authors_in1k": _vim_cfg("local_vim_tiny.ckpt"),
        "localvim_tiny_midcls.authors_in1k": _vim_cfg("local_vim_tiny_middle_cls_token.ckpt"),
        "localvim_small.authors_in1k": _vim_cfg(**_BY_HAND),  # the page's link to it leads to another file
        "localvim_tiny_nosearch": _vim_cfg(),
        "localvim_tiny_search": _vim_cfg(),
        "localvim_nano_test": _vim_cfg(pool_size=(4, 4), **_TEST),
        "localvmamba_tiny.authors_in1k": _cfg(**_BY_HAND),  # announced there
        "localvmamba_small.authors_in1k": _cfg("local_vssm_small.ckpt"),
        "localvmamba_tiny_search": _cfg(),
        "localvmamba_small_search": _cfg(),
        "localvmamba_nano_test": _cfg(pool_size=(2, 2), **_TEST),
    }
)

_TAPPED = {"feature_indices": (4, 9, 14, 19)}
_SUPERNET: dict[str, Any] = {"directions": ALL_DIRECTIONS, "weighted": True}
_NANO = (("h", "w7_flip"), ("v", "w2"), ("h_flip", "w2_flip", "w7"), ("v_flip", "w2"))
VIM_VARIANTS: dict[str, dict[str, Any]] = {
    "localvim_tiny": {"embed_dim": 192, "directions": LOCALVIM_TINY, **_TAPPED},
    "localvim_tiny_midcls": {"embed_dim": 192, "directions": LOCALVIM_TINY, "class_token": True, **_TAPPED},
    "localvim_small": {"embed_dim": 384, "directions": NO_SEARCH, **_TAPPED},
    "localvim_tiny_nosearch": {"embed_dim": 192, "directions": NO_SEARCH, **_TAPPED},
    "localvim_tiny_search": {"embed_dim": 128, **_SUPERNET, **_TAPPED},
    "localvim_nano_test": {"embed_dim": 48, "depth": 4, "directions": _NANO},
}
VMAMBA_VARIANTS: dict[str, dict[str, Any]] = {
    "localvmamba_tiny": {"depths": (2, 2, 9, 2), "dim": 96, "directions": LOCALVMAMBA_TINY},
    "localvmamba_small": {"depths": (2, 2, 27, 2), "dim": 96, "directions": LOCALVMAMBA_SMALL},
    "localvmamba_tiny_search": {"depths": (2, 2, 9, 2), "dim": 32, **_SUPERNET},
    "localvmamba_small_search": {"depths": (2, 2, 27, 2), "dim": 32, **_SUPERNET},
    "localvmamba_nano_test": {"depths": (1, 1, 1, 1), "dim": 24, "directions": _NANO},
}

register_variants(__name__, LocalVim, VIM_VARIANTS, checkpoint_filter_fn)
register_variants(__name__, LocalVMamba, VMAMBA_VARIANTS, checkpoint_filter_fn)
