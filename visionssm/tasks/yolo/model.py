"""Mamba-YOLO as MMEngine trains it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visionssm.checkpoints import CheckpointError
from visionssm.drawing import pixels
from visionssm.engine.adapter import TaskModel
from visionssm.engine.errors import ConfigError
from visionssm.heads.yolo import STRIDES, create_yolo
from visionssm.heads.yolo.loss import YoloLoss
from visionssm.tasks.detection.metric import plain_objects
from visionssm.tasks.yolo.inference import check_size, found_objects


class YoloDetector(TaskModel):
    """Mamba-YOLO with its loss, evaluated as COCO is: every class of a point is a candidate from a score of .001 on.

    Args:
        name: `mambayolo_t`, … of `visionssm.heads.yolo.list_yolos()`.
        num_classes: without a background.
        size: side of the square that images are scaled to fit in evaluation, a multiple of 32.
        pretrained: weights to start from, a file of the authors' format or ours, of as many classes.
        threshold: score that candidates exceed in evaluation.
        overlap: IoU above which the worse of two boxes of one class is left out.
        loss: weights of the parts, `dict(box=7.5, classes=0.5, distribution=1.5)`.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "yolo"
    identity = ("name", "num_classes")
    num_classes: int

    def __init__(
        self,
        name: str,
        num_classes: int,
        size: int = 640,
        pretrained: bool | str | Path = False,
        threshold: float = 0.001,
        overlap: float = 0.7,
        loss: Mapping[str, float] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        try:
            check_size(size)
            network = create_yolo(name, num_classes, pretrained=pretrained)
            self_loss = YoloLoss(**dict(loss or {}))
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        for key, value in (("threshold", threshold), ("overlap", overlap)):
            if not 0 <= value <= 1:
                raise ConfigError(f"model.{key}={value!r} must be from 0 to 1")
        super().__init__(network, {"name": name, "num_classes": num_classes, "size": size}, data_preprocessor, init_cfg)
        self.num_classes = num_classes
        self.size, self.threshold, self.overlap, self.loss = size, threshold, overlap, self_loss

    def scores(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Raw maps of (3, H, W) images in [0, 1] of one size, whose sides are multiples of 32."""
        return self.model(_batch(inputs))

    def losses(  # type: ignore[override]
        self,
        inputs: Tensor | Sequence[Tensor],
        targets: Mapping[str, Sequence[Tensor]],
        index: Any = None,
        skipped: Any = None,
    ) -> dict[str, Tensor]:
        """The losses of classes, boxes and distances.

        Args:
            inputs: (3, H, W) images in [0, 1] of one size.
            targets: lists of `boxes` (n, 4), `labels` (n,) from 1 and `crowd` (n,), one item per image; crowds are left
                out of the losses.
            index: numbers of the samples in their data set; −1 where an image could not be read.
            skipped: damaged images passed over for each sample; counted elsewhere.
        """
        boxes, labels = list(targets["boxes"]), [x - 1 for x in targets["labels"]]
        if "crowd" in targets:
            single = [~crowd for crowd in targets["crowd"]]
            boxes = [x[yes] for x, yes in zip(boxes, single, strict=True)]
            labels = [x[yes] for x, yes in zip(labels, single, strict=True)]
        return self.loss(self.scores(inputs), boxes, labels, STRIDES)

    def answers(  # type: ignore[override]
        self,
        inputs: Sequence[Tensor],
        targets: Mapping[str, Sequence[Tensor]] | None = None,
        index: Any = None,
        skipped: Any = None,
    ) -> list[dict[str, Any]]:
        """`index`, `image`, what was `found` and the `truth`, if there is one, of every image, of any sizes."""
        rows = []
        found = found_objects(self.model, list(inputs), self.size, threshold=self.threshold, overlap=self.overlap)
        for number, (image, objects) in enumerate(zip(inputs, found, strict=True)):
            given = {"boxes": objects.boxes, "scores": objects.scores, "labels": objects.labels + 1}
            row = {
                "index": number if index is None else int(index[number]),
                "image": pixels(image),
                "found": plain_objects(given),
            }
            if targets is not None:
                row["truth"] = plain_objects(
                    {name: items[number] for name, items in targets.items() if name != "masks"}
                )
            rows.append(row)
        return rows


def _batch(inputs: Tensor | Sequence[Tensor]) -> Tensor:
    """Images of one size as one tensor.

    Raises:
        ConfigError: they have different sizes.
    """
    if isinstance(inputs, Tensor):
        return inputs
    sizes = {tuple(image.shape[1:]) for image in inputs}
    if len(sizes) > 1:
        told = ", ".join(f"{width}×{height}" for height, width in sorted(sizes)[:3])
        raise ConfigError(f"images of one batch have different sizes: {told}; train on type='MosaicDetection'")
    return torch.stack(list(inputs))
