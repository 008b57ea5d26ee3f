"""Detectors of point clouds as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from visionssm.engine.adapter import TaskModel
from visionssm.engine.errors import ConfigError
from visionssm.pointcloud.boxes import Truth
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.variants import create_detector


class PointCloudDetector(TaskModel):
    """A detector of `visionssm.create_detector`.

    Args:
        name: one of `visionssm.list_detectors()`.
        pretrained: whether to start from published weights; or a file of such.
        changes: arguments in place of the variant's, for example `dict(dim=32)`.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "pointcloud"
    identity = ("name",)
    model: LionDetector
    num_classes: int

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        changes: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        arguments = dict(changes or {})
        try:
            network = create_detector(name, pretrained=pretrained, **arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        super().__init__(network, {"name": name, "changes": arguments}, data_preprocessor, init_cfg)
        self.num_classes = len(network.classes)

    def losses(  # type: ignore[override]
        self, inputs: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], **_: Any
    ) -> dict[str, Tensor]:
        """The head's losses.

        Args:
            inputs: clouds (N_i, F).
            boxes: (M_i, 7) of every sample.
            labels: (M_i,) class numbers of these.
        """
        place = inputs[0].device
        truths = [Truth(x.to(place), y.to(place)) for x, y in zip(boxes, labels, strict=True)]
        return self.model.losses(inputs, truths)

    def answers(  # type: ignore[override]
        self, inputs: Sequence[Tensor], boxes: Any = None, labels: Any = None, frame: Any = None, index: Any = None
    ) -> list[dict[str, Any]]:
        """`index`, `frame`, `points`, and of what is found `boxes`, `scores` and `labels` as arrays."""
        rows = []
        for number, found in enumerate(self.model.detections(inputs)):
            row = {name: x.detach().cpu().numpy() for name, x in found._asdict().items()}
            row["index"] = number if index is None else int(index[number])
            row["frame"] = None if frame is None else frame[number]
            row["points"] = inputs[number].detach().cpu().numpy()
            rows.append(row)
        return rows
