"""Mamba in both directions."""

from __future__ import annotations

from timm.layers import DropPath
from torch import Tensor, nn

from visionssm.layers import BidirectionalMamba


class MambaOperator(nn.Module):
    """x + LayerNorm(Mamba(x)), the mixer scanning a group from both ends.

    Args:
        dim: C.
        drop_path: share of the groups that are left as they are while training.
        number, total: not needed.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0, number: int = 0, total: int = 1) -> None:
        super().__init__()
        self.mamba = BidirectionalMamba(dim)
        self.norm = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(groups, G, C) to the same shape."""
        return x + self.drop_path(self.norm(self.mamba(x)))
