"""LION's layer and block, and the steps that merge voxels, make new ones and bring them back (arXiv 2407.18232).

Features are (N, C), a row per voxel, beside the `Sites` that say where these are. No module writes into its input.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import guard_or_false
from torch.utils.checkpoint import checkpoint

from visionssm.kernels import sparse_conv
from visionssm.pointcloud.partition import DIRECTIONS, Partition
from visionssm.pointcloud.voxels import RowNorm, Sites, distinct

PI = 3.1415
"""As the published weights know it."""

Scale = tuple[int, int, int]
"""Voxels along x, y, z that become one."""

MOST_TOKENS = 1 << 14
"""That an operator takes at a time on a CPU. What it makes of more leaves the caches, and comes in blocks of memory so
large that the C library gives them back to the system when they are freed, which clears new ones page by page."""

DIAGONALS = ((-1, 1), (1, 1), (-1, -1), (1, -1))
"""Steps along x and y from a voxel to those that are made around it."""


class LionLayer(nn.Module):
    """Linear RNNs over groups of voxels: one over those sorted along x, and after it one along y.

    Args:
        operators: by direction.
        partition: of the voxels.
    """

    def __init__(self, operators: Sequence[nn.Module], partition: Partition) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(operators)
        self.partition = partition
        self.grad_checkpointing = False

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, C) features to the same shape."""
        if guard_or_false(sites.count == 0):
            return x
        groups = self.partition.of(sites)
        for direction, operator in zip(DIRECTIONS, self.blocks, strict=True):
            order = groups.orders[direction]
            grouped = [self._run(operator, x, source, groups.size) for source in pieces(order.source, groups.size)]
            x = (torch.cat(grouped) if len(grouped) > 1 else grouped[0]).index_select(0, order.place)
        return x

    def _run(self, operator: nn.Module, x: Tensor, source: Tensor, size: int) -> Tensor:
        """(P, C) results of the groups whose tokens are the voxels of these P numbers."""
        grouped = x.index_select(0, source).view(-1, size, x.shape[1])
        if self.grad_checkpointing and torch.is_grad_enabled():
            grouped = checkpoint(operator, grouped, use_reentrant=False)
        else:
            grouped = operator(grouped)
        return grouped.flatten(0, 1)


def pieces(source: Tensor, size: int) -> Sequence[Tensor]:
    """(P,) numbers of the tokens of groups, cut between groups so that a CPU takes `MOST_TOKENS` of them at a time.

    Groups larger than that stay whole, as do all on other devices and where a compiler or exporter looks on.
    """
    if source.device.type != "cpu" or torch.compiler.is_compiling() or type(source) is not Tensor:
        return (source,)
    return source.split(max(MOST_TOKENS // size, 1) * size)


class SubmanifoldConv(nn.Module):
    """3×3×3 convolution of voxels that gives results where there are voxels, and nowhere else (arXiv 1711.10275).

    Args:
        dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, 3, 3, 3, dim))  # out, z, y, x, in
        nn.init.kaiming_uniform_(self.weight.data.view(dim, -1), a=5**0.5)

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, C) to the same shape."""
        taps = self.weight.flatten(1, 3).permute(1, 2, 0)  # (27, in, out)
        return sparse_conv(x, taps, sites.neighbours)


class VoxelMerging(nn.Module):
    """Voxels of a coarser grid: a convolution with norm and GELU, and the sum of what comes to lie together.

    Args:
        dim: C.
        scale: voxels along x, y, z that become one.
    Raises:
        ValueError: a scale is not positive.
    """

    def __init__(self, dim: int, scale: Scale) -> None:
        super().__init__()
        if min(scale) < 1:
            raise ValueError(f"scale={tuple(scale)} must be at least 1 along x, y and z")
        self.scale = scale
        self.sub_conv = nn.ModuleList([SubmanifoldConv(dim), nn.LayerNorm(dim)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, sites: Sites) -> tuple[Tensor, Sites, Tensor]:
        """(N, C) features to (N', C), where these are, and the number of the voxel that each of the N became part of.

        An odd grid is rounded up: its last voxels become one of half the size.
        """
        conv, norm = self.sub_conv
        x = F.gelu(norm(conv(x, sites)))
        coords, whole = self.coords(x, sites), x.shape[0]
        steps = coords.new_tensor((1, *reversed(self.scale)))
        shape = tuple(-(-length // step) for length, step in zip(sites.shape, reversed(self.scale), strict=True))
        merged, inverse = distinct(coords // steps, shape, sites.batch_size)
        total = x.new_zeros(merged.count, x.shape[1]).index_add_(0, inverse[:whole], x)
        return self.norm(total), merged, inverse[:whole]

    def coords(self, x: Tensor, sites: Sites) -> Tensor:
        """(M, 4) coordinates that are merged; those of the N voxels come first.

        Args:
            x: (N, C) features before they are merged.
            sites: where they are.
        """
        return sites.coords


class VoxelGeneration(VoxelMerging):
    """`VoxelMerging` with new voxels around the most telling ones: those whose features are the largest on average.

    New voxels have no features of their own, so that one beside no other starts as the norm's bias.

    Args:
        dim: C.
        scale: voxels along x, y, z that become one.
        share: of a sample's voxels, around which new ones are made.
        steps: along x and y, to the new voxels; those outside of the grid are put on its border.
    """

    def __init__(
        self, dim: int, scale: Scale, share: float = 0.2, steps: Sequence[tuple[int, int]] = DIAGONALS
    ) -> None:
        super().__init__(dim, scale)
        if not 0 <= share <= 1:
            raise ValueError(f"share={share} of the voxels must be between 0 and 1")
        self.share = share
        self.steps = tuple(steps)

    def coords(self, x: Tensor, sites: Sites) -> Tensor:
        """The coordinates of the N voxels, and of those that are made."""
        chosen = sites.coords[self.foreground(x.detach().mean(1), sites)]
        made = []
        for along_x, along_y in self.steps:
            batch, z, y, column = chosen.unbind(1)
            y = (y + along_y).clamp(0, sites.shape[1] - 1)
            made.append(torch.stack([batch, z, y, (column + along_x).clamp(0, sites.shape[2] - 1)], 1))
        return torch.cat([sites.coords, *made])

    def foreground(self, response: Tensor, sites: Sites) -> Tensor:
        """Numbers of the voxels around which new ones are made: in every sample the share with the highest response.

        Args:
            response: (N,) of the voxels.
            sites: where they are.
        """
        chosen, first = [], 0
        for count in sites.counts:
            order = response[first : first + count].argsort(descending=True, stable=True)
            chosen.append(first + order[: torch.sym_int(self.share * count)])
            first += count
        return torch.cat(chosen)


class PositionEmbedding(nn.Module):
    """A feature of where in the grid a voxel is.

    Args:
        dim: C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.position_embedding_head = nn.Sequential(
            nn.Linear(3, dim), RowNorm(dim), nn.ReLU(inplace=True), nn.Linear(dim, dim)
        )

    def forward(self, sites: Sites, dtype: torch.dtype) -> Tensor:
        """(N, C) of the voxels."""
        half = torch.tensor(sites.shape, device=sites.coords.device).flip(0) / 2
        places = (sites.coords[:, 1:].flip(1) - half) / half * PI
        return self.position_embedding_head(places.to(dtype))


class LionBlock(nn.Module):
    """A U of layers: at the resolution of the input and at coarser ones, and back.

    Args:
        dim: C.
        scales: of the steps down; there are as many layers down as up. All but the first of both are shifted.
        window: of all layers, in voxels of their own resolution.
        group_size: of all layers.
        operators: make the operators, two of each layer, layers down before those up.
    Raises:
        ValueError: `operators` are not four for each scale.
    """

    def __init__(
        self, dim: int, scales: Sequence[Scale], window: Scale, group_size: int, operators: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        depth = len(scales)
        if len(operators) != 4 * depth:
            raise ValueError(f"a block of {depth} scales has {4 * depth} operators, got {len(operators)}")
        layers = [
            LionLayer(operators[2 * i : 2 * i + 2], Partition(window, group_size, shifted=i % depth > 0))
            for i in range(2 * depth)
        ]
        self.encoder = nn.ModuleList(layers[:depth])
        self.downsample_list = nn.ModuleList(VoxelMerging(dim, scale) for scale in scales)
        self.pos_emb_list = nn.ModuleList(PositionEmbedding(dim) for _ in scales)
        self.decoder = nn.ModuleList(layers[depth:])
        self.decoder_norm = nn.ModuleList(nn.LayerNorm(dim) for _ in scales)

    def forward(self, x: Tensor, sites: Sites) -> Tensor:
        """(N, C) features to the same shape."""
        kept: list[tuple[Tensor, Sites, Tensor]] = []
        for embedding, layer, merging in zip(self.pos_emb_list, self.encoder, self.downsample_list, strict=True):
            x = layer(x + embedding(sites, x.dtype), sites)
            coarse, coarse_sites, inverse = merging(x, sites)
            kept.append((x, sites, inverse))
            x, sites = coarse, coarse_sites
        for layer, norm in zip(self.decoder, self.decoder_norm, strict=True):
            x = layer(x, sites)
            skip, sites, inverse = kept.pop()
            x = norm(skip + x.index_select(0, inverse))  # voxels expand to those that they were merged from
        return x
