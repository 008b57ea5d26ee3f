"""What categories of key points say, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from visionssm.data.errors import DatasetError
from visionssm.data.keypoints import COCO_NAMES, COCO_SIGMAS, Skeleton, area_of, points_of, score_of, skeleton_of
from visionssm.data.problems import Mistake

NAMES = ["nose", "left_eye", "right_eye"]


def test_coco_points_have_cocos_sigmas_and_pairs() -> None:
    skeleton = skeleton_of({"name": "person", "keypoints": list(COCO_NAMES), "skeleton": [[16, 14], [1, 2]]})
    assert skeleton.sigmas == COCO_SIGMAS
    assert skeleton.flip_pairs == tuple((n, n + 1) for n in range(1, 17, 2))
    assert skeleton.edges == ((15, 13), (0, 1))
    assert [skeleton.names[n] for n in skeleton.lower] == list(COCO_NAMES[11:])
    assert Skeleton.from_plain(skeleton.plain()) == skeleton


def test_pairs_are_names_or_numbers_from_1_and_else_follow_from_names() -> None:
    for pairs in ([["left_eye", "right_eye"]], [[2, 3]], None):
        category: dict[str, Any] = {"name": "x", "keypoints": NAMES, "sigmas": [0.1, 0.2, 0.3]}
        assert skeleton_of(category if pairs is None else {**category, "flip_pairs": pairs}).flip_pairs == ((1, 2),)
    hand = skeleton_of({"name": "hand", "keypoints": ["wrist", "thumb1"], "sigmas": [0.1, 0.1]})
    assert hand.flip_pairs == ()
    paws = skeleton_of({"name": "dog", "keypoints": ["L_F_Paw", "R_F_Paw", "Nose"], "sigmas": [0.1] * 3})
    assert paws.flip_pairs == ((0, 1),)


def test_missing_sigmas_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert skeleton_of({"name": "x", "keypoints": NAMES}).sigmas == (0.05, 0.05, 0.05)
    assert "'x' has no sigmas: key points are measured with 0.05 for each" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        skeleton_of({"name": "x", "keypoints": NAMES, "sigmas": [0.1] * 3})
    assert not caplog.text


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"keypoints": []}, "need a list of names"),
        ({"keypoints": ["a", "a", "b"]}, "must be different texts"),
        ({"keypoints": ["left_eye", "nose", "mouth"]}, "flip pairs do not match: the point 'left_eye' has no partner"),
        ({"flip_pairs": [["left_eye", "right_ear"]]}, r"flip_pairs: \['left_eye', 'right_ear'\] are no two points"),
        ({"flip_pairs": [[0, 1]]}, "numbers from 1 to 3"),
        ({"flip_pairs": [[1, 2], [2, 3]]}, "flip pairs do not match: left_eye would swap with two points"),
        ({"flip_pairs": [[2, 2]]}, "or with itself"),
        ({"flip_pairs": "left"}, "must be a list of pairs"),
        ({"skeleton": [[1, 4]]}, "skeleton"),
        ({"sigmas": [0.1]}, "sigmas must be 3 positive numbers"),
        ({"sigmas": [0.1, 0, 0.1]}, "sigmas must be 3 positive numbers"),
    ],
)
def test_wrong_categories_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=f"the category 'x': .*{message}"):
        skeleton_of({"name": "x", "keypoints": NAMES, "sigmas": [0.1] * 3, **changes})


@pytest.mark.parametrize(
    "points, message",
    [
        ([1, 2, 2], "another length: 3 numbers, not 3 × 2"),
        (None, "another length: None"),
        ([1, 2, 3, 1, 2, 2], "visibility other than 0, 1 and 2: 3"),
        ([1, "2", 2, 1, 2, 2], "no numbers"),
        ([1, float("nan"), 2, 1, 2, 2], "no numbers"),
        ([1, 1e12, 2, 1, 2, 2], "no numbers"),
    ],
)
def test_wrong_points_are_mistakes(points: Any, message: str) -> None:
    with pytest.raises(Mistake, match=message):
        points_of({"keypoints": points}, 2)


def test_areas_and_scores_are_positive_numbers() -> None:
    assert points_of({"keypoints": [1, 2, 2, 0, 0, 0]}, 2).tolist() == [[1, 2, 2], [0, 0, 0]]
    assert area_of({"area": 3}) == 3
    assert score_of({"score": 1}) == 1
    for area in (None, 0, -1, "3", float("nan")):
        with pytest.raises(Mistake, match="without an area"):
            area_of({"area": area})
    for score in (None, 1.5, -0.1, "1"):
        with pytest.raises(Mistake, match="no number from 0 to 1"):
            score_of({"score": score})
