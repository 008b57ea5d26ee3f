"""Rotated boxes: the authors' recorded case, closed forms, touching and identical boxes, suppression, errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.reference_cases import Case, every_case
from visionssm.kernels import rotated_iou, rotated_iou_3d, rotated_nms, rotated_overlap, use_backend

backends = pytest.mark.parametrize("backend", ["auto", "reference"])
few = settings(max_examples=50, deadline=None)
functions = pytest.mark.parametrize("function", [rotated_overlap, rotated_iou, rotated_iou_3d])
sizes = st.floats(0.1, 5)
BOXES = st.lists(
    st.tuples(*[st.floats(-4, 4)] * 3, *[sizes] * 3, st.floats(-7, 7)), min_size=2, max_size=6
)  # x, y, z, dx, dy, dz, heading
MARGIN = 0.01  # corners that are so far outside count as inside in the recorded code


def some_boxes(count: int, *, spread: float = 30.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Cars and pedestrians, anywhere in a square of so many metres."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    size = torch.where(uniform(count, 1) < 0.6, torch.tensor([3.9, 1.6, 1.5]), torch.tensor([0.8, 0.6, 1.7]))
    places = uniform(count, 3) * torch.tensor([spread, spread, 2.0])
    return torch.cat([places, size * (0.8 + 0.4 * uniform(count, 3)), 20 * uniform(count, 1) - 10], 1).to(dtype)


# ---------------------------------------------------------------------------------------------- the recorded case


def tensor(entry: dict[str, Any]) -> Tensor:
    return torch.tensor(entry["values"]).view(entry["shape"])


@backends
@every_case("IoU of rotated boxes")
def test_overlaps_are_those_recorded(case: Case, backend: str) -> None:
    """All but two pairs of 432: there a corner within a centimetre of the other box counts as inside."""
    a, b = (tensor(case.data["input"][name]) for name in "ab")
    recorded = {name: tensor(entry) for name, entry in case.data["outputs"].items()}
    generous = {(2, 9), (13, 10)}
    exact = torch.ones(len(a), len(b), dtype=torch.bool)
    for pair in generous:
        exact[pair] = False
        area = recorded["overlap_bev"][pair].double()
        torch.testing.assert_close(shared_with_margin(a[pair[0]], b[pair[1]]), area, rtol=1e-5, atol=0)
    with use_backend(backend):
        for name, function in [
            ("overlap_bev", rotated_overlap),
            ("iou_bev", rotated_iou),
            ("iou_3d", rotated_iou_3d),
        ]:
            error = (function(a[:, None], b) - recorded[name]).abs()[exact].max()
            assert error <= 5e-6 * recorded[name].max(), name
        aligned = rotated_iou_3d(a[: len(b)], b)
    torch.testing.assert_close(aligned[:, None], recorded["aligned_iou_3d_all_pairs_rowwise"], rtol=0, atol=1e-6)


def shared_with_margin(a: Tensor, b: Tensor) -> Tensor:
    """Area of the hull of the shared polygon's corners and of the corners within `MARGIN` of the other box."""
    ours, others = corners(a.double()), corners(b.double())
    points = [p for p in ours if inside(p, b.double())] + [p for p in others if inside(p, a.double())]
    for p, q in around(ours):
        for r, s in around(others):
            along, across = q - p, s - r
            turn = along[0] * across[1] - along[1] * across[0]
            t = ((r - p)[0] * across[1] - (r - p)[1] * across[0]) / turn
            u = ((r - p)[0] * along[1] - (r - p)[1] * along[0]) / turn
            if 0 <= t <= 1 and 0 <= u <= 1:
                points.append(p + t * along)
    centre = torch.stack(points).mean(0)
    points.sort(key=lambda p: float(torch.atan2(*(p - centre).flip(0))))
    return sum(p[0] * q[1] - p[1] * q[0] for p, q in around(points)) / 2  # type: ignore[return-value]


def around(points: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(points, [*points[1:], points[0]], strict=True))


def corners(box: Tensor) -> list[Tensor]:
    local = box[3:5] / 2 * torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    cos, sin = box[6].cos(), box[6].sin()
    return list(local @ torch.stack([cos, sin, -sin, cos]).view(2, 2) + box[:2])


def inside(point: Tensor, box: Tensor) -> bool:
    cos, sin = box[6].cos(), box[6].sin()
    local = torch.stack([cos, sin, -sin, cos]).view(2, 2) @ (point - box[:2])
    return bool((local.abs() < box[3:5] / 2 + MARGIN).all())


@backends
@every_case("IoU of rotated boxes")
def test_suppression_keeps_the_boxes_that_were_recorded(case: Case, backend: str) -> None:
    boxes, scores = (tensor(case.data["input"][name]) for name in ("a", "scores"))
    for threshold, kept in case.data["nms_keep"].items():
        with use_backend(backend):
            assert rotated_nms(boxes, scores, float(threshold)).tolist() == kept


# ---------------------------------------------------------------------------------------------- areas


def box(x: float, y: float, dx: float, dy: float, heading: float = 0.0) -> Tensor:
    return torch.tensor([x, y, 0.0, dx, dy, 1.0, heading], dtype=torch.float64)


SHARED = {
    "identical": (box(3, 4, 5, 2, 0.7), box(3, 4, 5, 2, 0.7), 10.0),
    "turned by half a circle": (box(3, 4, 5, 2, 0.7), box(3, 4, 5, 2, 0.7 + math.pi), 10.0),
    "turned by a quarter": (box(3, 4, 5, 2, 0.7), box(3, 4, 5, 2, 0.7 + math.pi / 2), 4.0),
    "sizes swapped and turned by a quarter": (box(3, 4, 5, 2, 0.7), box(3, 4, 2, 5, 0.7 + math.pi / 2), 10.0),
    "inside": (box(0, 0, 8, 6, 0.3), box(0.5, 0.2, 2, 1, 1.1), 2.0),
    "sides touch": (box(0, 0, 2, 2), box(2, 0.5, 2, 2), 0.0),
    "corners touch": (box(0, 0, 2, 2), box(2, 2, 2, 2), 0.0),
    "a corner touches a side": (box(0, 0, 2, 2), box(1 + math.sqrt(2), 0, 2, 2, math.pi / 4), 0.0),
    "part of a side is shared": (box(0, 0, 4, 2), box(1, 0.5, 2, 1), 2.0),
    "a corner reaches in": (box(0, 0, 2, 2), box(math.sqrt(2), 0, 2, 2, math.pi / 4), 1.0),
    "a cross": (box(0, 0, 10, 1, 0.2), box(0, 0, 10, 1, 0.2 + math.pi / 2), 1.0),
    "an octagon": (box(5, 5, 2, 2), box(5, 5, 2, 2, math.pi / 4), 8 * (math.sqrt(2) - 1)),
    "apart": (box(0, 0, 2, 2, 0.4), box(50, 0, 2, 2), 0.0),
    "circles meet, boxes do not": (box(0, 0, 4, 0.1), box(0, 1, 4, 0.1), 0.0),
    "no width": (box(0, 0, 4, 0), box(0, 0, 4, 4), 0.0),
    "negative sizes": (box(0, 0, -4, -2), box(0, 0, 4, 4), 0.0),
}


@backends
@pytest.mark.parametrize("name", SHARED)
def test_the_shared_area_is_that_of_geometry(name: str, backend: str) -> None:
    a, b, area = SHARED[name]
    with use_backend(backend):
        for one, other in [(a, b), (b, a)]:
            torch.testing.assert_close(
                rotated_overlap(one, other), torch.tensor(area, dtype=torch.float64), rtol=0, atol=1e-12
            )
    away = torch.tensor([1e4, -2e4, 0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(
        rotated_overlap(a + away, b + away), torch.tensor(area, dtype=torch.float64), rtol=0, atol=1e-10
    )


@few
@given(BOXES)
def test_areas_equal_the_clipped_polygons(boxes: list[Any]) -> None:
    given_ = torch.tensor(boxes, dtype=torch.float64)
    found = rotated_overlap(given_[:, None], given_)
    with use_backend("reference"):
        torch.testing.assert_close(found, rotated_overlap(given_[:, None], given_), rtol=0, atol=1e-9)


@few
@given(BOXES, st.floats(-7, 7))
def test_the_plane_may_be_turned(boxes: list[Any], angle: float) -> None:
    given_ = torch.tensor(boxes, dtype=torch.float64)
    turned = given_.clone()
    turned[:, 0] = math.cos(angle) * given_[:, 0] - math.sin(angle) * given_[:, 1]
    turned[:, 1] = math.sin(angle) * given_[:, 0] + math.cos(angle) * given_[:, 1]
    turned[:, 6] += angle
    for function in (rotated_iou, rotated_iou_3d):
        before, after = function(given_[:, None], given_), function(turned[:, None], turned)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9)


@few
@given(BOXES)
def test_iou_is_symmetric_between_0_and_1_and_1_of_a_box_with_itself(boxes: list[Any]) -> None:
    given_ = torch.tensor(boxes, dtype=torch.float64)
    for function in (rotated_iou, rotated_iou_3d):
        iou = function(given_[:, None], given_)
        assert (iou >= 0).all()
        assert (iou <= 1 + 1e-9).all()
        torch.testing.assert_close(iou, iou.T, rtol=0, atol=1e-9)
        torch.testing.assert_close(iou.diagonal(), torch.ones(len(given_)).double(), rtol=0, atol=1e-9)


def test_upright_boxes_have_the_iou_of_their_edges() -> None:
    boxes = some_boxes(60, spread=10)
    boxes[:, 6] = 0
    low, high = boxes[:, :3] - boxes[:, 3:6] / 2, boxes[:, :3] + boxes[:, 3:6] / 2
    edges = (torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)).clamp(min=0)
    for function, axes in [(rotated_iou, 2), (rotated_iou_3d, 3)]:
        shared, own = edges[..., :axes].prod(-1), boxes[:, 3 : 3 + axes].prod(-1)
        torch.testing.assert_close(function(boxes[:, None], boxes), shared / (own[:, None] + own - shared))


@functions
def test_float32_is_rounded_only_once(function: Callable[..., Tensor]) -> None:
    boxes = some_boxes(80, dtype=torch.float32)
    found = function(boxes[:, None], boxes)
    assert found.dtype == torch.float32
    assert torch.equal(found, function(boxes[:, None].double(), boxes.double()).float())


@functions
def test_gradients_are_those_of_finite_differences(function: Callable[..., Tensor]) -> None:
    boxes = some_boxes(4, spread=2, seed=3)
    assert (function(boxes[:2, None], boxes[2:]) > 0).all()
    assert torch.autograd.gradcheck(lambda a, b: function(a[:, None], b), [x.requires_grad_() for x in boxes.split(2)])


@functions
def test_empty_sets_have_no_pairs(function: Callable[..., Tensor]) -> None:
    boxes = some_boxes(3)
    assert function(boxes[:0, None], boxes).shape == (0, 3)
    assert function(boxes[:, None], boxes[:0]).shape == (3, 0)


# ---------------------------------------------------------------------------------------------- suppression


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
@pytest.mark.parametrize("spread", [3.0, 15.0])
def test_suppression_in_blocks_equals_its_definition(
    spread: float, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionssm.kernels.rotated_boxes.suppression.BLOCK", 16)
    boxes, scores = some_boxes(80, spread=spread), torch.arange(80).mul(37).remainder(11).double()
    kept = rotated_nms(boxes, scores, threshold)
    with use_backend("reference"):
        assert rotated_nms(boxes, scores, threshold).tolist() == kept.tolist()
        assert rotated_nms(boxes, scores, threshold, max_boxes=5).tolist() == kept[:5].tolist()
    assert rotated_nms(boxes, scores, threshold, max_boxes=5).tolist() == kept[:5].tolist()


@few
@given(BOXES, st.floats(0, 1))
def test_boxes_that_are_kept_overlap_by_no_more_and_the_others_do(boxes: list[Any], threshold: float) -> None:
    given_ = torch.tensor(boxes, dtype=torch.float64)
    scores = torch.linspace(1, 0, len(boxes))
    kept = rotated_nms(given_, scores, threshold)
    iou = rotated_iou(given_[:, None], given_)
    among = iou[kept][:, kept]
    assert (among.triu(1) <= threshold).all()
    lost = [row for row in range(len(boxes)) if row not in kept.tolist()]
    for row in lost:
        assert (iou[kept[kept < row], row] > threshold).any()


def test_identical_boxes_leave_the_best_and_the_first_of_equal_ones() -> None:
    boxes = box(1, 2, 4, 2, 0.3).repeat(5, 1)
    assert rotated_nms(boxes, torch.tensor([0.1, 0.9, 0.3, 0.9, 0.2]), 0.99).tolist() == [1]
    assert rotated_nms(boxes[:0], torch.zeros(0), 0.5).tolist() == []
    assert rotated_nms(boxes, torch.zeros(5), 0.5, max_boxes=0).tolist() == []


def test_the_registered_operator_passes_pytorchs_own_check() -> None:
    boxes, scores = some_boxes(40, spread=5), torch.linspace(0, 1, 40)
    for max_boxes in (None, 5):
        torch.library.opcheck(torch.ops.visionssm.rotated_nms, (boxes, scores, 0.1, max_boxes))


def test_a_program_of_an_open_number_of_boxes_keeps_the_same_ones() -> None:
    class Suppress(torch.nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
            kept = rotated_nms(boxes, scores, 0.1, max_boxes=50)
            return boxes[kept], scores[kept]

    count = torch.export.Dim("count", min=2, max=1000)
    inputs = some_boxes(40, spread=5), torch.linspace(0, 1, 40)
    program = torch.export.export(Suppress(), inputs, dynamic_shapes=({0: count}, {0: count}))
    for size in (30, 90):
        others = some_boxes(size, spread=5, seed=1), torch.linspace(0, 1, size)
        for found, expected in zip(program.module()(*others), Suppress()(*others), strict=True):
            assert torch.equal(found, expected)


# ---------------------------------------------------------------------------------------------- errors


@functions
def test_wrong_boxes_are_named(function: Callable[..., Tensor]) -> None:
    boxes = some_boxes(3)
    with pytest.raises(ValueError, match=r"b has shape \(3, 6\); expected \(…, 7\)"):
        function(boxes, boxes[:, :6])
    with pytest.raises(ValueError, match=r"a has dtype torch\.int64"):
        function(boxes.long(), boxes)
    with pytest.raises(ValueError, match="b is on meta and a on cpu"):
        function(boxes, boxes.to("meta"))
    boxes[1, 2] = math.nan
    with pytest.raises(ValueError, match="a holds 1 boxes with NaN or infinite numbers; leave them out"):
        function(boxes, some_boxes(3))


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (torch.zeros(2), {}, r"scores has shape \(2,\); expected \(N=3\)"),
        (torch.tensor([0.1, math.nan, math.nan]), {}, "scores holds 2 NaN"),
        (torch.zeros(3), {"max_boxes": -1}, "max_boxes=-1; give a number that is not negative"),
        (torch.zeros(3, device="meta"), {}, "scores is on meta and boxes on cpu"),
    ],
)
def test_wrong_scores_are_named(scores: Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rotated_nms(some_boxes(3), scores, 0.5, **options)


def test_rows_of_boxes_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"boxes has shape \(7,\); expected \(N, 7=7\)"):
        rotated_nms(some_boxes(1)[0], torch.zeros(1), 0.5)


@backends
def test_overlaps_do_not_depend_on_the_unit_of_length(backend: str) -> None:
    boxes = some_boxes(6, spread=4.0)
    with use_backend(backend):
        for function in (rotated_iou, rotated_iou_3d):
            expected = function(boxes[:, None], boxes)
            for unit in (1e-9, 1e6):
                small = torch.cat([unit * boxes[:, :6], boxes[:, 6:]], 1)
                torch.testing.assert_close(function(small[:, None], small), expected)
    nothing = torch.zeros(7)
    assert rotated_iou(nothing, nothing) == rotated_iou_3d(nothing, nothing) == 0
