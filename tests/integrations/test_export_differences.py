"""A file that gives numbers that are none, or arrays of another shape, is never as good as its network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from visionssm.integrations.export.detection import object_difference
from visionssm.integrations.export.exportable import relative_difference
from visionssm.integrations.export.yolo import _difference_of_points
from visionssm.tasks.pointcloud.export import _difference as of_boxes_in_space


def _with_nan(tensors: list[Tensor], number: int) -> list[Tensor]:
    """A copy of tensors whose numbers are all right but for the last one of one of them."""
    made = [x.clone() for x in tensors]
    made[number].view(-1)[-1] = math.nan
    return made


@pytest.mark.parametrize("number", [0, 1])
def test_nan_in_any_output_is_the_difference(number: int) -> None:
    outputs = [torch.rand(2, 3), torch.rand(2)]
    assert relative_difference(outputs, outputs) == 0
    assert math.isnan(relative_difference(_with_nan(outputs, number), outputs))

    boxes, scores = torch.rand(1, 5, 4), torch.rand(1, 5, 2)
    best, labels = scores.max(-1)
    assert _difference_of_points([boxes, best, labels], (boxes, scores)) == 0
    damaged = _with_nan([boxes, best], number)
    assert math.isnan(_difference_of_points([*damaged, labels], (boxes, scores)))

    objects = {"boxes": torch.rand(3, 4), "scores": torch.rand(3), "labels": torch.ones(3, dtype=torch.int64)}
    found = list(objects.values())
    assert object_difference(found, objects) == 0
    assert math.isnan(object_difference(_with_nan(found, number), objects))

    in_space = [torch.rand(3, 7), torch.rand(3), torch.ones(3, dtype=torch.int64)]
    assert of_boxes_in_space(in_space, in_space) == 0
    assert math.isnan(of_boxes_in_space(_with_nan(in_space, number), in_space))


def test_outputs_of_a_shape_that_broadcasts_are_another_result() -> None:
    outputs = torch.ones(2, 3)
    assert relative_difference([outputs[:1]], outputs) == math.inf
    boxes, scores = torch.ones(2, 5, 4), torch.ones(2, 5, 1)
    best, labels = scores.max(-1)
    assert _difference_of_points([boxes[:1], best, labels], (boxes, scores)) == math.inf
    assert _difference_of_points([boxes, best[:1], labels[:1]], (boxes, scores)) == math.inf
