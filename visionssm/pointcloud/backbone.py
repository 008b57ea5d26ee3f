"""LION's 3-D backbones: four stages at one resolution in x and y, each halving the height (arXiv 2407.18232)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from visionssm.pointcloud.blocks import LionBlock, LionLayer, Scale, VoxelGeneration
from visionssm.pointcloud.operators import OPERATORS
from visionssm.pointcloud.partition import Partition
from visionssm.pointcloud.voxels import Sites

SCALES: tuple[Scale, Scale] = ((2, 2, 2), (2, 2, 2))
"""Of the steps down within a block."""

FLATTEN: Scale = (1, 1, 2)
"""Of the step after a block."""

Features = tuple[Tensor, Sites]
"""(N, C) features and where they are."""


class LionFeatures(NamedTuple):
    """What a backbone makes.

    Attributes:
        output: of the voxels that remain.
        stages: of the voxels after every stage.
    """

    output: Features
    stages: list[Features]


class LionBackbone(nn.Module):
    """Blocks with a voxel generation after each, and one more layer.

    Args:
        dim: C.
        operator: a name of `OPERATORS`.
        windows: (x, y, z) of every stage, in voxels.
        group_sizes: of every stage, in voxels.
        drop_path: share of the groups that an operator leaves as they are while training.
        share: of the voxels around which new ones are made after a stage.
        options: further arguments of the operators, as `heads` of those that have some.
        grad_checkpointing: see `set_grad_checkpointing`.
    Raises:
        ValueError: there is no such operator; windows and group sizes are not as many, or not positive.
    """

    last_layers: ClassVar[Sequence[tuple[Scale, int]]] = (((13, 13, 2), 256),)
    """Window and group size of the layers after the stages; their windows are shifted."""

    def __init__(
        self,
        dim: int = 64,
        operator: str = "mamba",
        windows: Sequence[Scale] = ((13, 13, 32), (13, 13, 16), (13, 13, 8), (13, 13, 4)),
        group_sizes: Sequence[int] = (4096, 2048, 1024, 512),
        drop_path: float = 0.2,
        share: float = 0.2,
        options: Mapping[str, Any] | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if operator not in OPERATORS:
            raise ValueError(f"operator={operator!r} is unknown; choose one of {', '.join(sorted(OPERATORS))}")
        if len(windows) != len(group_sizes) or not windows:
            raise ValueError(f"windows and group_sizes must be as many, one per stage; got {windows} and {group_sizes}")
        self.dim = dim
        per_block = 4 * len(SCALES)
        total = per_block * len(windows) + 2 * len(self.last_layers)
        make = OPERATORS[operator]
        operators = (make(dim, drop_path=drop_path, number=i, total=total, **(options or {})) for i in range(total))
        self.stages = nn.ModuleList(
            LionBlock(dim, SCALES, window, size, list(islice(operators, per_block)))
            for window, size in zip(windows, group_sizes, strict=True)
        )
        self.generations = nn.ModuleList(VoxelGeneration(dim, FLATTEN, share) for _ in windows)
        self.last = nn.ModuleList(
            LionLayer(list(islice(operators, 2)), Partition(window, size, shifted=True))
            for window, size in self.last_layers
        )
        self.set_grad_checkpointing(grad_checkpointing)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether a training step keeps of every operator its input alone, and runs it once more in the backward pass.

        On a CPU a step of `lion_mamba_kitti` then takes a third of the memory, and a quarter more time.
        """
        for module in self.modules():
            if isinstance(module, LionLayer):
                module.grad_checkpointing = enable

    def height(self, voxels: int) -> int:
        """Of the grid of the result, for one of so many voxels."""
        for _ in self.stages:
            voxels = -(-voxels // FLATTEN[2])
        return voxels

    def forward(self, x: Tensor, sites: Sites) -> LionFeatures:
        """(N, C) features of voxels to features of fewer and new ones, in a grid of 1/2 the height per stage."""
        stages = []
        for block, generation in zip(self.stages, self.generations, strict=True):
            x, sites, _ = generation(block(x, sites), sites)
            stages.append((x, sites))
        return LionFeatures((self.last[0](x, sites), sites), stages)


class LionFlatBackbone(LionBackbone):
    """`LionBackbone` that ends with one layer of voxels: halves the height once more, and adds layers of wide windows.

    Args: as of `LionBackbone`.
    """

    last_layers: ClassVar[Sequence[tuple[Scale, int]]] = (
        *LionBackbone.last_layers,
        ((25, 25, 1), 512),
        ((37, 37, 1), 1024),
        ((51, 51, 1), 2048),
    )

    def __init__(
        self,
        dim: int = 128,
        operator: str = "mamba",
        windows: Sequence[Scale] = ((13, 13, 32), (13, 13, 16), (13, 13, 8), (13, 13, 4)),
        group_sizes: Sequence[int] = (4096, 2048, 1024, 512),
        drop_path: float = 0.2,
        share: float = 0.2,
        options: Mapping[str, Any] | None = None,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__(dim, operator, windows, group_sizes, drop_path, share, options, grad_checkpointing)
        self.flatten = VoxelGeneration(dim, FLATTEN, share)

    def height(self, voxels: int) -> int:
        """See `LionBackbone.height`."""
        return -(-super().height(voxels) // FLATTEN[2])

    def forward(self, x: Tensor, sites: Sites) -> LionFeatures:
        """(N, C) features of voxels to features in a grid of height 1, for four stages from a height of 32."""
        (x, sites), stages = super().forward(x, sites)
        x, sites, _ = self.flatten(x, sites)
        for layer in list(self.last)[1:]:
            x = layer(x, sites)
        return LionFeatures((x, sites), stages)


BACKBONES: dict[str, type[LionBackbone]] = {"stages": LionBackbone, "flat": LionFlatBackbone}
"""Name in a configuration, and class."""
