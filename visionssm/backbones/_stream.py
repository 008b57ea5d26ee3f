"""Plain backbones of blocks that are a norm and a mixer, summed up in float32: Vim, VideoMamba and LocalVim."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn

from visionssm.backbones._base import StateDict
from visionssm.backbones._plain import PlainBackbone
from visionssm.layers.leaf import leaf_module
from visionssm.layers.mamba import convert_mamba_key
from visionssm.layers.tokens import PatchGrid, insert_token


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


class StreamBlock(nn.Module):
    """Adds the output of the block before to the residual stream, and returns the mixer's output of the new sum.

    Args:
        mixer: (B, T, C) to the same shape.
        dim: C, channels of a token.
        drop_path: rate at which the output of the block before is dropped.
    """

    def __init__(self, mixer: nn.Module, dim: int, drop_path: float, **factory: Any) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.norm = StreamNorm(dim, **factory)
        self.mixer = mixer

    def mix(self, x: Tensor) -> Tensor:
        """What the block adds for normalised tokens: (B, T, C) to the same shape."""
        return self.mixer(x)

    def forward(self, stream: Stream) -> Stream:
        """Stream of (B, T, C) to the same."""
        residual = stream.sum(self.drop_path)
        return Stream(self.mix(self.norm(residual)), residual)


class StreamBackbone(PlainBackbone):
    """`PlainBackbone` of `StreamBlock`s. A family's class initialises the parameters and says where the class token is.

    Args:
        patch_embed: image to a map of patches.
        block: drop path rate to a `StreamBlock`.
        in_chans: image channels.
        num_classes: classes, 0 for none.
        global_pool: 'token' for the class token, timm's names for the mean or maximum of the patches' tokens, '' for
            none; None for 'token' if there is a class token and 'avg' if not.
        img_size: (H, W) for which the position table is made.
        dim: C.
        depth: blocks.
        class_token: there is a class token.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising linearly from 0 over all blocks.
    """

    def __init__(
        self,
        patch_embed: PatchGrid,
        block: Callable[[float], StreamBlock],
        *,
        in_chans: int,
        num_classes: int,
        global_pool: str | None,
        img_size: int | tuple[int, int],
        dim: int,
        depth: int,
        class_token: bool,
        drop_rate: float,
        drop_path_rate: float,
        **factory: Any,
    ) -> None:
        super().__init__(in_chans=in_chans, num_classes=num_classes, dim=dim, depth=depth, stride=patch_embed.stride)
        self.patch_embed = patch_embed
        self.grid_size = self.patch_embed.grid_size((img_size, img_size) if isinstance(img_size, int) else img_size)
        n_tokens = self.grid_size[0] * self.grid_size[1] + class_token
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **factory)) if class_token else None
        self.pos_embed = nn.Parameter(torch.empty(1, n_tokens, dim, **factory))

        # There are `depth` rates, rate i for the output of block i. The next block adds that output, so it drops it.
        rates: Any = calculate_drop_path_rates(drop_path_rate, depth)
        self.layers = nn.ModuleList(block(rate) for rate in [0.0, *rates[:-1]])
        self.drop_path = DropPath(rates[-1])
        self.norm: nn.Module = StreamNorm(dim, **factory)
        self.set_pool(global_pool if global_pool is not None else "token" if class_token else "avg")
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self.new_head(num_classes)

    def begin(self, patches: Tensor) -> Stream:
        """(B, rows, columns, C) map of patches to the stream of (B, T, C) that enters the first block."""
        table = self.positions((patches.shape[1], patches.shape[2]))
        tokens = patches.flatten(1, 2)
        slot = self.class_slot(tokens.shape[1])
        if self.cls_token is not None:
            tokens = insert_token(tokens, self.cls_token.expand(tokens.shape[0], -1, -1).to(tokens.dtype), slot)
        return self.stream(tokens + table)  # positions count from the first token, the class token among them

    def stream(self, tokens: Tensor) -> Stream:
        """The stream of (B, T, C) tokens that no block has seen."""
        assert self.pos_embed is not None
        return Stream(tokens.to(torch.promote_types(self.pos_embed.dtype, torch.float32)), None)

    def end(self, stream: Stream) -> Tensor:
        """The stream to normalised (B, T, C) tokens."""
        assert self.pos_embed is not None
        return self.norm(stream.sum(self.drop_path)).to(self.pos_embed.dtype)

    def tap(self, stream: Stream) -> Tensor:
        """The mixer's output of a block: (B, T, C)."""
        assert self.pos_embed is not None
        return stream.hidden.to(self.pos_embed.dtype)


def stream_to_ours(state_dict: StateDict, model: StreamBackbone) -> StateDict:
    """The authors' keys to ours, and the position table resampled if it was made for another square of patches."""
    out: StateDict = {}
    for name, value in state_dict.items():
        name, value = convert_mamba_key(name, value)
        out[name.replace("norm_f.", "norm.", 1)] = value
    table = out.get("pos_embed")
    if table is not None:
        out["pos_embed"] = model.fitted_positions(table)
    return out
