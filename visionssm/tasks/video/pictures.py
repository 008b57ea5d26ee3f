"""Predicted video frames as a PNG grid and as a GIF."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from PIL import Image
from torch import Tensor

from visionssm.engine.checkpoint import write_atomically
from visionssm.engine.hooks.pictures import write_picture

_GAP = 2
_GAP_LEVEL, _KNOWN_LEVEL = 96, 220


@HOOKS.register_module()
class PredictedFramesHook(Hook):
    """After a validation, draw the clips that a `NextFrameMetric` keeps into the work folder.

    predicted_frames.png has two rows per clip, the true frames and those given and then generated; time runs to the
    right, and a light line parts given from generated frames. predicted_frames.gif plays the same pairs side by side.

    Args:
        scale: side of a drawn pixel.
        milliseconds: a frame of the GIF.
    """

    priority = "LOWEST"

    def __init__(self, scale: int = 2, milliseconds: int = 150) -> None:
        self.scale = scale
        self.milliseconds = milliseconds

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Draw the clips of this evaluation."""
        clips = [clip for metric in runner.val_loop.evaluator.metrics for clip in getattr(metric, "clips", ())]
        if clips and is_main_process():
            folder = Path(runner.work_dir)
            write_png(draw_grid(clips), folder / "predicted_frames.png", self.scale)
            write_gif(draw_frames(clips), folder / "predicted_frames.gif", self.scale, self.milliseconds)


def draw_grid(clips: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """(H, W, C) 8-bit picture of (clip, generated) pairs, two rows each."""
    rows = []
    for clip, generated in clips:
        known = len(clip) - len(generated)
        for frames in (clip, torch.cat([clip[:known], generated])):
            rows.append(_beside([_levels(frame) for frame in frames], dim=1, line_before=known))
    return _beside(rows, dim=0)


def draw_frames(clips: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """(H, W, C) 8-bit pictures over time: a column per clip, true frames above, given and generated ones below."""
    pictures = []
    for t in range(len(clips[0][0])):
        columns = []
        for clip, generated in clips:
            known = len(clip) - len(generated)
            predicted = clip[t] if t < known else generated[t - known]
            columns.append(_beside([_levels(clip[t]), _levels(predicted)], dim=0, line_before=1 if t >= known else -1))
        pictures.append(_beside(columns, dim=1))
    return pictures


def write_png(picture: Tensor, path: Path, scale: int) -> None:
    """Write a PNG that is complete or absent."""
    write_picture(_image(picture, scale), path)


def write_gif(pictures: Sequence[Tensor], path: Path, scale: int, milliseconds: int) -> None:
    """Write an endless GIF that is complete or absent."""
    first, *rest = [_image(picture, scale) for picture in pictures]
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def _levels(frame: Tensor) -> Tensor:
    """Values in [−1, 1] as 0 … 255."""
    return ((frame.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


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


def _image(picture: Tensor, scale: int) -> Image.Image:
    array = picture.numpy()
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
