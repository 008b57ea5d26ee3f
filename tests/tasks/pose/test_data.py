"""Sets of key points: mistakes are told at once, and crops, points and heat maps agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tasks.pose.inputs import person, write_set
from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.keypoints import Skeleton
from visionssm.heads.pose import affine, codec
from visionssm.tasks.pose.crops import Crop, cut, placed, shown
from visionssm.tasks.pose.data import CocoKeypoints
from visionssm.tasks.pose.transforms import Augmentation, Region, _draws, mirrored

SKELETON = Skeleton(("head", "left_hand", "right_hand"), ((1, 2),), ((0, 1), (0, 2)), (0.1, 0.1, 0.1))
NEVER = {"flip": 0.0, "half_body": 0.0, "shift_chance": 0.0, "scale": 0.0, "rotation_chance": 0.0}


def test_sample_shows_the_box_and_its_heat_maps_peak_at_the_points(tmp_path: Path) -> None:
    data = CocoKeypoints(**write_set(tmp_path), sigma=1.0)
    sample = data[0]
    assert len(data) == 1
    assert data.sample_name(0) == "1.png"
    assert sample["inputs"].shape == (3, 64, 64)
    assert sample["maps"].shape == (3, 16, 16)
    assert sample["weights"].tolist() == [1, 1, 1]
    assert sample["centre"].tolist() == [20, 20]
    assert sample["scale"].tolist() == [30, 30]
    found = placed(
        sample["maps"].numpy()[None], sample["centre"].numpy()[None], sample["scale"].numpy()[None], (64, 64)
    )
    within = 0.75 * 4 * 30 / 64  # half a pixel of a heat map and the quarter shift of the decoding
    np.testing.assert_allclose(found[0, :, :2], [[20, 10], [24, 14], [16, 14]], atol=within)
    data.for_evaluation()
    assert "maps" not in data[0]


def test_mistakes_are_told_all_at_once_with_counts(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"].append({"id": 3, "file_name": "absent.png", "height": 36, "width": 40})
        content["annotations"] += [
            person(2, image_id=9),
            person(3, category_id=7),
            person(4, bbox=[10, 8, 0, 24]),
            person(5, bbox=[100, 8, 20, 24]),
            person(6, keypoints=[1, 2, 2]),
            person(7, keypoints=[20, 10, 3, 24, 14, 2, 16, 14, 1]),
            person(8, area=0),
        ]

    arguments = write_set(tmp_path, change)
    with pytest.raises(DatasetError) as caught:
        CocoKeypoints(**arguments)
    told = str(caught.value)
    for part in (
        "points.json' has 8 mistakes",
        f"1 image files that are not in {str(tmp_path / 'images')!r}: 'absent.png'",
        "1 annotations of images that are not listed or missing: annotation 2 of 9",
        "1 annotations with an unknown category id: annotation 3 with category_id 7",
        "2 boxes without area inside their image: annotation 4 with bbox [10, 8, 0, 24] in '1.png', annotation 5",
        "1 annotations with key points of another length: annotation 6: 3 numbers, not 3 × 3",
        "1 annotations with a visibility other than 0, 1 and 2: annotation 7: 3",
        "1 annotations without an area (the mask's; without masks say the box's): annotation 8: 0",
    ):
        assert part in told
    data = CocoKeypoints(**arguments, wrong="skip")
    assert len(data) == 1
    assert data.skipped == 8


def test_damaged_image_stops_or_is_left_out(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"].append(person(2, image_id=2))

    arguments = write_set(tmp_path, change)
    stopping, data = CocoKeypoints(**arguments), CocoKeypoints(**arguments, wrong="skip")
    whole = (tmp_path / "images" / "1.png").read_bytes()
    (tmp_path / "images" / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptImageError, match=r"1\.png"):
        stopping[0]
    with pytest.raises(DatasetError, match=r"1 image files that cannot be read: '1\.png'"):
        CocoKeypoints(**arguments)
    assert data[0]["index"] == 1
    assert data[0]["skipped"] == 1
    data.for_evaluation()
    assert [data[n]["index"] for n in (0, 1)] == [-1, 1]


def test_set_without_anybody_is_refused(tmp_path: Path) -> None:
    def hide(content: dict[str, Any]) -> None:
        content["annotations"] = [person(keypoints=[0] * 9), person(2, iscrowd=1)]

    with pytest.raises(DatasetError, match="nobody with a key point"):
        CocoKeypoints(**write_set(tmp_path / "a", hide))
    with pytest.raises(DatasetError, match="no category with 'keypoints'"):
        CocoKeypoints(**write_set(tmp_path / "b", lambda content: content["categories"].pop(0)))
    with pytest.raises(DatasetError, match="'car' is no category with key points"):
        CocoKeypoints(**write_set(tmp_path / "c"), classes=["car"])


def test_categories_with_the_same_points_go_together_and_others_do_not(tmp_path: Path) -> None:
    def species(content: dict[str, Any]) -> None:
        content["categories"][1] = {**content["categories"][0], "id": 5, "name": "ape"}
        content["annotations"].append(person(2, category_id=5))

    data = CocoKeypoints(**write_set(tmp_path / "a", species))
    assert data.classes == ["person", "ape"]
    assert [x.label for x in data.truth.people] == [1, 2]
    assert list(data.truth.categories) == [1, 5]

    def other(content: dict[str, Any]) -> None:
        content["categories"][1] |= {"keypoints": ["wheel"], "sigmas": [0.1]}

    with pytest.raises(DatasetError, match="'person' and 'car' have different key points"):
        CocoKeypoints(**write_set(tmp_path / "b", other))


def detection(**changes: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [10, 8, 20, 24], "score": 0.7, **changes}


def test_boxes_come_from_a_detection_file_and_the_set_says_so(tmp_path: Path) -> None:
    arguments = write_set(tmp_path)
    found = [detection(), detection(image_id=2, bbox=[-5, 2, 20, 20], score=0.4), detection(category_id=2)]
    (tmp_path / "found.json").write_text(json.dumps(found))
    data = CocoKeypoints(**arguments, boxes="found.json")
    assert data.metainfo["boxes"] == "found.json"
    assert CocoKeypoints(**arguments).metainfo["boxes"] == "annotations"
    assert [(x.image, x.score, x.points) for x in data.truth.people] == [(1, 0.7, None), (2, 0.4, None)]
    assert data.truth.people[1].box == (-5, 2, 15, 22), "as the detector found it"
    assert data[1]["inputs"].shape == (3, 64, 64)


def test_mistakes_of_a_detection_file_are_told_with_those_of_the_set(tmp_path: Path) -> None:
    arguments = write_set(tmp_path, lambda content: content["annotations"].append(person(2, image_id=8)))
    found = [detection(image_id=77), detection(score=2), detection(bbox=[0, 0, 0, 1]), detection(category_id=6)]
    (tmp_path / "found.json").write_text(json.dumps(found))
    with pytest.raises(DatasetError) as caught:
        CocoKeypoints(**arguments, boxes="found.json")
    told = str(caught.value)
    assert "with the boxes of 'found.json' has 5 mistakes" in told
    assert "1 annotations of images that are not listed or missing" in told
    assert "1 detections of images that are not listed or missing: detection number 0 of 77" in told
    assert "1 detections whose score is no number from 0 to 1: detection number 1: 2" in told
    assert "1 detections with an unknown category id: detection number 3 with category_id 6" in told
    (tmp_path / "found.json").write_text("{}")
    with pytest.raises(DatasetError, match="no list of detections"):
        CocoKeypoints(**arguments, boxes="found.json")
    with pytest.raises(DatasetError, match=r"boxes: looked for the file .*absent.json"):
        CocoKeypoints.check_available(tmp_path, "points.json", "images", boxes="absent.json")


@pytest.mark.parametrize("size", [(64, 60), (0, 64), (64,), (64, 8192), (64.0, 64)])
def test_sizes_of_crops_are_multiples_of_32(size: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="multiples of 32"):
        CocoKeypoints(**{**write_set(tmp_path), "size": size})


@pytest.mark.parametrize(
    "augment, message",
    [
        ({"flips": 1}, "flips"),
        ({"flip": 2}, "flip is a probability"),
        ({"scale": 1.5}, "scale must be from 0"),
        (3, "augment"),
    ],
)
def test_unknown_and_impossible_changes_are_refused(augment: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        CocoKeypoints(**write_set(tmp_path), augment=augment)


@pytest.mark.parametrize("seed", range(6))
def test_changed_regions_show_the_same_content_at_the_changed_points(seed: int) -> None:
    """A smooth picture whose colours are its coordinates: crops show at the moved points the points' colours."""
    torch.manual_seed(seed)
    y, x = np.mgrid[:36, :40]
    image = Image.fromarray(np.stack([5 * x, 5 * y, x + y], -1).astype(np.uint8))
    points = np.array([[20.0, 18.0, 2], [24, 16, 2], [17, 21, 1]])
    region = Region(*Crop((64, 64)).region((12, 10, 28, 26)))
    changed, moved = Augmentation(half_body=0.0, shift=0.1)(region, points, 40, SKELETON, (64, 64))
    crop = shown(cut(image, changed.matrix((64, 64), 40), (64, 64)))
    plain = Region(changed.centre, changed.scale, changed.rotation).matrix((64, 64), 40)
    order = [0, 2, 1] if changed.mirrored else [0, 1, 2]
    for (a, b), (true_x, true_y, _) in zip(affine.transform(moved[:, :2], plain), points[order], strict=True):
        assert 0 <= min(a, b) <= max(a, b) < 63, "chosen so that they stay inside"
        assert crop[round(b), round(a), :2] == pytest.approx([5 * true_x, 5 * true_y], abs=5)


def test_mirroring_twice_changes_nothing_and_never_changing_gives_the_region_itself() -> None:
    points = np.array([[3.0, 4.0, 2], [5, 6, 1], [7, 8, 0]])
    region = Region(np.array([20.0, 18.0]), np.array([30.0, 40.0]))
    once, swapped = mirrored(region, points, 40, SKELETON)
    assert swapped[1].tolist() == [32, 8, 0]
    assert once.centre.tolist() == [19, 18]
    twice, again = mirrored(once, swapped, 40, SKELETON)
    assert (again == points).all()
    assert twice.centre.tolist() == [20, 18]
    assert not twice.mirrored
    same, unmoved = Augmentation(**NEVER)(region, points, 40, SKELETON, (64, 64))
    assert (unmoved == points).all()
    assert (same.matrix((64, 64), 40) == region.matrix((64, 64), 40)).all()


def test_half_of_a_body_is_shown_only_of_people_with_nine_points() -> None:
    names = (*(f"upper{n}" for n in range(6)), "left_knee", "right_knee", "left_ankle", "right_ankle")
    skeleton = Skeleton(names, ((6, 7), (8, 9)), (), (0.1,) * 10)
    rows = np.arange(10.0)
    points = np.stack([10 + rows % 2, 4 * rows, np.full(10, 2.0)], 1)
    region = Region(np.array([10.0, 18.0]), np.array([60.0, 60.0]))
    always = Augmentation(**{**NEVER, "half_body": 1.0})
    torch.manual_seed(0)
    centres = {round(float(always(region, points, 40, skeleton, (64, 64))[0].centre[1]), 3) for _ in range(20)}
    assert centres == {10.0, 30.0}, "the mean of the six upper points, and of the four lower ones"
    few = points.copy()
    few[:2, 2] = 0
    assert always(region, few, 40, skeleton, (64, 64))[0].centre[1] == 18


def test_draws_are_normal_within_one_standard_deviation() -> None:
    torch.manual_seed(0)
    drawn = _draws(4000)
    assert np.abs(drawn).max() <= 1
    assert drawn.std() == pytest.approx(0.5397, abs=0.015)  # of a normal distribution cut at ±1
    assert np.mean(np.abs(drawn) < 0.5) == pytest.approx(0.3829 / 0.6827, abs=0.03)


def test_all_points_invisible_give_no_weight() -> None:
    _, weights = codec.encode(np.zeros((3, 2)), np.zeros(3), (64, 64), 1.0)
    assert weights.tolist() == [0, 0, 0]
