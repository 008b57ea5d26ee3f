"""Average precision of key points against definitions, and errors in sizes of the boxes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from visionssm.data.coco_evaluation import coco_evaluator
from visionssm.heads.pose.oks import oks
from visionssm.tasks.pose.evaluation import (
    FIGURES,
    FoundPose,
    TruePose,
    average_precision,
    box_errors,
    rescored,
    without_duplicates,
)

SIGMAS = np.array([0.05, 0.06, 0.07, 0.08, 0.1])
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def _people(seed: int = 0, images: int = 6) -> list[TruePose]:
    """Medium and large people, some points not labelled, far from each other."""
    rng = np.random.default_rng(seed)
    people = []
    for image in range(images):
        for place in range(int(rng.integers(1, 4))):
            side = rng.uniform(40, 200)
            corner = np.array([1000.0 * place, rng.uniform(0, 100)])
            points = np.concatenate([corner + rng.random((5, 2)) * side, rng.integers(0, 3, (5, 1))], 1)
            points[0, 2] = 2
            people.append(TruePose(image, points, side**2, [*corner, *(corner + side)]))
    return people


def _found(people: list[TruePose], noise: float, seed: int = 1) -> list[FoundPose]:
    rng = np.random.default_rng(seed)
    found = []
    for number, (image, points, area, _, label, _) in enumerate(people):
        moved = points[:, :2] + rng.normal(size=(5, 2)) * noise * area**0.5
        score = float(rng.permutation(1000)[0] / 1000 + number * 1e-5)
        found.append(FoundPose(image, np.column_stack([moved, np.full(5, 0.5)]), score, area, label))
    return found


def _precision_slowly(truth: list[TruePose], found: list[FoundPose], least: float) -> tuple[float, float]:
    """Average precision at 101 recalls and final recall, of people who are never near two true ones."""
    hits = []
    for pose in sorted(found, key=lambda x: -x.score):
        similar = [
            float(oks(pose.points[:, :2], true.points[:, :2], true.area, SIGMAS, true.points[:, 2]))
            for true in truth
            if true.image == pose.image
        ]
        hits.append(max(similar, default=0) >= least)
    right = np.cumsum(hits)
    precision, recall = right / np.arange(1, len(hits) + 1), right / len(truth)
    steps = [
        max((p for p, r in zip(precision, recall, strict=True) if r >= step), default=0.0)
        for step in np.linspace(0, 1, 101)
    ]
    return float(np.mean(steps)), float(recall[-1])


@pytest.fixture(params=["pycocotools", "faster_coco_eval"])
def evaluator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Either package; faster-coco-eval is not among what the project installs."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    module = coco_evaluator()[1].__module__
    assert module.startswith(request.param)
    return request.param


@pytest.mark.parametrize("noise", [0.04, 0.06, 0.12])
def test_precision_is_the_definition_with_either_package(evaluator: str, noise: float) -> None:
    truth = _people()
    found = _found(truth, noise)
    figures = average_precision(truth, found, SIGMAS)
    assert tuple(figures) == FIGURES
    slow = np.array([_precision_slowly(truth, found, least) for least in THRESHOLDS])
    assert figures["AP"] == pytest.approx(slow[:, 0].mean(), abs=1e-6)
    assert figures["AR"] == pytest.approx(slow[:, 1].mean(), abs=1e-6)
    assert figures["AP50"] == pytest.approx(slow[0, 0], abs=1e-6)
    assert figures["AP75"] == pytest.approx(slow[5, 0], abs=1e-6)
    assert 0 < figures["AP"] < 1


def test_precision_of_perfect_predictions_is_one_and_of_shuffled_ones_zero(evaluator: str) -> None:
    truth = _people()
    assert average_precision(truth, _found(truth, 0.0), SIGMAS) == dict.fromkeys(FIGURES, 1.0)
    elsewhere = [pose._replace(image=(pose.image + 1) % 6) for pose in _found(truth, 0.0)]
    shifted = [pose._replace(points=pose.points + np.array([400, 300, 0])) for pose in elsewhere]
    assert average_precision(truth, shifted, SIGMAS) == dict.fromkeys(FIGURES, 0.0)
    assert average_precision(truth, [], SIGMAS) == dict.fromkeys(FIGURES, 0.0)


def test_medium_and_large_people_have_figures_of_their_own(evaluator: str) -> None:
    truth = [pose for pose in _people() if abs(pose.area - 96**2) > 100]
    large = [pose for pose in _found(truth, 0.0) if pose.area > 96**2]
    assert 0 < len(large) < len(truth)
    figures = average_precision(truth, large, SIGMAS)
    assert figures["APl"] == 1
    assert figures["APm"] == 0


def test_a_person_without_labelled_points_and_a_crowd_are_not_asked_for(evaluator: str) -> None:
    truth = _people()
    unseen = TruePose(0, np.zeros((5, 3)), 900.0, [5000, 0, 5030, 30])
    crowd = _people(7)[0]._replace(image=9, crowd=True)
    figures = average_precision([*truth, unseen, crowd], _found(truth, 0.0), SIGMAS)
    assert figures == dict.fromkeys(FIGURES, 1.0)
    assert average_precision([unseen], _found(truth, 0.0), SIGMAS) == dict.fromkeys(FIGURES, -1.0)
    assert average_precision([], [], SIGMAS) == dict.fromkeys(FIGURES, -1.0)


def test_somebody_found_in_an_image_without_anybody_is_wrong(evaluator: str) -> None:
    truth = _people()
    found = _found(truth, 0.0)
    ghost = found[0]._replace(image=77, score=9.0)
    figures = average_precision(truth, [*found, ghost], SIGMAS)
    assert figures["AR"] == 1
    assert figures["AP"] == pytest.approx(len(truth) / (len(truth) + 1), abs=0.01)


def test_categories_are_counted_by_themselves(evaluator: str) -> None:
    truth = [pose._replace(label=1 + number % 2) for number, pose in enumerate(_people())]
    found = _found(truth, 0.0)
    swapped = [pose._replace(label=3 - pose.label) if pose.label == 2 else pose for pose in found]
    assert average_precision(truth, found, SIGMAS)["AP"] == 1
    figures = average_precision(truth, swapped, SIGMAS)
    assert 0 < figures["AP"] <= 0.5


def test_duplicates_are_left_out_within_an_image_and_category() -> None:
    truth = _people()
    found = _found(truth, 0.0)
    again = [pose._replace(score=pose.score / 2) for pose in found]
    assert without_duplicates([*found, *again], SIGMAS) == found
    assert without_duplicates([*again, *found], SIGMAS) == found
    others = [pose._replace(label=2) for pose in found]
    assert without_duplicates([*found, *others], SIGMAS) == [*found, *others]
    assert without_duplicates([], SIGMAS) == []


def test_score_of_a_person_is_the_boxs_times_the_mean_of_likely_points() -> None:
    points = [[0.9, 0.5, 0.2], [0.2, 0.1, -0.3], [1.0, 1.0, 1.0]]
    np.testing.assert_allclose(rescored([0.5, 1.0, 0.3], points), [0.35, 0.0, 0.3])


def test_errors_are_of_labelled_points_in_longer_sides_of_the_box() -> None:
    truth = np.zeros((2, 2, 3))
    truth[0, 0, 2] = truth[1, :, 2] = 1
    points = np.array([[[6.0, 8.0], [99, 99]], [[0, 1], [0, 3]]])
    errors = box_errors(points, truth, [[0, 0, 20, 40], [5, 5, 15, 7]])
    np.testing.assert_allclose(errors, [0.25, 0.1, 0.3])


def test_wrong_arguments_are_told() -> None:
    truth = _people()
    found = _found(truth, 0.0)
    with pytest.raises(ValueError, match=r"\(5, 3\) must be \(4, 3\)"):
        average_precision(truth, found, SIGMAS[:4])
    with pytest.raises(ValueError, match="finite"):
        average_precision(truth, [found[0]._replace(score=float("nan"))], SIGMAS)
    with pytest.raises(ValueError, match="points of image 0 must be finite"):
        average_precision(truth, [found[0]._replace(points=found[0].points * np.nan)], SIGMAS)
