"""torchvision's detectors in a form that exporters take: one image to its objects, the same as the detector finds.

What torchvision's own code asks of the data in Python, such as how many boxes are left, is asked in the graph here. The
layers, box coders, anchors and thresholds are those of the detector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image, nms, roi_align

from visionssm.integrations.export.exportable import Exportable, ExportError, largest

Size = tuple[int, int]

_LEAST_SIDE = 1e-2
"""In pixels, of a box that Faster R-CNN keeps."""

_PROBED = 50
"""Objects at most with which a file is checked where it has none by itself."""

_UNDECIDED = 0.02
"""Share of the objects that rounding may exchange: of two boxes whose scores or overlap are equal but for rounding."""


def exportable_detector(detector: nn.Module, about: Mapping[str, str] | None = None) -> Exportable:
    """(1, 3, H, W) images in [0, 1] to `boxes`, `scores`, `labels` and, of Mask R-CNN, `masks`.

    The outputs are what torchvision's detectors give for one image: (n, 4) boxes in pixels (left, top, right,
    bottom); (n,) scores, best first; (n,) labels, counted as the detector counts them; (n, 1, H, W) masks in
    [0, 1]. A file holds the least score of an object as the constant `score_threshold`.

    Boxes are the detector's but for the suppression of overlapping ones: torchvision compares the boxes of classes
    apart if there are more than 1000, the file always with classes moved to different places, as torchvision does else.

    Args:
        detector: FasterRCNN, MaskRCNN, RetinaNet or FCOS of torchvision, on any backbone.
        about: what the file says of itself.

    Raises:
        ExportError: it is another network.
    """
    detector.eval()
    for kind, form in _FORMS.items():
        if type(detector).__name__ != "KeypointRCNN" and isinstance(detector, kind):
            graph = form(detector)
            return Exportable(
                graph,
                outputs=graph.output_names,
                axes={2: "height", 3: "width"},
                shape=graph.usual_shape,
                sample=torch.rand,
                expected=graph.expected,
                difference=object_difference,
                probe=graph.probe,
                doubt="inf: it finds other objects. The order of nearly equal scores, as a detector gives before it is "
                "trained, is open",
                about=about or {},
            )
    raise ExportError(
        f"{type(detector).__name__} is no detector that can be exported; these can: FasterRCNN, MaskRCNN, RetinaNet, "
        "FCOS of torchvision"
    )


class DetectorGraph(nn.Module):
    """One image to its objects.

    Args:
        detector: of torchvision.
        owner: the part of it that has the thresholds.
    """

    output_names: tuple[str, ...] = ("boxes", "scores", "labels")

    score_threshold: Tensor

    def __init__(self, detector: Any, owner: Any) -> None:
        super().__init__()
        self.detector = detector
        self._owner = [owner]  # not a module twice
        self.register_buffer("score_threshold", torch.tensor(owner.score_thresh), persistent=False)

    @property
    def usual_shape(self) -> tuple[int, ...]:
        """Of an image that is not scaled."""
        transform = self.detector.transform
        if transform.fixed_size is not None:
            return (1, 3, transform.fixed_size[1], transform.fixed_size[0])
        return (1, 3, transform.min_size[-1], transform.max_size)

    def expected(self, image: Tensor) -> dict[str, Tensor]:
        """What the detector itself finds in a (1, 3, H, W) image, at this threshold."""
        owner = self._owner[0]
        old = owner.score_thresh
        owner.score_thresh = float(self.score_threshold)
        try:
            (found,) = self.detector([image[0]])
            return {name: found[name] for name in self.output_names}
        finally:
            owner.score_thresh = old

    def probe(self, image: Tensor) -> dict[str, float]:
        """A threshold at which something is found in this image, between two scores that are not nearly equal."""
        own = float(self.score_threshold)
        self.score_threshold.fill_(0.0)
        scores = self.expected(image)["scores"]
        self.score_threshold.fill_(own)
        return {"score_threshold": telling_threshold(scores)}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) in [0, 1] to (n, 4) boxes in its pixels, (n,) scores, (n,) labels[, (n, 1, H, W) masks]."""
        height, width = image.shape[2:]
        scaled, size = _scaled(image, self.detector.transform)
        features = self.detector.backbone(scaled)
        boxes, scores, labels, *masks = self.find(scaled, features, size)
        rows, columns = (
            torch.scalar_tensor(old) / torch.scalar_tensor(new) for old, new in zip((height, width), size, strict=True)
        )
        boxes = boxes * torch.stack([columns, rows, columns, rows]).to(boxes)
        return boxes, scores, labels, *(_pasted(x, boxes, height, width) for x in masks)

    def find(self, image: Tensor, features: Mapping[str, Tensor], size: Size) -> tuple[Tensor, ...]:
        """Boxes in pixels of the scaled image, scores, labels[, (n, M, M) masks of the boxes].

        Args:
            image: scaled and padded.
            features: what the backbone makes of it.
            size: of the image without the padding.
        """
        raise NotImplementedError


class _TwoStages(DetectorGraph):
    """Faster R-CNN and Mask R-CNN."""

    def __init__(self, detector: Any) -> None:
        super().__init__(detector, detector.roi_heads)
        if detector.roi_heads.has_mask():
            self.output_names = (*self.output_names, "masks")
        self._set_up_pools()

    def _set_up_pools(self) -> None:
        """torchvision's pools learn the strides of the levels from the first image."""
        if self.detector.roi_heads.box_roi_pool.scales is None:
            like = next(self.detector.parameters())
            side = self.usual_shape[2]
            with torch.no_grad():
                self.detector([torch.zeros(3, side, side, device=like.device, dtype=like.dtype)])

    def find(self, image: Tensor, features: Mapping[str, Tensor], size: Size) -> tuple[Tensor, ...]:
        heads = self.detector.roi_heads
        proposals = self._proposals(image, list(features.values()), size)
        regions = _pooled(heads.box_roi_pool, features, proposals)
        logits, regression = heads.box_predictor(heads.box_head(regions))
        boxes = heads.box_coder.decode_single(regression, proposals).unflatten(1, (-1, 4))
        boxes = clip_boxes_to_image(boxes, size)[:, 1:].flatten(0, 1)  # the first class is the background
        scores = logits.softmax(-1)
        labels = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)[:, 1:].flatten()
        scores = scores[:, 1:].flatten()

        boxes, scores, labels = _chosen(
            (scores > self.score_threshold) & _sides(boxes, _LEAST_SIDE), boxes, scores, labels
        )
        kept = suppressed_places(boxes, scores, labels, heads.nms_thresh, heads.detections_per_img)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if not heads.has_mask():
            return boxes, scores, labels
        regions = _pooled(heads.mask_roi_pool, features, boxes)
        masks = heads.mask_predictor(heads.mask_head(regions)).sigmoid()  # (n, classes, M, M)
        of_label = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return boxes, scores, labels, masks.gather(1, of_label)[:, 0]

    def _proposals(self, image: Tensor, maps: Sequence[Tensor], size: Size) -> Tensor:
        """(n, 4) boxes that may hold an object."""
        rpn = self.detector.rpn
        levels = zip(*rpn.head(maps), _anchors(rpn.anchor_generator, image, maps), strict=True)
        best = []
        for level, (logits, regression, anchors) in enumerate(levels):
            objectness = logits[0].permute(1, 2, 0).flatten()  # (H·W·A,)
            offsets = regression[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)  # (H·W·A, 4)
            places = best_places(objectness, rpn.pre_nms_top_n())
            boxes = rpn.box_coder.decode_single(offsets[places], anchors[places])
            best.append((boxes, objectness[places].sigmoid(), torch.full_like(places, level)))
        boxes, scores, number = (torch.cat(parts) for parts in zip(*best, strict=True))
        boxes = clip_boxes_to_image(boxes, size)
        boxes, scores, number = _chosen(
            _sides(boxes, rpn.min_size) & (scores >= rpn.score_thresh), boxes, scores, number
        )
        return boxes[suppressed_places(boxes, scores, number, rpn.nms_thresh, rpn.post_nms_top_n())]


class _OneStage(DetectorGraph):
    """RetinaNet and FCOS: scores and a box for every anchor."""

    def __init__(self, detector: Any) -> None:
        super().__init__(detector, detector)

    def find(self, image: Tensor, features: Mapping[str, Tensor], size: Size) -> tuple[Tensor, ...]:
        detector, maps = self.detector, list(features.values())
        best = []
        for level, anchors in zip(maps, _anchors(detector.anchor_generator, image, maps), strict=True):
            outputs = detector.head([level])
            scores = self.scores(outputs)  # (anchors, classes)
            places = best_places(scores.flatten(), detector.topk_candidates)
            anchor = places // scores.shape[1]
            boxes = self.boxes(outputs["bbox_regression"][0][anchor], anchors[anchor])
            best.append((boxes, scores.flatten()[places], places % scores.shape[1]))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*best, strict=True))
        boxes = clip_boxes_to_image(boxes, size)
        boxes, scores, labels = _chosen(scores > self.score_threshold, boxes, scores, labels)
        kept = suppressed_places(boxes, scores, labels, detector.nms_thresh, detector.detections_per_img)
        return boxes[kept], scores[kept], labels[kept]

    def scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """(anchors, classes) of what the head gave for an image."""
        return outputs["cls_logits"][0].sigmoid()

    def boxes(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """(n, 4) boxes of anchors."""
        return self.detector.box_coder.decode_single(regression, anchors)


class _Fcos(_OneStage):
    def scores(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return (outputs["cls_logits"][0].sigmoid() * outputs["bbox_ctrness"][0].sigmoid()).sqrt()

    def boxes(self, regression: Tensor, anchors: Tensor) -> Tensor:
        return self.detector.box_coder.decode(regression, anchors)


_FORMS: Mapping[type, type[Any]] = {FasterRCNN: _TwoStages, RetinaNet: _OneStage, FCOS: _Fcos}


def _scaled(image: Tensor, transform: Any) -> tuple[Tensor, Size]:
    """The normalised image at the size that the detector works at, padded; and that size without the padding."""
    size = _scaled_size(image.shape[2], image.shape[3], transform)
    image = F.interpolate(transform.normalize(image[0])[None], size=size, mode="bilinear", align_corners=False)
    cell = transform.size_divisible
    down, right = ((side + cell - 1) // cell * cell - side for side in size)
    return F.pad(image, (0, right, 0, down)), size


def _scaled_size(height: int, width: int, transform: Any) -> Size:
    """(H, W) that torchvision scales an image to."""
    if transform.fixed_size is not None:
        return transform.fixed_size[1], transform.fixed_size[0]
    shortest, longest = transform.min_size[-1], transform.max_size
    if isinstance(height, int) and isinstance(width, int):
        scale = min(shortest / min(height, width), longest / max(height, width))
        return math.floor(height * scale), math.floor(width * scale)
    # With tensors of float64, as Python computes it: numbers of a graph have float32, which may be a pixel off.
    # A number divided by a tensor is its reciprocal times the number, which is another number.
    sides = torch.stack([torch.scalar_tensor(side, dtype=torch.float64) for side in (height, width)])
    limits = torch.tensor([shortest, longest], dtype=torch.float64)
    scales = (limits / torch.stack([sides.amin(0), sides.amax(0)])).amin(0)
    rows, columns = (side.item() for side in (sides * scales).floor().long().unbind())
    for side in (rows, columns):
        torch._check(side >= 1)
        torch._check(side <= longest)
    return rows, columns


def _anchors(generator: Any, image: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """Anchors of every level, (H·W·A, 4), in pixels of the image."""
    anchors = []
    for level, cell in zip(maps, generator.cell_anchors, strict=True):
        rows, columns = level.shape[2:]
        y = (torch.arange(rows, device=level.device) * (image.shape[2] // rows))[:, None].expand(rows, columns)
        x = (torch.arange(columns, device=level.device) * (image.shape[3] // columns))[None].expand(rows, columns)
        corners = torch.stack([x, y, x, y], dim=-1).flatten(0, 1)
        anchors.append((corners[:, None] + cell.to(level)).flatten(0, 1))
    return anchors


def best_places(scores: Tensor, count: int) -> Tensor:
    """Places of the best scores, best first, at most `count`."""
    return scores.topk(torch.sym_min(count, scores.shape[0])).indices


def _sides(boxes: Tensor, least: float) -> Tensor:
    """Whether both sides of a box have this length."""
    return (boxes[:, 2] - boxes[:, 0] >= least) & (boxes[:, 3] - boxes[:, 1] >= least)


def _chosen(mask: Tensor, *parts: Tensor) -> list[Tensor]:
    """Of every part the items where a mask of one axis is true."""
    places = mask.nonzero()[:, 0]
    return [part[places] for part in parts]


def suppressed_places(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, count: int) -> Tensor:
    """Places of the boxes that non-maximum suppression within groups leaves, best first, at most `count`."""
    # Two boxes outside the image that are always left, and last: torchvision tells exporters that at least two are.
    outside = boxes.new_tensor([[-4, -4, -3, -3], [-2, -2, -1, -1]])
    apart = boxes + (groups.to(boxes) * (torch.cat([boxes, outside]).flatten().amax(0) + 1))[:, None]
    kept = nms(torch.cat([apart, outside]), torch.cat([scores, scores.new_full((2,), -1.0)]), overlap)
    return kept[:-2][:count]


def _pooled(pool: MultiScaleRoIAlign, features: Mapping[str, Tensor], boxes: Tensor) -> Tensor:
    """(n, C, h, w) regions of the boxes, each out of the level that fits its size."""
    maps = [features[name] for name in features if name in pool.featmap_names]
    regions = torch.cat([boxes.new_zeros(1, 1).expand(boxes.shape[0], 1), boxes], dim=1)
    levels = pool.map_levels([boxes])
    pooled = boxes.new_zeros(boxes.shape[0], maps[0].shape[1], *pool.output_size)
    for number, (level, scale) in enumerate(zip(maps, pool.scales, strict=True)):
        places = (levels == number).nonzero()[:, 0]
        found = roi_align(level, regions[places], pool.output_size, scale, pool.sampling_ratio)
        pooled = pooled.index_put((places,), found)
    return pooled


def _pasted(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """(n, M, M) masks of boxes to (n, 1, height, width) masks of the image.

    torchvision enlarges every mask by itself. Bilinear interpolation is linear, and the same for all columns: here it
    is a product with a matrix for the rows, and one for the columns.
    """
    masks = F.pad(masks, (1, 1, 1, 1))
    side = masks.shape[-1]
    centres, halves = (boxes[:, 2:] + boxes[:, :2]) * 0.5, (boxes[:, 2:] - boxes[:, :2]) * 0.5 * (side / (side - 2))
    first, last = (centres - halves).long(), (centres + halves).long()
    rows = _enlarging(first[:, 1], last[:, 1], side, height)
    columns = _enlarging(first[:, 0], last[:, 0], side, width)
    return (rows @ masks @ columns.mT)[:, None]


def _enlarging(first: Tensor, last: Tensor, old: int, new: int) -> Tensor:
    """(n, new, old) weights of old pixels in the new ones from `first` to `last`; the others get 0."""
    place = torch.arange(new, device=first.device)
    offset = place - first[:, None]
    scale = old / (last - first + 1).clamp(min=1)[:, None]
    source = ((offset + 0.5) * scale - 0.5).clamp(0, old - 1)
    weights = (1 - (source[:, :, None] - torch.arange(old, device=first.device)).abs()).clamp(min=0)
    inside = (offset >= 0) & (place <= last[:, None])
    return weights * inside[:, :, None]


def telling_threshold(scores: Tensor) -> float:
    """A threshold that some of (n,) scores exceed, where two that follow each other are least equal; 0 for none."""
    best = scores.sort(descending=True).values[:_PROBED]
    gaps = best[:-1] - best[1:]
    return float((best[:-1] - gaps / 2)[gaps.argmax()]) if len(gaps) else 0.0


def object_difference(actual: Sequence[Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest difference of two sets of objects: of scores, of masks, and of boxes in sides of the image.

    An object belongs to the nearest one of its label, since the order of nearly equal scores is open.
    """
    found = dict(zip(expected, actual, strict=True))
    side = max(float(expected["boxes"].amax()) if len(expected["boxes"]) else 0.0, 1.0)
    apart = (expected["boxes"][:, None] - found["boxes"]).abs().amax(-1) / side
    apart = torch.maximum(apart, (expected["scores"][:, None] - found["scores"]).abs())
    apart = apart.masked_fill(expected["labels"][:, None] != found["labels"], math.inf)
    if "masks" in found and found["masks"].shape[1:] != expected["masks"].shape[1:]:
        return math.inf

    differences = []
    for number in range(min(apart.shape)):
        nearest = int(apart[number].argmin())
        difference = float(apart[number, nearest])
        if "masks" in found and math.isfinite(difference):
            masks = expected["masks"][number] - found["masks"][nearest]
            difference = largest((difference, float(masks.abs().max())))
        differences.append(difference)
        apart[:, nearest] = math.inf  # it belongs to one object only
    missing = max(apart.shape) - len(differences)
    undecided = int(_UNDECIDED * max(apart.shape)) - missing
    if undecided < 0:
        return math.inf
    if math.isnan(largest(differences)):
        return math.nan
    return max(sorted(differences)[: len(differences) - undecided], default=0.0)
