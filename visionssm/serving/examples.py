"""Files that the demo page offers: rendered ones of the model's kind, or the user's own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visionssm.data.text import printable
from visionssm.prediction import find_files
from visionssm.serving.service import Service

MOST = 24

Example = tuple[str, bytes]


def own_examples(paths: Sequence[Path], most_bytes: int) -> list[Example]:
    """Names and contents of files, those in folders too.

    Raises:
        ValueError: there is none, there are more than `MOST`, or one is larger than the service takes.
        OSError: one cannot be read.
    """
    files = find_files(paths)
    if not 0 < len(files) <= MOST:
        raise ValueError(f"--examples must be 1 to {MOST} files, got {len(files)}")
    for file in files:
        if file.stat().st_size > most_bytes:
            raise ValueError(f"the example {str(file)!r} is larger than the {most_bytes:,} bytes that are taken")
    return [(printable(file.name), file.read_bytes()) for file in files]


def rendered_examples(service: Service) -> list[Example]:
    """Three pictures that no download is needed for: digits for grey images, shapes for others, sweeps of a street."""
    if not service.takes_images:
        return _sweeps() if type(service.predictor).__name__ == "SweepDetector" else []
    return _digits() if getattr(service.predictor, "image_mode", "RGB") == "L" else _shapes()


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _shapes() -> list[Example]:
    from visionssm.data.shapes import ShapesSpec, render

    return [(f"shapes {i + 1}.png", _png(np.asarray(render(ShapesSpec(), "test", i).image))) for i in range(3)]


def _digits() -> list[Example]:
    """Of scikit-learn, which the extra train installs; none without it."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        return []
    images = load_digits().images[[3, 14, 25]]
    larger = (Image.fromarray((x * 255 / 16).astype(np.uint8)).resize((64, 64)) for x in images)
    return [(f"digit {i + 1}.png", _png(np.asarray(image))) for i, image in enumerate(larger)]


def _sweeps() -> list[Example]:
    from visionssm.tasks.pointcloud.scenes import ScenesSpec, render

    def sweep(index: int) -> bytes:
        points: Any = render(ScenesSpec(), "test", index).points
        return np.asarray(points, dtype="<f4").tobytes()

    return [(f"street {i + 1}.bin", sweep(i)) for i in range(2)]
