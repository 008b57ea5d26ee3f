"""Rendered stick figures: functions of their specification, with joints, boxes and masks that agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visionssm.data.errors import DatasetError
from visionssm.data.figures import (
    FLIP_PAIRS,
    JOINTS,
    FiguresSpec,
    render_figures,
    write_figures,
)
from visionssm.data.generated import checked_spec
from visionssm.data.keypoints import skeleton_of

SPEC = FiguresSpec(size=64, train=5, val=2, test=2)


def test_image_depends_on_seed_split_and_index_alone() -> None:
    first = render_figures(SPEC, "train", 3).image
    assert np.array_equal(render_figures(FiguresSpec(size=64, train=9), "train", 3).image, first)
    for other in (
        render_figures(SPEC, "train", 4),
        render_figures(SPEC, "val", 3),
        render_figures(FiguresSpec(size=64, seed=1), "train", 3),
    ):
        assert not np.array_equal(other.image, first)


def test_joints_that_are_visible_are_on_the_person_and_those_outside_of_the_image_have_no_label() -> None:
    hidden = outside = 0
    for index in range(12):
        people = render_figures(SPEC, "train", index)
        assert not (people.masks.sum(0) > 1).any()
        for mask, joints, seen in zip(people.masks, people.joints, people.visibility, strict=True):
            within = ((joints >= -0.5) & (joints < 63.5)).all(1)
            assert ((seen > 0) == within).all()
            x, y = joints[seen == 2].round().astype(int).clip(0, 63).T
            near = [mask[max(0, b - 1) : b + 2, max(0, a - 1) : a + 2].any() for a, b in zip(x, y, strict=True)]
            assert all(near)
            assert within.sum() >= 8
            hidden, outside = hidden + int((seen == 1).sum()), outside + int((seen == 0).sum())
    assert min(hidden, outside) > 0, "some are behind others, some are cut off"


def test_people_face_the_viewer() -> None:
    joints = np.concatenate([render_figures(SPEC, "val", index).joints for index in range(10)])
    left, right = JOINTS.index("left_shoulder"), JOINTS.index("right_shoulder")
    assert (joints[:, left, 0] > joints[:, right, 0]).all()


def test_set_is_written_in_cocos_format_with_its_pairs_and_sigmas(tmp_path: Path) -> None:
    folder = write_figures(tmp_path / "set", SPEC)
    content = json.loads((folder / "annotations" / "person_keypoints_train.json").read_text())
    assert len(content["images"]) == len(list((folder / "images" / "train").iterdir())) == 5
    skeleton = skeleton_of(content["categories"][0])
    assert skeleton.names == JOINTS
    assert [(skeleton.names[a], skeleton.names[b]) for a, b in skeleton.flip_pairs] == list(FLIP_PAIRS)
    people = render_figures(SPEC, "train", 0)
    of_first = [x for x in content["annotations"] if x["image_id"] == 0]
    assert len(of_first) == len(people.masks)
    for entry, mask, joints, seen in zip(of_first, people.masks, people.joints, people.visibility, strict=True):
        points = np.reshape(entry["keypoints"], (14, 3))
        assert (points[:, 2] == seen).all()
        np.testing.assert_allclose(points[seen > 0, :2], joints[seen > 0], atol=0.006)
        assert entry["area"] == mask.sum()
        left, top, width, height = entry["bbox"]
        assert mask[top : top + height, left : left + width].sum() == mask.sum()
    assert write_figures(tmp_path / "set", SPEC) == folder


def test_unknown_splits_and_sizes_are_refused() -> None:
    with pytest.raises(DatasetError, match="split must be one of train, val, test"):
        checked_spec(FiguresSpec, "training", None)
    with pytest.raises(DatasetError, match="size must be at least 48, got 8"):
        checked_spec(FiguresSpec, "train", {"size": 8})
