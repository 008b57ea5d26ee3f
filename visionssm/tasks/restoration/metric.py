"""PSNR and SSIM of restored images, beside those of what the network was given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visionssm.engine.task import Metric
from visionssm.files import write_csv
from visionssm.tasks.restoration.measures import CHANNELS, measured, psnr, ssim
from visionssm.tasks.restoration.pictures import comparison
from visionssm.tasks.restoration.resize import resized

_FIGURES = ("psnr", "ssim", "psnr_before", "ssim_before")


class RestorationMetric(Metric):
    """Means over images: `psnr` in dB and `ssim`; the same of the input as `psnr_before` and `ssim_before`; `gain`.

    Images are rounded to 8 bits first. A small input is enlarged by MATLAB's bicubic for the comparison. Where a figure
    is not defined (SSIM below 11×11 pixels) it is left out of the mean.

    Args:
        channel: "y" for the luma of colours, as papers on super-resolution measure; "rgb" for all channels.
        border: pixels that are left out at every side; None for as many as the scale, and none at scale 1.
        keep: images of the data set that are drawn.

    Raises:
        ValueError: an argument is wrong.
    """

    formats: ClassVar[tuple[str, ...]] = (".csv",)

    def __init__(self, channel: str = "y", border: int | None = None, keep: int = 4) -> None:
        super().__init__()
        if channel not in CHANNELS:
            raise ValueError(f"channel={channel!r} is unknown; choose one of {', '.join(CHANNELS)}")
        if border is not None and border < 0:
            raise ValueError(f"border must be at least 0, got {border}")
        self.channel, self.border, self.keep = channel, border, keep
        self.rows: list[dict[str, Any]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Measure the images of one batch, and draw the first ones of the data set.

        Args:
            data_samples: `index`; `inputs` (h, w, C), `restored` and `clean` (H, W, C), uint8.
        """
        for row in data_samples:
            clean = row["clean"]
            scale = clean.shape[0] // row["inputs"].shape[0]
            before = row["inputs"]
            if scale > 1:
                before = resized(before, scale).clip(0, 255).round().astype(np.uint8)
            border = self.border if self.border is not None else scale if scale > 1 else 0
            found, given, true = (measured(pixels, self.channel, border) for pixels in (row["restored"], before, clean))
            kept = {
                "index": row["index"],
                "psnr": psnr(found, true),
                "ssim": ssim(found, true),
                "psnr_before": psnr(given, true),
                "ssim_before": ssim(given, true),
            }
            if row["index"] < self.keep:
                titled = {
                    f"{'bicubic' if scale > 1 else 'input'} {kept['psnr_before']:.2f} dB": before,
                    f"restored {kept['psnr']:.2f} dB": row["restored"],
                    "true": clean,
                }
                kept["picture"] = comparison(titled)
            self.results.append(kept)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Means over all images."""
        if not results:
            raise ValueError("nothing to evaluate: the data set has no image")
        self.rows = sorted(results, key=lambda row: int(row["index"]))
        self.pictures = [(row["index"], row["picture"]) for row in self.rows if "picture" in row]
        figures = {name: _mean([row[name] for row in self.rows]) for name in _FIGURES}
        figures["gain"] = figures["psnr"] - figures["psnr_before"]
        return {name: value for name, value in figures.items() if not math.isnan(value)}

    def write(self, path: Path, dataset: Any) -> None:
        """Write a table with a row for every image."""
        sample_name = getattr(dataset, "sample_name", str)
        lines = [(sample_name(row["index"]), *(float(row[name]) for name in _FIGURES)) for row in self.rows]
        write_csv(path, ("image", *_FIGURES), lines)


def _mean(values: Sequence[float]) -> float:
    known = [x for x in values if not math.isnan(x)]
    return sum(known) / len(known) if known else math.nan
