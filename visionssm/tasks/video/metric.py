"""How well video frames are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from torch import Tensor


def mean_psnr(predicted: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of (T, H, W, C) frames in [−1, 1], a mean over the frames."""
    error = (predicted.float() - target.float()).square().mean((1, 2, 3)) / 4  # of values in [0, 1]
    return float(-10 * error.clamp(min=1e-10).log10().mean())


@METRICS.register_module()
class NextFrameMetric(BaseMetric):
    """How well frames are predicted, and how well copying the last known frame would have done.

    Metrics: `error` (the training's loss) and `psnr` of predicting each frame from all before it; `copy_error` of
    repeating the frame before; `rollout_psnr` of the generated rest of a clip; `copy_psnr` of repeating the last frame
    that was given.

    Args:
        keep: clips whose frames are kept for figures.

    Attributes:
        clips: (clip, generated) frames of the first clips of the last evaluation, (T, H, W, C) and (T − context, …).
    """

    default_prefix = ""  # None would make MMEngine warn

    def __init__(self, keep: int = 4, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device, prefix)
        self.keep = keep
        self.clips: list[tuple[Tensor, Tensor]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the numbers of one batch, and the frames of the first clips of the data set."""
        for row in data_samples:
            frames = {key: row[key] for key in ("clip", "generated")} if row["index"] < self.keep else {}
            numbers = {key: value for key, value in row.items() if not isinstance(value, torch.Tensor)}
            self.results.append(numbers | frames)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over all clips."""
        shown = sorted((row for row in results if "clip" in row), key=lambda row: row["index"])
        self.clips = [(row["clip"], row["generated"]) for row in shown]
        names = ("error", "copy_error", "psnr", "rollout_psnr", "copy_psnr")
        return {name: math.fsum(row[name] for row in results) / len(results) for name in names}
