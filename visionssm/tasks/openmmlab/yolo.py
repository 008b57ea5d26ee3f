"""Mamba-YOLO as a detector of mmdet, for its data pipelines, metrics and hooks.

For configs: `custom_imports = dict(imports=["visionssm.tasks.openmmlab.yolo"])`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionssm.integrations.openmmlab.operators import provide_operators

provide_operators()  # before anything imports mmcv.ops

from mmdet.models.detectors.base import BaseDetector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from visionssm.engine.errors import ConfigError  # noqa: E402
from visionssm.heads.yolo import STRIDES, Objects, create_yolo, suppress_batch  # noqa: E402
from visionssm.heads.yolo.loss import YoloLoss  # noqa: E402

_EVALUATION = {"score_thr": 0.001, "iou_threshold": 0.7}


@MODELS.register_module()
class MambaYoloDetector(BaseDetector):
    """Mamba-YOLO in mmdet's form: what `visionssm.tasks.yolo.model.YoloDetector` computes, and its names of weights.

    Its `data_preprocessor` has to give images in [0, 1] and RGB, filled up to multiples of 32 with grey:
    `dict(type="DetDataPreprocessor", mean=[0.0] * 3, std=[255.0] * 3, bgr_to_rgb=True, pad_size_divisor=32,
    pad_value=114 / 255)`.

    Args:
        backbone: `dict(name="mambayolo_t")`, one of `visionssm.heads.yolo.list_yolos()`.
        num_classes: without a background.
        pretrained: weights to start from, a file of the authors' format or ours, of as many classes.
        loss: weights of the parts, `dict(box=7.5, classes=0.5, distribution=1.5)`.
        test_cfg: `dict(score_thr=0.001, iou_threshold=0.7)`: the score that objects exceed, and the IoU above which the
            worse of two boxes of one class is left out.
        train_cfg: none; there for mmdet.
        data_preprocessor, init_cfg: mmdet's.
    Raises:
        ConfigError: an argument is unknown or out of range.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        num_classes: int = 80,
        pretrained: bool | str = False,
        loss: Mapping[str, float] | None = None,
        test_cfg: Mapping[str, float] | None = None,
        train_cfg: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        unknown = [f"model.backbone.{x}" for x in backbone if x != "name"]
        unknown += [f"model.train_cfg.{x}" for x in train_cfg or ()]
        unknown += [f"model.test_cfg.{x}" for x in test_cfg or () if x not in _EVALUATION]
        if unknown or "name" not in backbone:
            raise ConfigError(
                f"MambaYoloDetector takes backbone=dict(name=…) and test_cfg=dict({', '.join(_EVALUATION)}); got "
                f"{', '.join(unknown) or 'no model.backbone.name'}"
            )
        self._evaluation = {**_EVALUATION, **(test_cfg or {})}
        for key, value in self._evaluation.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"model.test_cfg.{key}={value!r} must be from 0 to 1")
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        try:
            self.model = create_yolo(backbone["name"], num_classes, pretrained=pretrained)
            self._loss = YoloLoss(**dict(loss or {}))
        except TypeError as error:
            raise ConfigError(f"model: {error}") from error

    @property
    def backbone(self) -> nn.Module:
        """The network's backbone, whose maps `visionssm visualize` shows."""
        return self.model.backbone

    def init_weights(self) -> None:
        """Nothing: MMEngine calls this before training, when the weights are already as they should be."""

    def extract_feat(self, batch_inputs: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the backbone's maps at strides 8, 16 and 32."""
        maps = self.model.backbone.forward_intermediates(batch_inputs, indices=[1, 2, 3], intermediates_only=True)
        assert isinstance(maps, list)  # the last map would come with them otherwise
        return maps

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """The losses of classes, boxes and distances; ignored objects are left out.

        Args:
            batch_inputs: (B, 3, H, W) in [0, 1], sides multiples of 32.
            batch_data_samples: with `gt_instances`, labels from 0.
        """
        truth = [sample.gt_instances for sample in batch_data_samples]
        boxes = [x.bboxes if isinstance(x.bboxes, Tensor) else x.bboxes.tensor for x in truth]
        return self._loss(self.model(batch_inputs), boxes, [x.labels for x in truth], STRIDES)

    def predict(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any], rescale: bool = True) -> list[Any]:
        """The data samples with `pred_instances`, best first.

        Args:
            batch_inputs: (B, 3, H, W) in [0, 1].
            batch_data_samples: with `ori_shape`, `img_shape` and `scale_factor` (x, y) of each image.
            rescale: boxes in the pixels of the image file rather than of the input.
        """
        boxes, scores = self.model.predict(batch_inputs)
        threshold, overlap = self._evaluation["score_thr"], self._evaluation["iou_threshold"]
        found = suppress_batch(boxes, scores, threshold=threshold, overlap=overlap)
        pairs = zip(found, batch_data_samples, strict=True)
        return self.add_pred_to_datasample(batch_data_samples, [_instances(*pair, rescale) for pair in pairs])

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Any = None) -> tuple[Tensor, ...]:
        return self.model(batch_inputs)


def _instances(objects: Objects, sample: Any, rescale: bool) -> InstanceData:
    boxes, (height, width) = objects.boxes, sample.img_shape[:2]
    if rescale:
        boxes = boxes / boxes.new_tensor(sample.get("scale_factor", (1.0, 1.0))).repeat(2)
        height, width = sample.ori_shape[:2]
    boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height] * 2))
    return InstanceData(bboxes=boxes, scores=objects.scores, labels=objects.labels)
