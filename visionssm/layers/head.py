"""Classifier head: norm, global pooling, dropout, linear."""

from __future__ import annotations

from typing import Any

from timm.layers import ClassifierHead
from torch import Tensor, nn


class NormClassifierHead(ClassifierHead):
    """timm's classifier head over (B, H, W, C) maps with a LayerNorm before the pooling; keys `norm` and `fc`."""

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
        super().__init__(in_features, num_classes, pool_type, drop_rate, input_fmt="NHWC", **factory)
        self.norm: nn.Module = nn.LayerNorm(in_features, eps=norm_eps, **factory)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) to (B, num_classes), or to pooled features with `pre_logits`."""
        return super().forward(self.norm(x), pre_logits=pre_logits)
