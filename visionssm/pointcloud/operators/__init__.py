"""Linear RNNs over groups of voxels: modules from (groups, G, C) to the same shape, with their residuals inside.

`OPERATORS` names them; each is called with C, the number of its place in the network, how many there are, and the
options of its class.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from visionssm.pointcloud.operators.mamba import MambaOperator


class MakesOperator(Protocol):
    """What stands in `OPERATORS`."""

    def __call__(self, dim: int, *, drop_path: float, number: int, total: int) -> nn.Module: ...


OPERATORS: dict[str, MakesOperator] = {"mamba": MambaOperator}
"""Name in a configuration, and class."""
