"""How well video frames are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from visionssm.drawing import save_picture
from visionssm.engine.task import Metric
from visionssm.files import write_csv
from visionssm.tasks.video.frames import as_image, draw_grid, levels

FIGURES = ("error", "copy_error", "psnr", "rollout_psnr", "copy_psnr")


def mean_psnr(predicted: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of (T, H, W, C) frames in [−1, 1], a mean over the frames."""
    error = (predicted.float() - target.float()).square().mean((1, 2, 3)) / 4  # of values in [0, 1]
    return float(-10 * error.clamp(min=1e-10).log10().mean())


class NextFrameMetric(Metric):
    """How well frames are predicted, and how well copying the last known frame would have done.

    Metrics: `error` (the training's loss) and `psnr` of predicting each frame from all before it; `copy_error` of
    repeating the frame before; `rollout_psnr` of the generated rest of a clip; `copy_psnr` of repeating the last frame
    that was given.

    Args:
        keep: clips whose frames are kept for figures.

    Attributes:
        clips: (clip, generated) frames of the first clips of the last evaluation, (T, H, W, C) and (T − context, …).
    """

    formats: ClassVar[tuple[str, ...]] = ("", ".csv")

    def __init__(self, keep: int = 4) -> None:
        super().__init__()
        self.keep = keep
        self.clips: list[tuple[Tensor, Tensor]] = []
        self.rows: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the numbers of one batch, and the frames of the first clips of the data set."""
        for row in data_samples:
            frames = {key: row[key] for key in ("clip", "generated")} if row["index"] < self.keep else {}
            numbers = {key: value for key, value in row.items() if not isinstance(value, torch.Tensor)}
            if self.complete:
                frames["levels"] = levels(row["generated"]).numpy()
            self.results.append(numbers | frames)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over all clips."""
        self.rows = sorted(results, key=lambda row: row["index"])
        shown = sorted((row for row in results if "clip" in row), key=lambda row: row["index"])
        self.clips = [(row["clip"], row["generated"]) for row in shown]
        self.pictures = [
            (row["index"], as_image(draw_grid([(row["clip"], row["generated"])]), scale=2)) for row in shown
        ]
        return {name: math.fsum(row[name] for row in results) / len(results) for name in FIGURES}

    def write(self, path: Path, dataset: Any) -> None:
        """Write the generated frames of every clip, CLIP/FRAME.png, and a table into a folder, or the table as .csv.

        The table has a line per clip, with its figures; frames are numbered in the whole clip, from 0.
        """
        sample_name = getattr(dataset, "sample_name", str)
        table = path
        if path.suffix.lower() != ".csv":
            table = path / "predictions.csv"
            for row in self.rows:
                folder = path / sample_name(row["index"])
                folder.mkdir(parents=True, exist_ok=True)
                for number, frame in enumerate(row["levels"], start=row["known"]):
                    save_picture(as_image(torch.from_numpy(frame)), folder / f"{number:04d}.png")
        lines = ((sample_name(row["index"]), *(row[name] for name in FIGURES)) for row in self.rows)
        write_csv(table, ("sample", *FIGURES), lines)
