"""What timm asks of a model, written once for all plain backbones: patches, layers at one resolution, norm, head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import global_pool_nlc
from timm.models import checkpoint
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from visionssm.backbones._base import Backbone
from visionssm.layers import tokens as token_layers
from visionssm.layers.tokens import PatchGrid


class PlainBackbone(Backbone):
    """Patch embedding, layers, norm and head with timm's whole contract.

    A family's class builds `patch_embed` (image to map), `pos_embed` (made for `grid_size`, resampled for any other
    grid; None for none), `layers`, `norm`, `head_drop` and `head`, and defines the first three functions below. What
    passes from layer to layer is called the stream; its type is up to the family.
    """

    output_formats = ("NCHW", "NHWC", "NLC")

    patch_embed: PatchGrid
    pos_embed: nn.Parameter | None
    layers: nn.ModuleList
    norm: nn.Module
    head_drop: nn.Module
    head: nn.Module

    grid_size: tuple[int, int]
    global_pool: str

    def __init__(self, *, in_chans: int, num_classes: int, dim: int, depth: int, stride: int) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.embed_dim = dim
        self.feature_info = [{"num_chs": dim, "reduction": stride, "module": f"layers.{i}"} for i in range(depth)]
        self.grad_checkpointing = False

    # What a family defines.

    def begin(self, patches: Tensor) -> Any:
        """(B, rows, columns, C) map of patches to the stream that enters the first layer."""
        raise NotImplementedError

    def end(self, stream: Any) -> Tensor:
        """Features from the stream that leaves the last layer: normalised (B, T, C)."""
        raise NotImplementedError

    def tap(self, stream: Any) -> Tensor:
        """What `forward_intermediates` returns for a layer, from the stream that leaves it: (B, T, C)."""
        raise NotImplementedError

    # What a family may replace, beside `no_weight_decay`.

    def class_slot(self, n_patches: int) -> int | None:
        """The class token's place among the tokens of so many patches; None if the model has no class token."""
        return None

    @property
    def pools(self) -> tuple[str, ...]:
        """Names that `global_pool` takes: timm's, '' for unpooled tokens, and 'token' if there is a class token."""
        return ("", "avg", "max", "avgmax", *(["token"] if self.class_slot(1) is not None else []))

    def pool(self, features: Tensor) -> Tensor:
        """(B, T, C) to (B, head_hidden_size) by `global_pool`, or unchanged if that is ''."""
        slot = self.class_slot(features.shape[1] - 1)
        if self.global_pool == "token":
            return features[:, slot]
        return global_pool_nlc(self.patch_tokens(features), self.global_pool, 0) if self.global_pool else features

    @property
    def head_hidden_size(self) -> int:
        """Channels that the classifier gets."""
        return self.num_features

    # The contract, the same for all.

    def patch_tokens(self, tokens: Tensor) -> Tensor:
        """(B, T, C) without the class token: (B, rows·columns, C)."""
        slot = self.class_slot(tokens.shape[1] - 1)
        return tokens if slot is None else torch.cat([tokens[:, :slot], tokens[:, slot + 1 :]], dim=1)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table for a grid of (rows, columns) patches."""
        assert self.pos_embed is not None
        old_rows, old_columns = self.grid_size
        old_slot, new_slot = self.class_slot(old_rows * old_columns), self.class_slot(grid[0] * grid[1])
        slots = None if old_slot is None or new_slot is None else (old_slot, new_slot)
        return token_layers.resample_positions(self.pos_embed, self.grid_size, grid, slots)

    def fitted_positions(self, table: Tensor) -> Tensor:
        """A file's position table for this model's grid, resampled if it was made for another square of patches.

        A table of no square is returned as it is: loading then fails with both shapes in its message.
        """
        if self.pos_embed is None or table.shape == self.pos_embed.shape or table.ndim != 3:
            return table
        n_patches = table.shape[1] - (self.class_slot(1) is not None)
        side = round(n_patches**0.5)
        if side * side != n_patches:
            return table
        old_slot, new_slot = (self.class_slot(n) for n in (n_patches, self.grid_size[0] * self.grid_size[1]))
        slots = None if old_slot is None or new_slot is None else (old_slot, new_slot)
        return token_layers.resample_positions(table, (side, side), self.grid_size, slots)

    @torch.jit.ignore
    def set_input_size(self, img_size: tuple[int, int]) -> None:
        """Resample the position table itself for images of (H, W) pixels, to train on at this size."""
        grid = self.patch_embed.grid_size(img_size)
        if self.pos_embed is not None and grid != self.grid_size:
            with torch.no_grad():
                table = self.positions(grid)
            self.pos_embed = nn.Parameter(table, requires_grad=self.pos_embed.requires_grad)
        self.grid_size = grid

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image of any size to the normalised (B, T, C) tokens, the class token included."""
        stream = self.begin(self.patch_embed(x))
        for layer in self.layers:
            stream = self._run(layer, stream)
        return self.end(stream)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify; with `pre_logits`, pool."""
        x = self.head_drop(self.pool(x))
        return x if pre_logits else self.head(x)

    def _run(self, layer: nn.Module, stream: Any) -> Any:
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint(layer, stream)
        return layer(stream)

    @property
    def n_levels(self) -> int:
        """The layers."""
        return len(self.layers)

    def tap_levels(self, x: Tensor, wanted: Sequence[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """Layers' outputs as maps, without the class token."""
        maps = []
        patches = self.patch_embed(x)
        grid = (patches.shape[1], patches.shape[2])
        stream = self.begin(patches)
        for i, layer in enumerate(self.layers[: last + 1]):
            stream = self._run(layer, stream)
            if i in wanted:
                tapped = self.end(stream) if norm else self.tap(stream)
                maps.append(self.patch_tokens(tapped).unflatten(1, grid))
        return self.end(stream), maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what is not needed to compute the given layers' outputs; returns their indices."""
        wanted, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, untrained classifier; 0 classes for none, `global_pool=''` for unpooled tokens.

        Raises:
            ValueError: the model cannot pool in this way.
        """
        if global_pool is not None:
            self.set_pool(global_pool)
        self.num_classes = num_classes
        self.head = self.new_head(num_classes)

    def set_pool(self, global_pool: str) -> None:
        """Choose how tokens are pooled for the classifier.

        Raises:
            ValueError: the model cannot pool in this way.
        """
        if global_pool not in self.pools:
            raise ValueError(f"global_pool={global_pool!r} is not available here; choose one of {self.pools}")
        self.global_pool = global_pool

    def new_head(self, num_classes: int) -> nn.Module:
        """An untrained classifier, of the device and dtype of the model's other parameters."""
        if num_classes == 0:
            return nn.Identity()
        like = self.patch_embed.proj.weight
        head = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head.train(self.training)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory: recompute layers in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning-rate decay."""
        return {
            "stem": r"^(?:cls_token|pos_embed|patch_embed)",
            "blocks": [(r"^layers\.(\d+)", None), (r"^norm", (99999,))],
        }
