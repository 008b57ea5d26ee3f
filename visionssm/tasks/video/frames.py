"""Video frames as pictures: clips in a grid, and playing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from visionssm.drawing import save_picture
from visionssm.files import complete_or_absent

_GAP = 2
_GAP_LEVEL, _KNOWN_LEVEL = 96, 220


def draw_grid(clips: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(H, W, C) 8-bit picture of (clip, generated) pairs, two rows each."""
    rows = []
    for clip, generated in clips:
        known = len(clip) - len(generated)
        for frames in (clip, torch.cat([clip[:known], generated])):
            rows.append(_beside([levels(frame) for frame in frames], dim=1, line_before=known))
    return _beside(rows, dim=0)


def draw_frames(clips: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """(H, W, C) 8-bit pictures over time: a column per clip, true frames above, given and generated ones below."""
    pictures = []
    for t in range(len(clips[0][0])):
        columns = []
        for clip, generated in clips:
            known = len(clip) - len(generated)
            predicted = clip[t] if t < known else generated[t - known]
            columns.append(_beside([levels(clip[t]), levels(predicted)], dim=0, line_before=1 if t >= known else -1))
        pictures.append(_beside(columns, dim=1))
    return pictures


def write_png(picture: Tensor, path: Path, scale: int) -> None:
    """Write a PNG that is complete or absent."""
    save_picture(as_image(picture, scale), path)


def write_gif(pictures: Sequence[Tensor], path: Path, scale: int, milliseconds: int) -> None:
    """Write an endless GIF that is complete or absent."""
    first, *rest = [as_image(picture, scale) for picture in pictures]
    with complete_or_absent(path) as temporary:
        first.save(temporary, save_all=True, append_images=rest, duration=milliseconds, loop=0)


def levels(frame: Tensor) -> Tensor:
    """Values in [−1, 1] as 0 … 255."""
    return ((frame.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_image(picture: Tensor, scale: int = 1) -> Image.Image:
    """(H, W, C) levels as an image, enlarged."""
    array = picture.numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _beside(pictures: Sequence[Tensor], dim: int, line_before: int = -1) -> Tensor:
    """Pictures in a row (dim 1) or column (dim 0) with gaps; the gap before number `line_before` is light."""
    shape = list(pictures[0].shape)
    shape[dim] = _GAP
    parts: list[Tensor] = []
    for number, picture in enumerate(pictures):
        if number:
            parts.append(torch.full(shape, _KNOWN_LEVEL if number == line_before else _GAP_LEVEL, dtype=torch.uint8))
        parts.append(picture)
    return torch.cat(parts, dim)
