"""Similarity of poses, and suppression of duplicates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionssm.heads.pose.oks import COCO_SIGMAS, oks, oks_nms

SIGMAS = np.array([0.05, 0.1, 0.2])


def _person(x: float, y: float) -> np.ndarray:
    return np.array([[x, y], [x + 10, y], [x, y + 20]])


def test_similarity_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    points, truth = rng.random((2, 3, 2)) * 10
    expected = np.mean(
        [math.exp(-(math.dist(points[k], truth[k]) ** 2) / (2 * 80.0 * (2 * SIGMAS[k]) ** 2)) for k in range(3)]
    )
    assert oks(points, truth, 80.0, SIGMAS) == pytest.approx(expected)
    first_two = [math.exp(-(math.dist(points[k], truth[k]) ** 2) / (8 * 80 * SIGMAS[k] ** 2)) for k in range(2)]
    assert oks(points, truth, 80.0, SIGMAS, [1, 2, 0]) == pytest.approx(np.mean(first_two))


def test_nobody_is_similar_to_a_person_without_labelled_points() -> None:
    assert oks(_person(0, 0), _person(0, 0), 100.0, SIGMAS, [0, 0, 0]) == 0


@settings(deadline=None)
@given(st.integers(0, 999), st.floats(0.1, 10))
def test_similarity_is_symmetric_at_most_one_and_the_same_at_every_scale(seed: int, factor: float) -> None:
    points, truth = np.random.default_rng(seed).random((2, 17, 2)) * 50
    value = float(oks(points, truth, 900.0))
    assert 0 <= value < 1 == oks(truth, truth, 900.0)
    assert value == pytest.approx(float(oks(truth, points, 900.0)))
    assert value == pytest.approx(float(oks(points * factor, truth * factor, 900.0 * factor**2)))
    assert value < oks((points + truth) / 2, truth, 900.0)


def test_there_are_seventeen_sigmas_of_coco() -> None:
    assert len(COCO_SIGMAS) == 17
    assert all(COCO_SIGMAS[i] == COCO_SIGMAS[i + 1] for i in range(1, 17, 2))  # left and right


def test_of_duplicates_the_one_of_the_highest_score_stays() -> None:
    people = np.stack([_person(0, 0), _person(0.1, 0), _person(200, 0), _person(0, 0.1), _person(200.1, 0)])
    kept = oks_nms(people, [0.3, 0.9, 0.4, 0.5, 0.4], [200.0] * 5, SIGMAS)
    assert kept.tolist() == [1, 2]  # of the equal scores, the first
    assert oks_nms(people, [0.3, 0.9, 0.4, 0.5, 0.4], [200.0] * 5, SIGMAS, threshold=1.0).tolist() == [1, 3, 2, 4, 0]


def test_a_person_who_was_left_out_suppresses_nobody() -> None:
    # a is similar to b, and b to c, but a is not to c.
    people = np.stack([_person(0, 0), _person(1.4, 0), _person(2.8, 0)])
    near, far = oks(people[0], people[1], 200.0, SIGMAS), oks(people[0], people[2], 200.0, SIGMAS)
    threshold = float(near + far) / 2
    assert oks_nms(people, [0.9, 0.8, 0.7], [200.0] * 3, SIGMAS, threshold).tolist() == [0, 2]
    assert oks_nms(people, [0.7, 0.9, 0.8], [200.0] * 3, SIGMAS, threshold).tolist() == [1]


def test_the_area_of_a_pair_is_the_mean() -> None:
    people = np.stack([_person(0, 0), _person(3, 0)])
    similar = float(oks(people[0], people[1], 250.0, SIGMAS))
    assert len(oks_nms(people, [1, 1], [100.0, 400.0], SIGMAS, similar + 1e-9)) == 2
    assert len(oks_nms(people, [1, 1], [100.0, 400.0], SIGMAS, similar - 1e-9)) == 1


def test_nobody_is_left_of_nobody() -> None:
    assert oks_nms(np.zeros((0, 3, 2)), [], [], SIGMAS).tolist() == []


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"\(..., 3, 2\)"):
        oks(np.zeros((4, 2)), np.zeros((4, 2)), 1.0, SIGMAS)
    with pytest.raises(ValueError, match="positive"):
        oks(_person(0, 0), _person(0, 0), 0.0, SIGMAS)
    with pytest.raises(ValueError, match="2 people, 1 scores"):
        oks_nms(np.zeros((2, 3, 2)), [1], [1, 1], SIGMAS)
    with pytest.raises(ValueError, match=r"threshold=1\.5"):
        oks_nms(np.zeros((2, 3, 2)), [1, 1], [1, 1], SIGMAS, threshold=1.5)
