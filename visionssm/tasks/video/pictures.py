"""Predicted video frames as a PNG grid and as a GIF, after every validation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from visionssm.tasks.video.frames import draw_frames, draw_grid, write_gif, write_png


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
