"""The network as MMEngine trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.tasks.points.network import PointNet
from visionssm.engine.adapter import TaskModel


class PointClassifier(TaskModel):
    task = "points"
    identity = ("width", "num_classes")

    def __init__(self, width: int, num_classes: int, data_preprocessor: Any = None, init_cfg: Any = None) -> None:
        about = {"width": width, "num_classes": num_classes}
        super().__init__(PointNet(**about), about, data_preprocessor, init_cfg)
        self.num_classes = num_classes

    def losses(self, inputs: Sequence[Tensor], labels: Any, index: Any = None) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": cross_entropy(self.model(inputs), torch.as_tensor(labels))}

    def answers(self, inputs: Sequence[Tensor], labels: Any, index: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        scores = self.model(inputs)
        rows = zip(scores, labels, index, inputs, strict=True)
        return [{"scores": s.cpu(), "label": int(y), "index": int(i), "points": x} for s, y, i, x in rows]
