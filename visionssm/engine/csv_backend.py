"""What is logged, as a table for spreadsheets."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from mmengine.registry import VISBACKENDS
from mmengine.visualization.vis_backend import BaseVisBackend


@VISBACKENDS.register_module()
class CsvVisBackend(BaseVisBackend):
    """Write scalars into scalars.csv of the run's folder, a line for each: step, name, value.

    A line is written when it is logged, so a run that is cut off leaves all that it had. In a configuration:
    `visualizer = dict(type="Visualizer", vis_backends=[dict(type="CsvVisBackend")])`.

    Args:
        save_dir: folder, which MMEngine gives.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir)
        self.path = Path(save_dir) / "scalars.csv"

    @property
    def experiment(self) -> Path:
        """The file."""
        return self.path

    def _init_env(self) -> None:
        """Nothing is to be prepared."""

    def add_scalar(self, name: str, value: Any, step: int = 0, **_: Any) -> None:
        """Write one number; what is none (MMEngine also logs texts) is left out."""
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: Any = None, **_: Any) -> None:
        """Write numbers of one step."""
        step = int(scalar_dict.get("step", step))
        numbers = {name: getattr(value, "item", lambda value=value: value)() for name, value in scalar_dict.items()}
        rows = [(step, name, value) for name, value in numbers.items() if name != "step" and isinstance(value, Real)]
        new = not self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([("step", "name", "value"), *rows] if new else rows)
