"""Vision Mamba, Vim (Zhu et al. 2024, arXiv 2401.09417): a plain stack of bidirectional Mamba blocks.

Patches become tokens, a class token is put into their middle, positions are added, and every block scans the sequence
in both directions. There is no MLP. The sum over the blocks, the residual stream, is kept in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from visionssm.backbones._base import StateDict, imagenet_cfg, register_variants
from visionssm.backbones._plain import PlainBackbone
from visionssm.checkpoints import OfficialCfg
from visionssm.layers.leaf import leaf_module
from visionssm.layers.mamba import BidirectionalMamba, convert_mamba_key
from visionssm.layers.tokens import PatchEmbedding, insert_token, resample_positions

PAPER = {
    "paper_name": "Vision Mamba: Efficient Visual Representation Learning with Bidirectional State Space Model",
    "paper_ids": "arXiv:2401.09417",
}


class Stream(NamedTuple):
    """What passes from block to block, each (B, T, C). A block does not add its output; the next block does."""

    hidden: Tensor  # output of the last mixer, or the tokens at the beginning
    residual: Tensor | None  # sum of all before it, float32 (float64 in float64 models); None at the beginning

    def sum(self, drop_path: nn.Module) -> Tensor:
        """The residual stream with the last output added."""
        return self.hidden if self.residual is None else self.residual + drop_path(self.hidden)


@leaf_module
class StreamNorm(nn.RMSNorm):
    """RMSNorm computed in the stream's dtype, with a result in the dtype of the weights."""

    def __init__(self, dim: int, **factory: Any) -> None:
        super().__init__(dim, eps=1e-5, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to the same shape."""
        x = F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return x.to(self.weight.dtype)


class VimBlock(nn.Module):
    """Adds the output of the block before to the residual stream, and returns the mixer's output of the new sum.

    Args:
        dim: C, channels of a token.
        d_state: N, states per channel.
        drop_path: rate at which the output of the block before is dropped.
    """

    def __init__(self, dim: int, *, d_state: int, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.norm = StreamNorm(dim, **factory)
        self.mixer = BidirectionalMamba(dim, d_state=d_state, **factory)

    def forward(self, stream: Stream) -> Stream:
        """Stream of (B, T, C) to the same."""
        residual = stream.sum(self.drop_path)
        # The mean of the two directions. Halving after the projection, which is linear, touches half as many numbers.
        return Stream(0.5 * self.mixer(self.norm(residual)), residual)


class Vim(PlainBackbone):
    """Vim classifier and feature extractor.

    Args:
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: 'token' for the class token, timm's names for the mean or maximum of the patches' tokens, '' for
            none; None for 'token' if there is a class token and 'avg' if not.
        img_size: (H, W) for which the position table is made; it is resampled for images of any other size.
        patch_size: side of a patch in pixels.
        stride: pixels from one patch to the next.
        embed_dim: C.
        depth: blocks.
        d_state: N, states per channel.
        class_token: put a class token into the middle of the patches.
        tap_residual: `forward_intermediates` shows the residual stream after a block, not the output of its mixer
            alone. The authors' segmentation models take the one (small) or the other (tiny). `feature_cls="fx"` and
            `"hook"` give the mixer's output in either case.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks; the published rates are in `configs/`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        *,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int = 16,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        class_token: bool = True,
        tap_residual: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        factory = {"device": device, "dtype": dtype}
        super().__init__(in_chans=in_chans, num_classes=num_classes, dim=embed_dim, depth=depth, stride=stride)
        self.tap_residual = tap_residual

        self.patch_embed = PatchEmbedding(in_chans, embed_dim, patch_size=patch_size, stride=stride, **factory)
        self.grid_size = self.patch_embed.grid_size((img_size, img_size) if isinstance(img_size, int) else img_size)
        n_tokens = self.grid_size[0] * self.grid_size[1] + class_token
        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim, **factory)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, n_tokens, embed_dim, **factory))

        # There are `depth` rates, rate i for the output of block i. The next block adds that output, so it drops it.
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.layers = nn.ModuleList(
            VimBlock(embed_dim, d_state=d_state, drop_path=rate, **factory) for rate in [0.0, *rates[:-1]]
        )
        self.drop_path = DropPath(rates[-1])
        self.norm: nn.Module = StreamNorm(embed_dim, **factory)
        self.set_pool(global_pool if global_pool is not None else "token" if class_token else "avg")
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_head(num_classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """The published initialisation, where it differs from that of the modules."""
        assert self.pos_embed is not None
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for block in self.layers:
            assert isinstance(block, VimBlock)
            block.mixer.out_proj.weight.div_(len(self.layers) ** 0.5)
            block.mixer.back.dt_projs_bias.zero_()

    def no_weight_decay(self) -> set[str]:
        """Positions, class token and the steps' biases; the state matrices are decayed, as by the authors."""
        return {"pos_embed", "cls_token", "*.dt_projs_bias"}

    def class_slot(self, n_patches: int) -> int | None:
        """The class token comes before patch ⌊M/2⌋."""
        return None if self.cls_token is None else n_patches // 2

    def begin(self, patches: Tensor) -> Stream:
        """(B, rows, columns, C) map of patches to the stream of (B, T, C) that enters the first block."""
        assert self.pos_embed is not None
        table = self.positions((patches.shape[1], patches.shape[2]))
        tokens = patches.flatten(1, 2)
        slot = self.class_slot(tokens.shape[1])
        if self.cls_token is not None:
            tokens = insert_token(tokens, self.cls_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), slot)
        tokens = tokens + table  # positions count from the first token, the class token among them
        return Stream(tokens.to(torch.promote_types(self.pos_embed.dtype, torch.float32)), None)

    def end(self, stream: Stream) -> Tensor:
        """The stream to normalised (B, T, C) tokens."""
        assert self.pos_embed is not None
        return self.norm(stream.sum(self.drop_path)).to(self.pos_embed.dtype)

    def tap(self, stream: Stream) -> Tensor:
        """The mixer's output of a block, or with `tap_residual` the residual stream after it: (B, T, C)."""
        assert self.pos_embed is not None
        tapped = stream.sum(nn.Identity()) if self.tap_residual else stream.hidden
        return tapped.to(self.pos_embed.dtype)


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys to ours, and the position table resampled if it was made for another square of patches."""
    assert isinstance(model, Vim)
    out: StateDict = {}
    for name, value in state_dict.items():
        name, value = convert_mamba_key(name, value)
        out[name.replace("norm_f.", "norm.", 1)] = value
    table = out.get("pos_embed")
    if table is not None:
        out["pos_embed"] = _fitted_positions(table, model)
    return out


def _fitted_positions(table: Tensor, model: Vim) -> Tensor:
    assert model.pos_embed is not None
    if table.shape == model.pos_embed.shape or table.ndim != 3:
        return table
    n_patches = table.shape[1] - (model.cls_token is not None)
    side = round(n_patches**0.5)
    if side * side != n_patches:
        return table  # no square: loading fails with both shapes in its message
    old_slot, new_slot = (model.class_slot(n) for n in (n_patches, model.grid_size[0] * model.grid_size[1]))
    slots = None if old_slot is None or new_slot is None else (old_slot, new_slot)
    return resample_positions(table, (side, side), model.grid_size, slots)


def _cfg(repository: str = "", file: str = "", *, grid: int = 14, **overrides: Any) -> OfficialCfg:
    hub = {"hf_hub_id": f"hustvl/{repository}", "hf_hub_filename": file} if file else {}
    options = {
        "pool_size": (grid, grid),
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "fixed_input_size": True,
        **hub,
    }
    return imagenet_cfg(**PAPER, **{**options, **overrides})


default_cfgs = generate_default_cfgs(
    {
        "vim_tiny.authors_in1k": _cfg("Vim-tiny-midclstok", "vim_t_midclstok_76p1acc.pth"),
        "vim_small.authors_in1k": _cfg("Vim-small-midclstok", "vim_s_midclstok_80p5acc.pth"),
        "vim_base.authors_in1k": _cfg("Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth"),
        "vim_tiny_stride8.authors_in1k": _cfg("Vim-tiny-midclstok", "vim_t_midclstok_ft_78p3acc.pth", grid=27),
        "vim_small_stride8.authors_in1k": _cfg("Vim-small-midclstok", "vim_s_midclstok_ft_81p6acc.pth", grid=27),
        "vim_nano_test": _cfg(grid=4, input_size=(3, 64, 64), crop_pct=1.0),
    }
)

_FULL = {"depth": 24, "feature_indices": (5, 11, 17, 23)}
VARIANTS: dict[str, dict[str, Any]] = {
    "vim_tiny": {"embed_dim": 192, **_FULL},
    "vim_small": {"embed_dim": 384, **_FULL},
    "vim_base": {"embed_dim": 768, **_FULL},
    "vim_tiny_stride8": {"embed_dim": 192, "stride": 8, **_FULL},
    "vim_small_stride8": {"embed_dim": 384, "stride": 8, **_FULL},
    "vim_nano_test": {"embed_dim": 48, "depth": 4},
}

register_variants(__name__, Vim, VARIANTS, checkpoint_filter_fn)
