"""Assigner and loss against definitions written as loops, on examples made by hand and at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import complete_box_iou_loss

from visionssm.heads.yolo import STRIDES, grid_points
from visionssm.heads.yolo.assign import Assignment, assign
from visionssm.heads.yolo.boxes import complete_iou
from visionssm.heads.yolo.loss import YoloLoss, distribution_focal_loss

Box = Sequence[float]


def overlap_of(a: Box, b: Box) -> float:
    """Complete IoU of two boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    (w1, h1), (w2, h2) = (a[2] - a[0], a[3] - a[1]), (b[2] - b[0], b[3] - b[1])
    common = width * height
    iou = common / (w1 * h1 + w2 * h2 - common + 1e-7)
    across = max(a[2], b[2]) - min(a[0], b[0])
    along = max(a[3], b[3]) - min(a[1], b[1])
    apart = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    v = 4 / math.pi**2 * (math.atan(w2 / (h2 + 1e-7)) - math.atan(w1 / (h1 + 1e-7))) ** 2
    return iou - apart / (across**2 + along**2 + 1e-7) - v * v / (v - iou + 1 + 1e-7)


def assigned(
    scores: list[list[float]], boxes: list[Box], points: list[Box], truth: list[Box], labels: list[int]
) -> list[tuple[int, float]]:
    """Box and weight of every point of one image, as the annex of the recipe words it."""
    overlaps = [[0.0] * len(points) for _ in truth]
    metrics = [[0.0] * len(points) for _ in truth]
    for m, box in enumerate(truth):
        for n, (x, y) in enumerate(points):
            if min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 1e-9:
                overlaps[m][n] = max(0.0, overlap_of(box, boxes[n]))
                metrics[m][n] = scores[n][labels[m]] ** 0.5 * overlaps[m][n] ** 6
    claimed: list[set[int]] = [set() for _ in points]
    for m, row in enumerate(metrics):
        for n in sorted(range(len(points)), key=lambda n, row=row: -row[n])[:10]:  # type: ignore[misc]
            if row[n] > 0:
                claimed[n].add(m)
    taken = [-1] * len(points)
    for n, boxes_of_point in enumerate(claimed):
        if len(boxes_of_point) == 1:
            (taken[n],) = boxes_of_point
        elif boxes_of_point:
            taken[n] = max(range(len(truth)), key=lambda m, n=n: overlaps[m][n])  # type: ignore[misc]
    result = []
    for n, m in enumerate(taken):
        if m < 0:
            result.append((-1, 0.0))
            continue
        own = [k for k, other in enumerate(taken) if other == m]
        strongest, largest = max(metrics[m][k] for k in own), max(overlaps[m][k] for k in own)
        result.append((m, metrics[m][n] / (strongest + 1e-9) * largest))
    return result


def loss_of(maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, float]:
    """The three losses, one point and one class after the other."""
    points, strides = [], []
    for level, stride in zip(maps, STRIDES, strict=False):
        for row in range(level.shape[2]):
            for column in range(level.shape[3]):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
                strides.append(stride)
    total = of_classes = of_boxes = of_distances = 0.0
    for number, (truth, names) in enumerate(zip(boxes, labels, strict=True)):
        flat = torch.cat([level[number].flatten(1).T for level in maps]).tolist()
        found, distributions, scores = [], [], []
        for (x, y), stride, values in zip(points, strides, flat, strict=True):
            sides = []
            parts = [values[16 * k : 16 * k + 16] for k in range(4)]
            for part in parts:
                whole = sum(map(math.exp, part))
                sides.append(sum(k * math.exp(value) for k, value in enumerate(part)) / whole)
            l, t, r, b = sides  # noqa: E741
            found.append((x - l * stride, y - t * stride, x + r * stride, y + b * stride))
            distributions.append(parts)
            scores.append([1 / (1 + math.exp(-value)) for value in values[64:]])
        for n, (m, weight) in enumerate(assigned(scores, found, points, truth.tolist(), names.tolist())):
            for k, score in enumerate(scores[n]):
                target = weight if m >= 0 and int(names[m]) == k else 0.0
                of_classes -= target * math.log(score) + (1 - target) * math.log(1 - score)
            if m < 0:
                continue
            total += weight
            box, stride = truth[m].tolist(), strides[n]
            in_strides = [[value / stride for value in x] for x in (found[n], box)]
            of_boxes += (1 - overlap_of(*in_strides)) * weight
            (x, y), entropy = points[n], 0.0
            for part, side in zip(distributions[n], (x - box[0], y - box[1], box[2] - x, box[3] - y), strict=True):
                wanted = min(max(side / stride, 0), 14.99)
                low, whole = int(wanted), sum(map(math.exp, part))
                entropy -= (low + 1 - wanted) * math.log(math.exp(part[low]) / whole)
                entropy -= (wanted - low) * math.log(math.exp(part[low + 1]) / whole)
            of_distances += entropy / 4 * weight
    scale = len(boxes) / max(1.0, total)
    return {
        "loss_class": 0.5 * of_classes * scale,
        "loss_box": 7.5 * of_boxes * scale,
        "loss_dfl": 1.5 * of_distances * scale,
    }


def random_maps(batch: int, classes: int, size: int = 64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, 64 + classes, size // stride, size // stride) for stride in STRIDES]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


HAND_MADE = {
    "two boxes on one point": ([[0, 0, 30, 30], [2, 2, 34, 34], [40, 40, 60, 63]], [0, 1, 1]),
    "equal boxes of two classes": ([[8, 8, 40, 40], [8, 8, 40, 40]], [0, 1]),
    "no box": ([], []),
    "a box smaller than a stride, around a point": ([[10, 10, 14, 14]], [2]),
    "a box smaller than a stride, around no point": ([[13, 13, 15, 15]], [2]),
    "a box outside of the image": ([[-90, -90, -40, -40]], [0]),
    "a box that reaches out of the image": ([[-30, 20, 50, 90]], [1]),
    "a box that is farther than the last bin": ([[-400, -400, 400, 400]], [1]),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_losses_are_those_of_the_definition_in_loops(name: str) -> None:
    other = torch.tensor([[5.0, 5, 44, 61]], dtype=torch.float64), torch.tensor([1])
    boxes, labels = HAND_MADE[name]
    truth = [torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), other[0]]
    names = [torch.tensor(labels, dtype=torch.int64), other[1]]
    for seed in range(2):
        maps = random_maps(2, 3, seed=seed)
        found = YoloLoss()(maps, truth, names)
        expected = loss_of(maps, truth, names)
        assert {key: value.item() for key, value in found.items()} == pytest.approx(expected, rel=1e-9)


def test_a_batch_without_any_box_trains_the_classes_alone() -> None:
    maps = [x.requires_grad_() for x in random_maps(2, 3)]
    empty = [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    losses = YoloLoss()(maps, *empty)
    assert losses["loss_box"].item() == losses["loss_dfl"].item() == 0
    assert losses["loss_class"].item() == pytest.approx(loss_of([x.detach() for x in maps], *empty)["loss_class"])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(x.grad is not None and x.grad[:, 64:].abs().min() > 0 and x.grad[:, :64].abs().max() == 0 for x in maps)


def test_one_point_gets_the_whole_overlap_as_its_target() -> None:
    points, boxes = torch.tensor([[4.0, 4.0]]), torch.tensor([[[0.0, 0.0, 8.0, 4.0]]])
    truth = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])
    found = assign(torch.tensor([[[0.3]]]), boxes, points, truth, torch.zeros(1, 1).long(), torch.ones(1, 1) > 0)
    overlap = complete_iou(truth, boxes).item()
    assert found.box.tolist() == [[0]]
    assert found.weight.item() == pytest.approx(overlap, rel=1e-4)


def test_a_point_that_two_boxes_claim_goes_to_that_of_the_higher_overlap_though_the_other_has_the_better_score() -> (
    None
):
    points = torch.tensor([[16.0, 16.0]])
    boxes = torch.tensor([[[0.0, 0.0, 30.0, 32.0]]])
    truth = torch.tensor([[[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 40.0, 32.0]]])
    scores = torch.tensor([[[1e-6, 1.0]]])
    found = assign(scores, boxes, points, truth, torch.tensor([[0, 1]]), torch.ones(1, 2) > 0)
    assert found.box.tolist() == [[0]]


def test_ten_points_at_most_train_on_a_box_and_those_on_its_edge_do_not() -> None:
    points, _ = grid_points([(8, 8)], [8])
    truth = torch.tensor([[[4.0, 4.0, 60.0, 60.0]]])
    boxes = truth.expand(1, 64, 4) + torch.linspace(0, 1, 64)[None, :, None]
    found = assign(torch.ones(1, 64, 1), boxes, points, truth, torch.zeros(1, 1).long(), torch.ones(1, 1) > 0)
    assert (found.box == 0).sum() == 10
    chosen = points[found.box[0] == 0]
    assert ((chosen > 4) & (chosen < 60)).all()


def random_assignment(
    points_of: Sequence[tuple[int, int]], count: int, classes: int, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    points, strides = grid_points(points_of, STRIDES[: len(points_of)], dtype=dtype)
    extent = points.max()
    sides = torch.rand(1, len(points), 4, generator=generator, dtype=dtype) * 6 * strides
    boxes = torch.cat([points - sides[..., :2], points + sides[..., 2:]], -1)
    corner = torch.rand(1, count, 2, generator=generator, dtype=dtype) * extent
    truth = torch.cat([corner, corner + 4 + torch.rand(1, count, 2, generator=generator, dtype=dtype) * extent / 4], -1)
    labels = torch.randint(classes, (1, count), generator=generator)
    scores = torch.rand(1, len(points), classes, generator=generator, dtype=dtype)
    return scores, boxes, points, truth, labels, torch.ones(1, count) > 0


def by_loops(scores: Tensor, boxes: Tensor, points: Tensor, truth: Tensor, labels: Tensor, _: Tensor) -> Assignment:
    pairs = assigned(scores[0].tolist(), boxes[0].tolist(), points.tolist(), truth[0].tolist(), labels[0].tolist())
    return Assignment(torch.tensor([[box for box, _ in pairs]]), torch.tensor([[weight for _, weight in pairs]]))


def test_assignment_of_many_boxes_is_that_of_the_loops() -> None:
    example = random_assignment([(20, 20), (10, 10), (5, 5)], 30, 4, torch.float64)
    found, expected = assign(*example), by_loops(*example)
    assert (found.box >= 0).sum() > 100
    assert found.box.tolist() == expected.box.tolist()
    torch.testing.assert_close(found.weight, expected.weight.double())


class Operators(TorchDispatchMode):
    """Counts the operators that are called within it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_assigning_takes_as_many_operators_for_8400_points_and_100_boxes_as_for_few() -> None:
    counts = []
    for points_of, boxes in (([(4, 4), (2, 2)], 3), ([(80, 80), (40, 40), (20, 20)], 100)):
        example = random_assignment(points_of, boxes, 80, torch.float32)
        with Operators() as operators:
            assign(*example)
        counts.append(operators.count)
    assert 20 < counts[0] == counts[1]


@pytest.mark.slow
def test_assignment_of_100_boxes_to_8400_points_is_that_of_the_loops() -> None:
    example = random_assignment([(80, 80), (40, 40), (20, 20)], 100, 80, torch.float32)
    assert (assign(*example).box == by_loops(*example).box).float().mean() > 0.999  # near ties: rounding decides


def test_overlap_is_torchvisions_and_its_gradient_checks() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 50, 2, generator=generator, dtype=torch.float64) * 10
    boxes = torch.cat([corner, corner + 0.5 + 10 * torch.rand(2, 50, 2, generator=generator, dtype=torch.float64)], -1)
    expected = 1 - complete_box_iou_loss(boxes[0], boxes[1], eps=1e-7)
    torch.testing.assert_close(complete_iou(boxes[0], boxes[1]), expected, atol=1e-6, rtol=1e-6)


def test_gradients_of_the_losses_are_those_of_finite_differences() -> None:
    boxes = [torch.tensor([[3.0, 5, 28, 30], [1, 1, 10, 12]], dtype=torch.float64)]
    labels = [torch.tensor([1, 0])]
    maps = [0.3 * x for x in random_maps(1, 2, size=32, seed=1)]
    losses = YoloLoss(box=0.0)  # α of the overlap has no gradient by definition

    def total(*levels: Tensor) -> Tensor:
        return sum(losses(levels, boxes, labels).values())  # type: ignore[return-value]

    # the soft targets are constants: with them given, the differences see what the gradients see
    direction = [torch.randn_like(x) for x in maps]
    leaves = [x.clone().requires_grad_() for x in maps]
    gradients = torch.autograd.grad(total(*leaves), leaves)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()  # type: ignore[union-attr]
    given = frozen_assignment(maps, boxes, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visionssm.heads.yolo.loss.assign", lambda *_: given)
        ends = [total(*(x + sign * 1e-6 * d for x, d in zip(maps, direction, strict=True))).item() for sign in (1, -1)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def frozen_assignment(maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Assignment:
    """What the loss assigns."""
    seen: list[Assignment] = []

    def kept(*arguments: Tensor) -> Assignment:
        seen.append(assign(*arguments))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("visionssm.heads.yolo.loss.assign", kept)
        YoloLoss()(maps, boxes, labels)
    return seen[0]


def test_gradients_of_the_parts_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    distances = torch.tensor([[0.0, 3.2, 14.99, 20], [-1, 7, 0.5, 2]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: distribution_focal_loss(x, distances), logits)
    # of one aspect ratio, α is constant at 0
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 1, 8, 7]], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([[1.0, 1, 5, 5], [1, 3, 5, 7]], dtype=torch.float64)
    move = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: complete_iou(boxes.detach() + x.repeat(1, 2), others), move)


def test_an_exact_distance_has_no_loss_and_one_between_two_bins_their_entropy() -> None:
    logits = torch.full((4, 16), -200.0, dtype=torch.float64)
    logits[:, 6] = 200.0
    assert distribution_focal_loss(logits.flatten(), torch.full((4,), 6.0)).item() == 0
    between = torch.full((4, 16), -200.0, dtype=torch.float64)
    between[:, 6], between[:, 7] = math.log(0.7), math.log(0.3)
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    distances = torch.full((4,), 6.3, dtype=torch.float64)
    assert distribution_focal_loss(between.flatten(), distances).item() == pytest.approx(entropy)
    assert distribution_focal_loss(logits.flatten(), distances).item() > entropy


def test_half_precision_maps_give_finite_losses_and_gradients() -> None:
    maps = [x.bfloat16().requires_grad_() for x in random_maps(1, 3)]
    losses = YoloLoss()(maps, [torch.tensor([[4.0, 4, 50, 60]])], [torch.tensor([2])])
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert all(torch.isfinite(x.grad).all() for x in maps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "boxes, labels, message",
    [
        ([torch.ones(1, 4)], [torch.tensor([3])], r"labels must be from 0 to 2, got \[3\]"),
        ([torch.ones(1, 4)], [torch.tensor([-1])], r"from 0 to 2, got \[-1\]"),
        ([torch.ones(2, 4)], [torch.tensor([1])], r"got \[2\] boxes and \[1\] labels"),
        ([], [], "1 images need as many"),
    ],
)
def test_targets_that_do_not_fit_are_refused(boxes: list[Tensor], labels: list[Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YoloLoss()(random_maps(1, 3), boxes, labels)
