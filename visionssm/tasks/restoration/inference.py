"""Applying a network to images of any size, in tiles that overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from visionssm.tasks.restoration.tiles import Tiling, tiled

__all__ = ["Tiling", "restored"]


def restored(network: Callable[[Tensor], Tensor], image: Tensor, scale: int, how: Tiling) -> Tensor:
    """What a network makes of an image, tile by tile.

    Where a network's view is narrower than a quarter of the overlap, this is what it makes of the whole image.

    Args:
        network: (1, C, H, W) to (1, C, scale·H, scale·W).
        image: (C, H, W), where the network is.
        scale: of the network.
        how: see `Tiling`.
    Returns:
        (C, scale·H, scale·W) float32, on the CPU if there are several tiles.

    Examples:
        >>> import torch
        >>> image = torch.rand(3, 40, 50)
        >>> torch.testing.assert_close(restored(lambda x: x, image, 1, Tiling(16, 8)), image)
    """
    height, width = image.shape[1:]
    if len(how.starts(height)[0]) == len(how.starts(width)[0]) == 1:
        return network(image[None])[0].float()

    def of_tile(top: int, left: int, rows: int, columns: int) -> np.ndarray:
        found = network(image[None, :, top : top + rows, left : left + columns])[0]
        return found.float().cpu().numpy()

    return torch.from_numpy(tiled(of_tile, (image.shape[0], height, width), scale, how))
