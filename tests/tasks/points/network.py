"""A network of point clouds, without MMEngine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PointNet(nn.Module):
    """(N, 3) clouds of any sizes to (B, classes) scores."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, clouds: Sequence[Tensor]) -> Tensor:
        pooled = [self.points(torch.cat([x, x.norm(dim=1, keepdim=True)], 1)).mean(0) for x in clouds]
        return self.head(torch.stack(pooled))
