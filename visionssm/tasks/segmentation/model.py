"""torchvision's segmentation models as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn.functional import cross_entropy

from visionssm.drawing import pixels
from visionssm.engine.adapter import TaskModel
from visionssm.engine.errors import ConfigError
from visionssm.heads.segmentors import segmentation_model
from visionssm.tasks.segmentation.data import IGNORED
from visionssm.tasks.segmentation.metric import confusion_of

_AUXILIARY_WEIGHT = 0.4

Images = Tensor | Sequence[Tensor]


class TorchvisionSegmentor(TaskModel):
    """A segmentation model in torchvision's form on a backbone of this package or of timm.

    Args:
        name: of the backbone.
        num_classes: with the background, where that is one.
        head: "deeplab" or "fcn".
        channels: of the fused map and within the head.
        atrous_rates: of the "deeplab" head.
        auxiliary: train with an auxiliary head, whose loss counts 0.4.
        class_weights: factors of the classes' pixels in the loss, for sets in which one class, as the background,
            covers nearly everything; None for 1 each.
        pretrained: start the backbone from published ImageNet weights.
        mean, std: of the images in [0, 1], which are normalised inside.
        backbone: further arguments of `segmentation_model`, for example `dict(drop_path_rate=0.1)`.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "segmentation"
    identity = ("name", "num_classes", "head", "channels")
    num_classes: int
    mean: Tensor
    std: Tensor
    class_weights: Tensor

    def __init__(
        self,
        name: str,
        num_classes: int,
        head: str = "deeplab",
        channels: int = 256,
        atrous_rates: Sequence[int] = (12, 24, 36),
        auxiliary: bool = False,
        class_weights: Sequence[float] | None = None,
        pretrained: bool = False,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
        backbone: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        arguments: dict[str, Any] = {
            "name": name,
            "num_classes": num_classes,
            "head": head,
            "channels": channels,
            "atrous_rates": list(atrous_rates),
            "auxiliary": auxiliary,
        }
        try:
            network = segmentation_model(**arguments, pretrained=pretrained, **dict(backbone or {}))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        about = {**arguments, "mean": list(mean), "std": list(std), "backbone": dict(backbone or {})}
        super().__init__(network, about, data_preprocessor, init_cfg)
        self.num_classes = num_classes
        weights = [1.0] * num_classes if class_weights is None else list(class_weights)
        if len(weights) != num_classes or not all(weight > 0 for weight in weights):
            raise ConfigError(f"model.class_weights={weights} must be {num_classes} positive numbers, one per class")
        self.register_buffer("class_weights", torch.tensor(weights), persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def _all_scores(self, inputs: Images) -> Mapping[str, Tensor]:
        return self.model((_stacked(inputs) - self.mean) / self.std)

    def scores(self, inputs: Images) -> Tensor:
        """(B, num_classes, H, W) of (B, 3, H, W) images in [0, 1], or of a list of images of one size."""
        return self._all_scores(inputs)["out"]

    def losses(self, inputs: Images, labels: Images, index: Any = None, skipped: Any = None) -> dict[str, Tensor]:  # type: ignore[override]
        """`loss_pixels`, and `loss_auxiliary` if there is such a head.

        Args:
            inputs: (B, 3, H, W) images in [0, 1], or a list of images of one size.
            labels: (B, H, W) class numbers; 255 is ignored.
            index: (B,) numbers of the samples in their data set; −1 where an image could not be read.
            skipped: (B,) damaged images passed over for each sample; counted elsewhere.
        """
        scores, truth = self._all_scores(inputs), _stacked(labels)
        losses = {"loss_pixels": _pixel_loss(scores["out"], truth, self.class_weights)}
        if "aux" in scores:
            losses["loss_auxiliary"] = _AUXILIARY_WEIGHT * _pixel_loss(scores["aux"], truth, self.class_weights)
        return losses

    def answers(  # type: ignore[override]
        self, inputs: Images, labels: Images | None = None, index: Any = None, skipped: Any = None
    ) -> list[dict[str, Any]]:
        """`index`, `image`, the `predicted` classes and, where these are labelled, `truth` and `confusion`."""
        images = _stacked(inputs)
        truth = None if labels is None else _stacked(labels)
        rows = []
        for number, (image, predicted) in enumerate(zip(images, self.scores(images).argmax(1), strict=True)):
            row = {
                "index": number if index is None else int(index[number]),
                "image": pixels(image),
                "predicted": predicted.to(torch.uint8).cpu().numpy(),
            }
            if truth is not None:
                row["truth"] = truth[number].to(torch.uint8).cpu().numpy()
                row["confusion"] = confusion_of(truth[number], predicted, self.num_classes)
            rows.append(row)
        return rows


def _stacked(images: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(images, Tensor):
        return images
    sizes = {tuple(image.shape[-2:]) for image in images}
    if len(sizes) > 1:
        raise ConfigError(
            f"the images of a batch have different sizes ({', '.join(f'{w}×{h}' for h, w in sorted(sizes)[:3])}, …); "
            "set batch_size=1, or give the data set transforms=[dict(type='Resize', size=(H, W))] or RandomCrop"
        )
    return torch.stack(list(images))


def _pixel_loss(scores: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Weighted mean cross-entropy of the labelled pixels; 0 where a batch has none."""
    total = cross_entropy(scores, labels, class_weights, ignore_index=IGNORED, reduction="sum")
    weight = class_weights[labels[labels != IGNORED]].sum()
    return total / weight.clamp(min=torch.finfo(weight.dtype).tiny)
