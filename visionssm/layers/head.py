"""Classifier heads over channels-last maps: norm, global pooling, dropout, linear."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import ClassifierHead, create_classifier
from torch import Tensor, nn


class MapClassifierHead(ClassifierHead):
    """timm's classifier head over (B, H, W, C) maps; keys `fc`.

    `reset` and `num_features` are those that timm has since 1.0.31, so that older versions do too.
    """

    def __init__(
        self, in_features: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0, **factory: Any
    ) -> None:
        super().__init__(in_features, num_classes, pool_type, drop_rate, input_fmt="NHWC", **factory)
        self.num_features = in_features * self.global_pool.feat_mult()  # pooled channels

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """A new, untrained classifier.

        Args:
            num_classes: of the new classifier; 0 for none.
            pool_type: timm's name of a pooling, '' for unpooled maps; None leaves it.
            reset_other: nothing else can be reset; here as in timm's other heads.
            in_features: channels of the maps, where layers before the head were pruned; None leaves them.
            device, dtype: of the classifier; None for those of the head.
        """
        like = next(self.parameters(), None)
        if like is not None:
            device, dtype = device or like.device, dtype or like.dtype
        if in_features is not None:
            self.in_features = in_features
        if pool_type is None:
            pool_type = self.global_pool.pool_type
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.global_pool, self.fc = create_classifier(
            self.in_features, num_classes, pool_type, input_fmt="NHWC", **factory
        )
        self.global_pool.train(self.training)
        self.fc.train(self.training)
        self.num_features = self.in_features * self.global_pool.feat_mult()


class NormClassifierHead(MapClassifierHead):
    """A LayerNorm before timm's classifier head over (B, H, W, C) maps; keys `norm` and `fc`."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        pool_type: str = "avg",
        drop_rate: float = 0.0,
        norm_eps: float = 1e-5,
        **factory: Any,
    ) -> None:
        super().__init__(in_features, num_classes, pool_type, drop_rate, **factory)
        self.norm: nn.Module = nn.LayerNorm(in_features, eps=norm_eps, **factory)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) to (B, num_classes), or to pooled features with `pre_logits`."""
        return super().forward(self.norm(x), pre_logits=pre_logits)
