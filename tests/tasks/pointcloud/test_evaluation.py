"""Average precision against KITTI's rules, written out for small cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from visionssm.tasks.pointcloud.curves import draw_precision_recall
from visionssm.tasks.pointcloud.evaluation import Judged, Score, evaluate, headline, table
from visionssm.tasks.pointcloud.kitti import Label

CAR = Label("Car", 0.0, 0, 0.1, (100, 100, 200, 180), (1.5, 1.6, 4.0), (0.0, 1.7, 20.0), 0.2)


def cars(count: int) -> list[Label]:
    """Cars that stand apart, in space and in the picture."""
    return [replace(CAR, box=(60 * i, 100, 60 * i + 50, 160), location=(8.0 * i, 1.7, 20.0)) for i in range(count)]


def scored(labels: Sequence[Label], scores: Sequence[float]) -> list[Label]:
    return [replace(label, score=score) for label, score in zip(labels, scores, strict=True)]


def away(label: Label) -> Label:
    """A prediction that hits nothing."""
    return replace(label, box=(0, 300, 50, 360), location=(0.0, 1.7, 90.0))


def figure(frames: Sequence[Judged], measure: str = "3d", level: str = "moderate", kind: str = "Car") -> Score:
    return next(x for x in evaluate(frames, [kind]) if (x.measure, x.level) == (measure, level))


@pytest.mark.parametrize("count", [1, 7, 40, 41, 60])
@pytest.mark.parametrize("measure", ["2d", "bev", "3d", "aos"])
def test_perfect_predictions_reach_one(count: int, measure: str) -> None:
    truths = cars(count)
    score = figure([Judged(truths, scored(truths, np.linspace(0.9, 0.1, count).tolist()))], measure)
    assert score.ap11 == score.ap40 == pytest.approx(1)
    assert score.truths == count


def test_nothing_found_is_zero_and_without_truths_there_is_no_figure() -> None:
    assert figure([Judged(cars(3), [])]).ap40 == 0
    assert math.isnan(figure([Judged([], scored(cars(2), [0.5, 0.4]))]).ap40)
    assert "car_3d_70" not in headline(evaluate([Judged([], [])], ["Car"]))


def test_half_of_the_objects_give_the_precision_up_to_half_of_the_recalls() -> None:
    truths = cars(80)
    score = figure([Judged(truths, scored(truths[:40], np.linspace(0.9, 0.5, 40).tolist()))])
    assert score.ap40 == pytest.approx(20 / 40)
    assert score.ap11 == pytest.approx(6 / 11)


def test_wrong_predictions_lower_the_precision_of_all_recalls_below_their_score() -> None:
    truths = cars(80)
    found = scored(truths, np.linspace(0.9, 0.5, 80).tolist())
    first = scored([away(truths[0])] * 1, [0.95])
    values = figure([Judged(truths, found + first)]).precision
    for position in (1, 20, 40):
        hits = 2 * position
        assert values[position] == pytest.approx(max(n / (n + 1) for n in range(hits, 81)), abs=0.01)
    last = figure([Judged(truths, found + scored([away(truths[0])], [0.1]))])
    assert last.ap40 == pytest.approx(1)  # a wrong one of the lowest score is below every threshold


def test_precision_never_rises_with_recall_and_only_the_order_of_scores_counts() -> None:
    generator = np.random.default_rng(0)
    truths = cars(50)
    found = [x if generator.random() < 0.7 else away(x) for x in truths]
    scores = generator.uniform(0.1, 0.9, 50)
    one = figure([Judged(truths, scored(found, scores.tolist()))])
    assert all(b <= a for a, b in zip(one.precision, one.precision[1:], strict=False))
    assert 0 < one.ap40 < 1
    assert figure([Judged(truths, scored(found, (scores**3).tolist()))]) == one
    split = [Judged(truths[i : i + 1], scored(found[i : i + 1], scores[i : i + 1].tolist())) for i in range(50)]
    assert figure(split).ap40 == pytest.approx(one.ap40)


@pytest.mark.parametrize(
    ("change", "counting"),
    [
        ({"occluded": 1}, ("moderate", "hard")),
        ({"occluded": 2}, ("hard",)),
        ({"occluded": 3}, ()),
        ({"truncated": 0.2}, ("moderate", "hard")),
        ({"truncated": 0.4}, ("hard",)),
        ({"box": (100, 100, 200, 135)}, ("moderate", "hard")),
        ({"box": (100, 100, 200, 124)}, ()),
        ({"kind": "Van"}, ()),
        ({"kind": "Truck"}, ()),
    ],
)
def test_what_is_asked_for_depends_on_the_difficulty(change: dict[str, object], counting: tuple[str, ...]) -> None:
    special = replace(CAR, **change)  # type: ignore[arg-type]
    for level in ("easy", "moderate", "hard"):
        assert figure([Judged([special], [])], level=level).truths == (level in counting)


def test_predictions_on_objects_that_do_not_count_are_neither_right_nor_wrong() -> None:
    truths = cars(10)
    odd = [
        replace(truths[8], kind="Van"),
        replace(truths[9], occluded=3),
    ]
    found = scored(truths, [0.5] * 8 + [0.9, 0.9])
    assert figure([Judged(truths[:8] + odd, found)]).ap40 == pytest.approx(1)
    truck = [replace(truths[8], kind="Truck")]
    assert figure([Judged(truths[:8] + truck, found[:9])]).ap40 < 1  # looks like nothing that is a car


def test_second_prediction_of_an_object_is_wrong() -> None:
    truths = cars(4)
    assert figure([Judged(truths, scored(truths, [0.9] * 4))]).ap40 == pytest.approx(1)
    assert figure([Judged(truths, scored([*truths, truths[0]], [0.9] * 5))]).ap40 == pytest.approx(4 / 5)


def test_only_the_picture_has_areas_that_nobody_cares_for() -> None:
    truths = cars(4)
    area = replace(CAR, kind="DontCare", box=(0, 290, 60, 370), size=(-1, -1, -1), location=(-1000, -1000, -1000))
    found = scored([*truths, away(truths[0])], [0.9] * 5)
    assert figure([Judged([*truths, area], found)], "2d").ap40 == pytest.approx(1)
    assert figure([Judged([*truths, area], found)], "3d").ap40 == pytest.approx(4 / 5)


def test_small_predictions_are_not_counted_as_wrong() -> None:
    truths = cars(4)
    small = replace(away(truths[0]), box=(0, 300, 50, 320))
    assert figure([Judged(truths, scored([*truths, small], [0.9] * 5))]).ap40 == pytest.approx(1)


def test_headings_the_wrong_way_round_count_for_nothing_but_boxes_stay_right() -> None:
    truths = cars(4)
    turned = [replace(x, alpha=x.alpha + math.pi, rotation=x.rotation + math.pi) for x in truths]
    frames = [Judged(truths, scored(turned, [0.9] * 4))]
    assert figure(frames, "aos").ap40 == pytest.approx(0, abs=1e-9)
    assert figure(frames, "3d").ap40 == pytest.approx(1)
    across = [replace(x, alpha=x.alpha + math.pi / 2) for x in truths]
    assert figure([Judged(truths, scored(across, [0.9] * 4))], "aos").ap40 == pytest.approx(0.5)


def test_overlaps_are_those_of_the_two_sets() -> None:
    truths = cars(4)
    # Moved along its length of 4 m by s, the overlap is (4 − s)/(4 + s): 0.6 for 1 m.
    moved = [replace(x, location=(x.location[0] + math.cos(-0.2), 1.7, 20.0 + math.sin(-0.2))) for x in truths]
    found = {(x.measure, x.overlap): x.ap40 for x in evaluate([Judged(truths, scored(moved, [0.9] * 4))], ["Car"])}
    assert found[("bev", 0.7)] == found[("3d", 0.7)] == 0
    assert found[("bev", 0.5)] == found[("3d", 0.5)] == pytest.approx(1)
    raised = [replace(x, location=(*x.location[:1], 1.2, 20.0)) for x in truths]  # 0.5 m of 1.5 m: 0.5 in space
    found = {(x.measure, x.overlap): x.ap40 for x in evaluate([Judged(truths, scored(raised, [0.9] * 4))], ["Car"])}
    assert found[("bev", 0.7)] == pytest.approx(1)
    assert found[("3d", 0.7)] == 0


def test_table_has_every_class_measure_overlap_and_difficulty_once() -> None:
    rows = table(evaluate([Judged(cars(3), [])], ["Car", "Pedestrian"]))
    assert len(rows) == 2 * 3 * 6
    assert len({row[:4] for row in rows}) == len(rows)
    assert ("Pedestrian", "bev", 0.25, "easy") in {row[:4] for row in rows}


def test_curves_are_the_precisions_of_one_level_strict_ones_unbroken() -> None:
    falling = tuple(1 - x / 80 for x in range(41))
    rows = [
        Score("Car", measure, overlap, level, falling if level == "easy" else (0.0,) * 41, 9)
        for measure in ("2d", "bev", "3d")
        for overlap in (0.7, 0.5)
        for level in ("easy", "hard")
    ]
    rows.append(Score("Cyclist", "3d", 0.5, "easy", (0.0,) * 41, 0))  # nobody asked for one
    above, space = draw_precision_recall(rows, "easy").axes
    for axes in (above, space):
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
        assert all(list(line.get_ydata()) == list(falling) for line in axes.lines)
        assert axes.lines[0].get_xdata()[[0, -1]].tolist() == [0, 1]
        assert axes.lines[0].get_label() == f"Car 0.7: {100 * np.mean(falling[1:]):.1f}"
