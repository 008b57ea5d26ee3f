"""Objects in images of any sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from visionssm.heads.yolo import Objects, suppress_batch
from visionssm.tasks.yolo.letterbox import check_size
from visionssm.tasks.yolo.transforms import letterboxed

__all__ = ["check_size", "found_objects"]


def found_objects(
    model: Any, images: Sequence[Tensor], size: int, *, threshold: float, overlap: float = 0.7
) -> list[Objects]:
    """Objects of every image, best first, with boxes in the image's own pixels.

    Each image is scaled to fit a square and filled up to multiples of 32. Those that are of one size then are computed
    together, so that nothing depends on what else is in a batch.

    Args:
        model: a `MambaYolo` in evaluation mode.
        images: (3, H, W) in [0, 1].
        size: side of the square.
        threshold: score that objects exceed.
        overlap: IoU above which the worse of two boxes of one class is left out.
    """
    boxed = [letterboxed(image, size, model.strides[-1]) for image in images]
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, box in enumerate(boxed):
        groups.setdefault(tuple(box.image.shape), []).append(number)
    results: dict[int, Objects] = {}
    for numbers in groups.values():
        boxes, scores = model.predict(torch.stack([boxed[number].image for number in numbers]))
        found = suppress_batch(boxes, scores, threshold=threshold, overlap=overlap)
        for number, objects in zip(numbers, found, strict=True):
            results[number] = objects._replace(boxes=boxed[number].outside(objects.boxes))
    return [results[number] for number in range(len(images))]
