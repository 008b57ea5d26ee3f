"""torchvision's detectors as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchvision.models.detection import MaskRCNN

from visionssm.drawing import pixels
from visionssm.engine.adapter import TaskModel
from visionssm.engine.errors import ConfigError
from visionssm.heads.detectors import Options, torchvision_detector
from visionssm.tasks.detection.metric import plain_objects


class TorchvisionDetector(TaskModel):
    """A detector of torchvision on a backbone of this package or of timm.

    Args:
        architecture: "FasterRCNN", "MaskRCNN" (the data must have masks) or "RetinaNet".
        name: of the backbone.
        num_classes: without the background.
        size: (shortest, longest) side that images are scaled to.
        channels: of the feature pyramid and the heads (torchvision's models: 256).
        anchor_sizes: side of the anchors in pixels, one per level of the pyramid (5), fine to coarse.
        pretrained: start the backbone from published ImageNet weights.
        backbone: further arguments of `detection_backbone`, for example `dict(drop_path_rate=0.1)`.
        options: further arguments of torchvision's class, for example `dict(box_detections_per_img=20)`.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "detection"
    identity = ("architecture", "name", "num_classes", "channels")
    num_classes: int

    def __init__(
        self,
        architecture: str,
        name: str,
        num_classes: int,
        size: Sequence[int] = (800, 1333),
        channels: int = 256,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        pretrained: bool = False,
        backbone: Options | None = None,
        options: Options | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        about: dict[str, Any] = {
            "architecture": architecture,
            "name": name,
            "num_classes": num_classes,
            "size": list(size),
            "channels": channels,
            "anchor_sizes": list(anchor_sizes),
            "backbone": dict(backbone or {}),
            "options": dict(options or {}),
        }
        try:
            network = torchvision_detector(**about, pretrained=pretrained)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        super().__init__(network, about, data_preprocessor, init_cfg)
        self.num_classes = num_classes

    @property
    def needs_masks(self) -> bool:
        """Whether it is trained with masks and predicts them."""
        return isinstance(self.model, MaskRCNN)

    def scores(self, inputs: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """torchvision's detections of (3, H, W) images in [0, 1], of any sizes: a dict per image.

        It has `boxes`, `labels` from 1, `scores` and, of Mask R-CNN, `masks` (n, 1, H, W) in [0, 1].
        """
        return self.model(list(inputs))

    def losses(  # type: ignore[override]
        self, inputs: Sequence[Tensor], targets: Mapping[str, Sequence[Tensor]], index: Any = None, skipped: Any = None
    ) -> dict[str, Tensor]:
        """torchvision's losses.

        Args:
            inputs: (3, H, W) images in [0, 1], of any sizes; they are normalised and scaled inside.
            targets: lists of `boxes` (n, 4), `labels` (n,) from 1, `masks` (n, H, W), `crowd` (n,), one item per image;
                crowds are left out of the losses.
            index: numbers of the samples in their data set; −1 where an image could not be read.
            skipped: damaged images passed over for each sample; counted elsewhere.
        """
        images = list(inputs)
        wanted = ["boxes", "labels", *(["masks"] if self.needs_masks else [])]
        if "masks" in wanted and "masks" not in targets:
            raise ConfigError(
                "model.architecture='MaskRCNN' needs masks, which the data set does not give; use FasterRCNN"
            )
        given = [{name: targets[name][number] for name in wanted} for number in range(len(images))]
        if "crowd" in targets:
            single = [~crowd for crowd in targets["crowd"]]
            given = [
                {name: items[yes] for name, items in objects.items()}
                for objects, yes in zip(given, single, strict=True)
            ]
        losses = self.model(images, given)
        # MMEngine trains the sum of what is named loss
        return {name if name.startswith("loss") else f"loss_{name}": value for name, value in losses.items()}

    def answers(  # type: ignore[override]
        self,
        inputs: Sequence[Tensor],
        targets: Mapping[str, Sequence[Tensor]] | None = None,
        index: Any = None,
        skipped: Any = None,
    ) -> list[dict[str, Any]]:
        """`index`, `image`, what was `found` and the `truth`, if there is one, of every image."""
        rows = []
        for number, (image, objects) in enumerate(zip(inputs, self.scores(inputs), strict=True)):
            row = {
                "index": number if index is None else int(index[number]),
                "image": pixels(image),
                "found": plain_objects(objects),
            }
            if targets is not None:
                row["truth"] = plain_objects({name: items[number] for name, items in targets.items()})
            rows.append(row)
        return rows

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """Nothing but the classes.

        Raises:
            ConfigError: objects lack the masks that the model needs.
        """
        if self.needs_masks:
            _check_masks(train_set, "training", needed=True)
            _check_masks(val_set, "validation", needed=False)
        return {}


def _check_masks(dataset: Any, part: str, *, needed: bool) -> None:
    """Refuse data of which some objects have no mask, and with `needed` those of which none has."""
    lacking, count = getattr(dataset, "without_mask", []), getattr(dataset, "object_count", 0)
    whole = len(lacking) == count or not lacking
    if getattr(dataset, "has_masks", True) or (whole and not needed):
        return
    if whole:
        raise ConfigError(
            f"model.architecture='MaskRCNN' needs masks, but the {part} data have none (or masks=False); use FasterRCNN"
        )
    examples = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
    raise ConfigError(
        f"model.architecture='MaskRCNN' needs masks, but {len(lacking)} of {count} objects of the {part} data have "
        f"none: {examples}. Give them masks, leave them out with masks=True and wrong='skip' in the data set's config, "
        "or use FasterRCNN."
    )
