"""Greedy suppression of rotated boxes, registered with torch.library: compilers and exporters keep it as one operator.

How many boxes are kept is known only when it runs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from visionssm.kernels.rotated_boxes.overlap import bev_iou

BLOCK = 256  # boxes that are chosen from at once

_library = torch.library.Library("visionssm", "FRAGMENT")
_library.define("rotated_nms(Tensor boxes, Tensor scores, float threshold, int? max_boxes) -> Tensor")


def rotated_nms_op(boxes: Tensor, scores: Tensor, threshold: float, max_boxes: int | None) -> Tensor:
    """Rows of float64 boxes (N, 7) that are kept, best first."""
    kept: Tensor = torch.ops.visionssm.rotated_nms(boxes, scores, threshold, max_boxes)
    return kept


def _suppress(boxes: Tensor, scores: Tensor, threshold: float, max_boxes: int | None) -> Tensor:
    """The best boxes are chosen from a block at a time; what they overlap leaves those that wait."""
    waiting = scores.argsort(descending=True, stable=True)
    kept = waiting.new_empty(0)
    while len(waiting) and (max_boxes is None or len(kept) < max_boxes):
        block, waiting = waiting[:BLOCK], waiting[BLOCK:]
        block = block[_greedy(bev_iou(boxes[block][:, None], boxes[block]) > threshold)]
        waiting = waiting[~(bev_iou(boxes[block][:, None], boxes[waiting]) > threshold).any(0)]
        kept = torch.cat([kept, block])
    return kept[:max_boxes].clone()


def _greedy(over: Tensor) -> Tensor:
    """(N,) which boxes are kept, from (N, N) which are too near each other, best first."""
    conflicts = over.cpu().numpy()
    kept = np.ones(len(conflicts), bool)
    for box in range(len(conflicts)):
        if kept[box]:
            kept[box + 1 :] &= ~conflicts[box, box + 1 :]
    return torch.from_numpy(kept).to(over.device)


def _fake(boxes: Tensor, scores: Tensor, threshold: float, max_boxes: int | None) -> Tensor:
    return scores.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.long)


_library.impl("rotated_nms", _suppress, "CompositeExplicitAutograd")
torch.library.register_fake("visionssm::rotated_nms", _fake, lib=_library)
