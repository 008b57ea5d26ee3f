"""The task of finding objects: torchvision's detectors on any backbone, with COCO's average precision."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from visionssm.data.coco import mask_coder
from visionssm.data.spelling import closest
from visionssm.drawing import beside, class_colour, draw_objects, shown_scale, with_title
from visionssm.engine.dense import check_same_model, class_names, pixels
from visionssm.engine.errors import ConfigError
from visionssm.integrations.torchvision import detection_backbone

Options = Mapping[str, Any]

_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_ROI = 7


def _anchors(sizes: Sequence[int]) -> AnchorGenerator:
    return AnchorGenerator(tuple((size,) for size in sizes), (_ASPECT_RATIOS,) * len(sizes))


def _faster_rcnn(backbone: Options, num_classes: int, channels: int, anchor_sizes: Sequence[int], rest: Options) -> Any:
    return FasterRCNN(
        detection_backbone(out_channels=channels, **backbone),
        rpn_anchor_generator=_anchors(anchor_sizes),
        box_head=TwoMLPHead(channels * _ROI**2, 4 * channels),
        box_predictor=FastRCNNPredictor(4 * channels, num_classes + 1),
        **rest,
    )


def _mask_rcnn(backbone: Options, num_classes: int, channels: int, anchor_sizes: Sequence[int], rest: Options) -> Any:
    return MaskRCNN(
        detection_backbone(out_channels=channels, **backbone),
        rpn_anchor_generator=_anchors(anchor_sizes),
        box_head=TwoMLPHead(channels * _ROI**2, 4 * channels),
        box_predictor=FastRCNNPredictor(4 * channels, num_classes + 1),
        mask_head=MaskRCNNHeads(channels, (channels,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
        **rest,
    )


def _retinanet(backbone: Options, num_classes: int, channels: int, anchor_sizes: Sequence[int], rest: Options) -> Any:
    scaled = tuple(tuple(int(size * 2 ** (part / 3)) for part in range(3)) for size in anchor_sizes)
    body = detection_backbone(
        out_channels=channels,
        out_indices=(1, 2, 3),
        extra_blocks=LastLevelP6P7(channels, channels),
        **backbone,
    )
    anchors = AnchorGenerator(scaled, (_ASPECT_RATIOS,) * len(scaled))
    return RetinaNet(body, num_classes + 1, anchor_generator=anchors, **rest)


DETECTORS: Mapping[str, Callable[[Options, int, int, Sequence[int], Options], nn.Module]] = {
    "FasterRCNN": _faster_rcnn,
    "MaskRCNN": _mask_rcnn,
    "RetinaNet": _retinanet,
}
"""torchvision's detectors by the name of their class."""

LEVELS = 5

_CLASSES: Mapping[str, type] = {"FasterRCNN": FasterRCNN, "MaskRCNN": MaskRCNN, "RetinaNet": RetinaNet}


def _check_options(architecture: str, options: Options) -> None:
    """torchvision's classes take any keyword and ignore those that they do not know."""
    known = {"size_divisible", "fixed_size", *inspect.signature(_CLASSES[architecture]).parameters}
    known -= {"self", "backbone", "num_classes", "kwargs"}
    for name in options:
        if name not in known:
            raise ConfigError(
                f"model.options: torchvision's {architecture} takes no {name!r}; closest: {closest(name, known)}"
            )


@MODELS.register_module()
class TorchvisionDetector(BaseModel):
    """A detector of torchvision on a backbone of this package or of timm, as MMEngine trains it.

    Args:
        architecture: "FasterRCNN", "MaskRCNN" (the data must have masks) or "RetinaNet".
        name: of the backbone.
        num_classes: without the background.
        size: (shortest, longest) side that images are scaled to.
        channels: of the feature pyramid and the heads (torchvision's models: 256).
        anchor_sizes: side of the anchors in pixels, one a level of the pyramid (5), fine to coarse.
        pretrained: start the backbone from published ImageNet weights.
        backbone: further arguments of `detection_backbone`, for example `dict(drop_path_rate=0.1)`.
        options: further arguments of torchvision's class, for example `dict(box_detections_per_img=20)`.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

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
        super().__init__(data_preprocessor, init_cfg)
        if architecture not in DETECTORS:
            raise ConfigError(
                f"model.architecture={architecture!r} is unknown; choose one of {', '.join(sorted(DETECTORS))}"
            )
        if len(size) != 2 or not 0 < size[0] <= size[1]:
            raise ConfigError(f"model.size={size!r} must be (shortest, longest) side in pixels")
        if len(anchor_sizes) != LEVELS:
            raise ConfigError(f"model.anchor_sizes must be {LEVELS} numbers, one a level, got {list(anchor_sizes)}")
        arguments: dict[str, Any] = {
            "architecture": architecture,
            "name": name,
            "num_classes": num_classes,
            "size": list(size),
            "channels": channels,
            "anchor_sizes": list(anchor_sizes),
            "backbone": dict(backbone or {}),
            "options": dict(options or {}),
        }
        _check_options(architecture, options or {})
        try:
            self.model = DETECTORS[architecture](
                {"name": name, "pretrained": pretrained, **dict(backbone or {})},
                num_classes,
                channels,
                anchor_sizes,
                {"min_size": size[0], "max_size": size[1], **dict(options or {})},
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        self.num_classes = num_classes
        self._about = arguments

    def init_weights(self) -> None:
        """Do nothing: the model is initialised, or loaded, when it is made."""

    def forward(
        self,
        inputs: Sequence[Tensor],
        targets: Mapping[str, Sequence[Tensor]] | None = None,
        index: Sequence[int] | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Losses or detections of a batch.

        Args:
            inputs: (3, H, W) images in [0, 1], of any sizes; they are normalised and scaled inside.
            targets: lists of `boxes` (n, 4), `labels` (n,) from 1, `masks` (n, H, W), `crowd` (n,), one item an image.
            index: numbers of the samples in their data set.
            mode: MMEngine's: "loss" gives torchvision's losses, "tensor" its detections, a dict an image with `boxes`,
                `labels`, `scores` and, of Mask R-CNN, `masks` (n, 1, H, W) in [0, 1]; "predict" a dict an image for
                `DetectionMetric`.
        """
        images = list(inputs)
        if mode != "loss":
            found = self.model(images)
            return found if mode == "tensor" else self._rows(images, found, targets, index)
        assert targets is not None
        wanted = ["boxes", "labels", *(["masks"] if self.needs_masks else [])]
        if "masks" in wanted and "masks" not in targets:
            raise ConfigError("model.architecture='MaskRCNN' needs masks, but the data set has none; use FasterRCNN")
        given = [{name: targets[name][number] for name in wanted} for number in range(len(images))]
        losses = self.model(images, given)
        # MMEngine trains the sum of what is named loss
        return {name if name.startswith("loss") else f"loss_{name}": value for name, value in losses.items()}

    @property
    def needs_masks(self) -> bool:
        """Whether it is trained with masks and predicts them."""
        return isinstance(self.model, MaskRCNN)

    def _rows(self, images: Sequence[Tensor], found: Any, targets: Any, index: Any) -> list[dict[str, Any]]:
        rows = []
        for number, (image, objects) in enumerate(zip(images, found, strict=True)):
            row = {
                "index": number if index is None else int(index[number]),
                "image": pixels(image),
                "found": plain_objects(objects),
            }
            if targets is not None:
                row["truth"] = plain_objects({name: items[number] for name, items in targets.items()})
            rows.append(row)
        return rows

    def checkpoint_meta(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """What a checkpoint says of itself, in plain types, so that it can be used without its config.

        Raises:
            ConfigError: the data sets and the model disagree on the classes.
        """
        names = class_names(train_set, val_set, self.num_classes)
        return {"task": "detection", "model": dict(self._about), "classes": names}

    def check_checkpoint(self, meta: Mapping[str, Any], path: str) -> None:
        """Refuse a checkpoint of another model.

        Raises:
            CheckpointError: the checkpoint says that it is of another model.
        """
        check_same_model(meta, path, self._about, ("architecture", "name", "num_classes", "channels"))


def plain_objects(objects: Mapping[str, Tensor]) -> dict[str, Any]:
    """Detections or targets as arrays; masks as compressed run lengths, which take little memory."""
    plain: dict[str, Any] = {name: x.detach().cpu().numpy() for name, x in objects.items() if name != "masks"}
    if "masks" in objects:
        masks = objects["masks"].detach()
        masks = (masks[:, 0] if masks.ndim == 4 else masks) > 0.5
        plain["masks"] = [mask_coder().encode(np.asfortranarray(mask)) for mask in masks.cpu().numpy().astype(np.uint8)]
    return plain


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """COCO's average precision, between 0 and 1.

    `box_ap` over IoU 0.5 to 0.95, `box_ap50`, `box_ap75`; with masks also `mask_ap`, `mask_ap50`, `mask_ap75`. Numbers
    without any true object are −1, as COCO's.

    Args:
        keep: images of the data set that are kept for drawing.
        threshold: least score of a drawn detection.

    Attributes:
        pictures: name and picture of the first images, true objects on the left, detections on the right.
    """

    default_prefix = ""  # None would make MMEngine warn

    def __init__(
        self, keep: int = 8, threshold: float = 0.5, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device, prefix)
        self.keep = keep
        self.threshold = threshold
        self.pictures: list[tuple[int, Image.Image]] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Keep the detections of one batch, and the pixels of the first images of the data set."""
        for row in data_samples:
            size = row["image"].shape[:2]
            kept = dict(row) if row["index"] < self.keep else {k: v for k, v in row.items() if k != "image"}
            self.results.append({**kept, "size": size})

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Metrics of all images."""
        classes = list((self.dataset_meta or {}).get("classes") or [])
        self.pictures = [
            (row["index"], self._picture(row, classes)) for row in sorted(results, key=_index) if "image" in row
        ]
        kinds = {"box": "bbox"}
        if all("masks" in row["truth"] and "masks" in row["found"] for row in results):
            kinds["mask"] = "segm"
        metrics: dict[str, float] = {}
        for name, kind in kinds.items():
            ap, ap50, ap75 = average_precision(results, kind)
            metrics |= {f"{name}_ap": ap, f"{name}_ap50": ap50, f"{name}_ap75": ap75}
        return metrics

    def _picture(self, row: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
        image = Image.fromarray(row["image"])
        likely = row["found"]["scores"] >= self.threshold
        found = select(row["found"], likely)
        return beside(
            [
                with_title(picture_of(image, row["truth"], classes), "truth"),
                with_title(picture_of(image, found, classes), f"detected (score >= {self.threshold:g})"),
            ]
        )


def _index(row: Mapping[str, Any]) -> int:
    return int(row["index"])


def select(objects: Mapping[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """Those of the plain objects that a bool mask chooses."""
    return {
        name: [x for x, yes in zip(items, chosen, strict=True) if yes] if isinstance(items, list) else items[chosen]
        for name, items in objects.items()
    }


def picture_of(image: Image.Image, objects: Mapping[str, Any], classes: Sequence[str]) -> Image.Image:
    """An image with plain objects drawn on it; scores where there are any."""
    numbers = [int(label) - 1 for label in objects["labels"]]
    names = [classes[number] if number < len(classes) else f"class {number}" for number in numbers]
    if "scores" in objects:
        names = [f"{name} {score:.2f}" for name, score in zip(names, objects["scores"], strict=True)]
    masks = None
    if "masks" in objects:
        masks = np.array([mask_coder().decode(x) for x in objects["masks"]], dtype=bool)
    colours = [class_colour(number) for number in numbers]
    return draw_objects(image, objects["boxes"], names, colours, masks, scale=shown_scale(image))


def average_precision(rows: Sequence[Mapping[str, Any]], kind: str) -> tuple[float, float, float]:
    """COCO's AP, AP50 and AP75 of `bbox` or `segm`, of rows with `size`, `truth` and `found`."""
    mask_coder()  # tells the extra if pycocotools is missing
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    labels = sorted({int(label) for row in rows for part in ("truth", "found") for label in row[part]["labels"]})
    truth.dataset = {
        "info": {},
        "images": [
            {"id": number, "height": row["size"][0], "width": row["size"][1]} for number, row in enumerate(rows)
        ],
        "annotations": _entries(rows, "truth"),
        "categories": [{"id": label, "name": str(label)} for label in labels],
    }
    found = _entries(rows, "found")
    if not found:
        return (0.0, 0.0, 0.0) if truth.dataset["annotations"] else (-1.0, -1.0, -1.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth.createIndex()
        detected = truth.loadRes(found)
        evaluation = COCOeval(truth, detected, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75 = evaluation.stats[:3]
    return float(ap), float(ap50), float(ap75)


def _entries(rows: Sequence[Mapping[str, Any]], part: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for image, row in enumerate(rows):
        objects = row[part]
        for number, (left, top, right, bottom) in enumerate(objects["boxes"].tolist()):
            entry: dict[str, Any] = {
                "id": len(entries) + 1,
                "image_id": image,
                "category_id": int(objects["labels"][number]),
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": int(objects["crowd"][number]) if "crowd" in objects else 0,
            }
            if "scores" in objects:
                entry["score"] = float(objects["scores"][number])
            if "masks" in objects:
                entry["segmentation"] = objects["masks"][number]
                entry["area"] = float(mask_coder().area(objects["masks"][number]))
            entries.append(entry)
    return entries
