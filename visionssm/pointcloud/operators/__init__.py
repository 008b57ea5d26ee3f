"""Linear RNNs over groups of voxels: modules from (groups, G, C) to the same shape, with their residuals inside.

`OPERATORS` names them; each is called with C, the number of its place in the network, how many there are, and the
options of its class.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from visionssm.pointcloud.operators.mamba import MambaOperator
from visionssm.pointcloud.operators.retnet import RetNetOperator
from visionssm.pointcloud.operators.rwkv import RWKVOperator
from visionssm.pointcloud.operators.ttt import TTTOperator
from visionssm.pointcloud.operators.xlstm import XLSTMOperator

OPERATORS: dict[str, Callable[..., nn.Module]] = {
    "mamba": MambaOperator,
    "retnet": RetNetOperator,
    "rwkv": RWKVOperator,
    "ttt": TTTOperator,
    "xlstm": XLSTMOperator,
}
"""Name in a configuration, and class."""
