"""Graphs of exported files without a file: what a predictor exports, run by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from visionssm.engine.exported import Graph
from visionssm.integrations.export import Exportable


def graph_of(exportable: Exportable, *, fixed: bool = False) -> Graph:
    """What opening the exported file would give; that files compute the same is checked where they are written."""
    shape = exportable.shape or (1, 3, 64, 64)
    sides = tuple(side if fixed or n not in exportable.axes else exportable.axes[n] for n, side in enumerate(shape))

    @torch.no_grad()
    def run(inputs: np.ndarray) -> Sequence[np.ndarray]:
        found: Any = exportable.network(torch.from_numpy(inputs))
        return [x.numpy() for x in ([found] if isinstance(found, torch.Tensor) else found)]

    assert exportable.outputs is not None
    about = dict(exportable.about)
    return Graph(Path("model.onnx"), about, exportable.input, sides, np.float32, exportable.outputs, run)
