"""Parts of models that work at one resolution: patches, learned positions, a class token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import lecun_normal_
from torch import Tensor, nn

from visionssm.kernels.routes import n_cells
from visionssm.layers.conv import MapConv2d
from visionssm.layers.image import checked_images
from visionssm.layers.leaf import leaf_function, leaf_module
from visionssm.layers.padding import padded_to_multiples
from visionssm.layers.stem import image_to_map


class PatchGrid(nn.Module):
    """What cuts pictures into patches, of `patch_size` pixels a side, one every `stride` pixels."""

    patch_size: int
    stride: int
    proj: nn.modules.conv._ConvNd

    def grid_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of (H, W) pixels; pixels left over at its end are in no patch.

        Raises:
            ValueError: the image is smaller than a patch.
        """
        height, width = img_size
        if min(height, width) < self.patch_size:
            raise ValueError(
                f"an image of {height}x{width} pixels is smaller than one patch; give at least"
                f" {self.patch_size}x{self.patch_size}"
            )
        return (height - self.patch_size) // self.stride + 1, (width - self.patch_size) // self.stride + 1


@leaf_module  # it checks the size of the image
class PatchEmbedding(PatchGrid):
    """One token per patch; patches overlap where the stride is smaller than they are.

    Args:
        in_chans: image channels.
        dim: C, channels of a token.
        patch_size: side of a patch in pixels.
        stride: pixels from one patch to the next.
    """

    def __init__(self, in_chans: int, dim: int, *, patch_size: int, stride: int, **factory: Any) -> None:
        super().__init__()
        self.patch_size, self.stride = patch_size, stride
        self.proj = MapConv2d(in_chans, dim, patch_size, stride, **factory)
        lecun_normal_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to a (B, rows, columns, dim) map."""
        checked_images(x, self.proj.in_channels, least=0)
        self.grid_size((x.shape[2], x.shape[3]))
        return self.proj(image_to_map(x))


class PaddedPatchGrid(PatchGrid):
    """As `PatchGrid`, for images that are filled up on the right and below to whole patches, which do not overlap."""

    def grid_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches in an image of (H, W) pixels.

        Raises:
            ValueError: the image has no pixels.
        """
        height, width = img_size
        if min(height, width) < 1:
            raise ValueError(f"an image of {height}x{width} pixels is too small; give at least 1x1")
        return n_cells(height, self.stride), n_cells(width, self.stride)


@leaf_module  # it looks at the size of the image
class PaddedPatchEmbedding(PaddedPatchGrid, PatchEmbedding):
    """`PatchEmbedding` of an image that is filled up with zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to a (B, rows, columns, dim) map."""
        return super().forward(padded_to_multiples(x, (self.stride, self.stride)) if x.ndim == 4 else x)


def insert_token(tokens: Tensor, token: Tensor, slot: Any) -> Tensor:
    """Insert a (B, 1, C) token into (B, T, C) tokens as number `slot`: (B, T + 1, C)."""
    return torch.cat([tokens[:, :slot], token, tokens[:, slot:]], dim=1)


@leaf_function
def resample_positions(
    table: Tensor,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    class_slots: tuple[int, int] | None = None,
) -> Tensor:
    """A table of learned positions for another grid of patches, bicubic (align_corners off, no antialiasing).

    Args:
        table: (1, rows·columns, C) in row-major order, and one entry more if there is a class token.
        old_grid, new_grid: rows and columns.
        class_slots: number of the class token's entry in the old and in the new table; it is copied, not resampled.
            Vim's own fine-tuning code takes (0, 0), as if the class token were the first and not the middle one.
    """
    # A size that an exporter leaves open is asked nothing: the answer for its example would be fixed in the graph.
    is_open = any(isinstance(n, torch.SymInt) for n in new_grid)
    if not is_open and tuple(old_grid) == tuple(new_grid):
        return table
    patches, class_entry = table, None
    if class_slots is not None:
        old_slot = class_slots[0]
        class_entry = table[:, old_slot : old_slot + 1]
        patches = torch.cat([table[:, :old_slot], table[:, old_slot + 1 :]], dim=1)
    precise = patches.to(torch.promote_types(table.dtype, torch.float32))
    maps = precise.unflatten(1, (old_grid[0], old_grid[1])).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=list(new_grid), mode="bicubic", align_corners=False)
    resampled = maps.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    if class_slots is None or class_entry is None:
        return resampled
    return insert_token(resampled, class_entry, class_slots[1])
