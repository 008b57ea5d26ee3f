"""Rotated boxes: overlap and IoU in bird's-eye view, IoU in three dimensions, greedy suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from visionssm.kernels.backend import reference_requested
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.rotated_boxes.overlap import SMALLEST, bev_iou, bev_overlap
from visionssm.kernels.rotated_boxes.reference import nms_reference
from visionssm.kernels.rotated_boxes.suppression import rotated_nms_op

__all__ = ["rotated_iou", "rotated_iou_3d", "rotated_nms", "rotated_overlap"]


def rotated_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Area that the footprints of rotated boxes share, in bird's-eye view.

    Boxes are (x, y, z, dx, dy, dz, heading): centre, sizes and the angle of dx against the x axis, counter-clockwise in
    radians. It runs in PyTorch's operations on every device and can be differentiated. Only boxes near each other are
    compared.

    Args:
        a, b: (…, 7) boxes of any float dtype, which are broadcast: `a[:, None]` and `b` for all pairs of two sets, `a`
            and `b` of one shape for pairs of the same row.

    Returns:
        (…,) areas in the unit of the boxes squared, in their dtype; computed in float64. Boxes with a size that is not
        positive share nothing.

    Raises:
        ValueError: the last dimension is not 7, dtypes are not floating, devices differ, or a number is not finite.

    Examples:
        >>> import math, torch, visionssm
        >>> square = torch.tensor([0.0, 0, 0, 2, 2, 1, 0])
        >>> turned = torch.tensor([0.0, 0, 0, 2, 2, 1, math.pi / 4])
        >>> visionssm.rotated_overlap(square, torch.stack([square, turned]))  # a regular octagon
        tensor([4.0000, 3.3137])
    """
    _check_boxes({"a": a, "b": b})
    return bev_overlap(a.double(), b.double()).to(a.dtype)


def rotated_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of the footprints of rotated boxes, in bird's-eye view.

    Args:
        a, b: (…, 7) boxes (x, y, z, dx, dy, dz, heading), which are broadcast, as in `rotated_overlap`.

    Returns:
        (…,) ratios from 0 to 1 in the boxes' dtype; computed in float64.

    Raises:
        ValueError: as `rotated_overlap`.

    Examples:
        >>> import torch, visionssm
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [1.0, 0, 0, 4, 2, 1, 0]])
        >>> visionssm.rotated_iou(boxes[:, None], boxes)
        tensor([[1.0000, 0.6000],
                [0.6000, 1.0000]])
    """
    _check_boxes({"a": a, "b": b})
    return bev_iou(a.double(), b.double()).to(a.dtype)


def rotated_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of the volumes of boxes that are turned around the vertical axis.

    Args:
        a, b: (…, 7) boxes (x, y, z, dx, dy, dz, heading), z that of the centre, which are broadcast, as in
            `rotated_overlap`.

    Returns:
        (…,) ratios from 0 to 1 in the boxes' dtype; computed in float64.

    Raises:
        ValueError: as `rotated_overlap`.

    Examples:
        >>> import torch, visionssm
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [0.0, 0, 0.5, 4, 2, 1, 0]])
        >>> visionssm.rotated_iou_3d(boxes[0], boxes[1])
        tensor(0.3333)
    """
    _check_boxes({"a": a, "b": b})
    dtype = a.dtype
    a, b = a.double(), b.double()
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    shared = bev_overlap(a, b) * (top - bottom).clamp(min=0)
    union = a[..., 3:6].prod(-1) + b[..., 3:6].prod(-1) - shared
    return (shared / union.clamp(min=SMALLEST)).to(dtype)


def rotated_nms(boxes: Tensor, scores: Tensor, threshold: float, *, max_boxes: int | None = None) -> Tensor:
    """Greedy non-maximum suppression of rotated boxes by their IoU in bird's-eye view.

    Boxes are visited from the highest score to the lowest; one is kept unless its IoU with one that is kept is above
    the threshold. Of equal scores the first row comes first.

    Args:
        boxes: (N, 7) boxes (x, y, z, dx, dy, dz, heading).
        scores: (N,).
        threshold: largest IoU that two boxes that are kept may have.
        max_boxes: how many boxes to keep at most, or None for all.

    Returns:
        (K,) int64 rows that are kept, best first.

    Raises:
        ValueError: as `rotated_overlap`, or scores are NaN, or there is not one for each box.

    Examples:
        >>> import torch, visionssm
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [1.0, 0, 0, 4, 2, 1, 0], [9.0, 0, 0, 4, 2, 1, 1]])
        >>> visionssm.rotated_nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    check_shape("boxes", boxes, ("N", "7"), {"7": 7})
    check_shape("scores", scores, ("N",), {"N": boxes.shape[0]})
    check_same_device({"boxes": boxes, "scores": scores})
    _check_boxes({"boxes": boxes})
    if not torch.compiler.is_compiling() and not scores.is_meta and scores.isnan().any():
        raise ValueError(f"scores holds {int(scores.isnan().sum())} NaN, which have no order; leave those boxes out")
    if max_boxes is not None and max_boxes < 0:
        raise ValueError(f"max_boxes={max_boxes}; give a number that is not negative, or None for all")
    boxes, scores = boxes.detach().double(), scores.detach()
    if reference_requested():
        return nms_reference(bev_iou(boxes[:, None], boxes), scores, threshold)[:max_boxes]
    return rotated_nms_op(boxes, scores, threshold, max_boxes)


def _check_boxes(given: dict[str, Tensor]) -> None:
    check_floating(given)
    check_same_device(given)
    for name, boxes in given.items():
        if not boxes.ndim or boxes.shape[-1] != 7:
            raise ValueError(f"{name} has shape {tuple(boxes.shape)}; expected (…, 7): x, y, z, dx, dy, dz, heading")
        if not torch.compiler.is_compiling() and not boxes.is_meta and not boxes.isfinite().all():
            wrong = int((~boxes.isfinite()).any(-1).sum())
            raise ValueError(f"{name} holds {wrong} boxes with NaN or infinite numbers; leave them out")
