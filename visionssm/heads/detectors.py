"""torchvision's detectors on backbones of this package or of timm.

detector = torchvision_detector("MaskRCNN", "vmamba_tiny_s1l8", num_classes=80)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from visionssm.data.spelling import closest
from visionssm.heads.detection_backbone import detection_backbone

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


def torchvision_detector(
    architecture: str,
    name: str,
    num_classes: int,
    *,
    size: Sequence[int] = (800, 1333),
    channels: int = 256,
    anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
    pretrained: bool = False,
    backbone: Options | None = None,
    options: Options | None = None,
) -> nn.Module:
    """A detector of torchvision: (3, H, W) images in [0, 1] of any sizes to `boxes`, `labels`, `scores` and `masks`.

    Args:
        architecture: one of `DETECTORS`; "MaskRCNN" needs masks to be trained.
        name: of the backbone.
        num_classes: without the background.
        size: (shortest, longest) side that images are scaled to.
        channels: of the feature pyramid and the heads (torchvision's models: 256).
        anchor_sizes: side of the anchors in pixels, one per level of the pyramid (5), fine to coarse.
        pretrained: start the backbone from published ImageNet weights.
        backbone: further arguments of `detection_backbone`.
        options: further arguments of torchvision's class.
    Raises:
        ValueError: an argument is unknown or wrong; its text begins with the argument's name.
    """
    if architecture not in DETECTORS:
        raise ValueError(f"architecture={architecture!r} is unknown; choose one of {', '.join(sorted(DETECTORS))}")
    if len(size) != 2 or not 0 < size[0] <= size[1]:
        raise ValueError(f"size={size!r} must be (shortest, longest) side in pixels")
    if len(anchor_sizes) != LEVELS:
        raise ValueError(f"anchor_sizes must be {LEVELS} numbers, one per level, got {list(anchor_sizes)}")
    _check_options(architecture, options or {})
    return DETECTORS[architecture](
        {"name": name, "pretrained": pretrained, **dict(backbone or {})},
        num_classes,
        channels,
        anchor_sizes,
        {"min_size": size[0], "max_size": size[1], **dict(options or {})},
    )


def _check_options(architecture: str, options: Options) -> None:
    """torchvision's classes take any keyword and ignore those that they do not know."""
    known = {"size_divisible", "fixed_size", *inspect.signature(_CLASSES[architecture]).parameters}
    known -= {"self", "backbone", "num_classes", "kwargs"}
    for name in options:
        if name not in known:
            raise ValueError(
                f"options: torchvision's {architecture} takes no {name!r}; closest: {closest(name, known)}"
            )
