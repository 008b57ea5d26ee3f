"""Exported files (.onnx, .pt2) applied to files: those in ONNX by onnxruntime, Pillow and NumPy, without PyTorch.

    predictor = load_exported("model.onnx", top_k=3)
    (result,) = predictor([predictor.read("photo.jpg")])

A file says of itself what `visionssm export` wrote into it: task, classes, and how images are prepared. How the files
of a task are applied is said by its `TASK`, see `visionssm.engine.task`. Files of other programs are refused.
"""

from __future__ import annotations

import visionssm.tasks  # noqa: F401  makes the tasks known
from visionssm.engine.exported import (
    OPENERS,
    ExportedFileError,
    Graph,
    is_exported,
    load_exported,
    open_graph,
    with_options,
)

__all__ = ["OPENERS", "ExportedFileError", "Graph", "is_exported", "load_exported", "open_graph", "with_options"]
