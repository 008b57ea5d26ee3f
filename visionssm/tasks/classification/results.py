"""The classes of an image; without PyTorch, for exported files have such results too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visionssm.drawing import save_picture, with_title
from visionssm.engine.task import Row, Source


@dataclass(frozen=True)
class ClassResult:
    """The best classes of an image, best first, with their probabilities."""

    best: Sequence[tuple[str, float]]

    def rows(self) -> list[Row]:
        """Rank, class, score."""
        return [(rank, name, score) for rank, (name, score) in enumerate(self.best, start=1)]

    def plain(self) -> dict[str, Any]:
        """{"classes": [{"class": …, "score": …}]}."""
        return {"classes": [{"class": name, "score": score} for name, score in self.best]}

    def drawn(self, image: Image.Image) -> Image.Image:
        """The image below its best class."""
        name, score = self.best[0]
        return with_title(image.convert("RGB"), f"{name} {score:.2f}")

    def save(self, folder: Path, source: Source) -> None:
        """Write the drawn image."""
        save_picture(self.drawn(source.sample), folder / f"{source.name}.png")
