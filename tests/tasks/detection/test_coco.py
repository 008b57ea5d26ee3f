"""COCO-format sets of one's own: read as they are, or refused with all their mistakes at once."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coder

from visionssm.data.coco import decode_mask, uncompressed_rle
from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.seeding import isolated_randomness
from visionssm.tasks.detection.data import CocoInstances

HEIGHT, WIDTH = 20, 30
SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        {"id": 3, "file_name": "below/b.png", "height": HEIGHT, "width": WIDTH},
        {"id": 9, "file_name": "empty.png", "height": HEIGHT, "width": WIDTH},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 44, "bbox": [5, 5, 10, 10], "segmentation": SQUARE, "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 18, "bbox": [5, 5, 10, 10], "segmentation": SQUARE},
        {"id": 3, "image_id": 3, "category_id": 44, "bbox": [-4, 2, 8, 4], "segmentation": [[0, 2, 4, 2, 4, 6, 0, 6]]},
    ],
}


def write(folder: Path, content: Any = CONTENT) -> Path:
    (folder / "images" / "below").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(("a.png", "below/b.png", "empty.png")):
        Image.new("RGB", (WIDTH, HEIGHT), (60 * number, 0, 255)).save(folder / "images" / name)
    (folder / "objects.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def read(folder: Path, **options: Any) -> CocoInstances:
    return CocoInstances(folder, annotations="objects.json", images="images", **options)


def changed(**lists: list[Any]) -> dict[str, Any]:
    """The correct content with entries added to its lists."""
    content = copy.deepcopy(CONTENT)
    for name, entries in lists.items():
        content[name] += entries
    return content


def test_samples_are_what_torchvisions_detectors_take(tmp_path: Path) -> None:
    data = read(write(tmp_path))
    assert len(data) == 3
    assert data.metainfo == {"classes": ["dog", "bottle"]}
    assert data.sample_name(1) == "below/b.png"
    sample = data[1]
    assert sample["inputs"].shape == (3, HEIGHT, WIDTH)
    assert sample["inputs"][:, 0, 0].tolist() == pytest.approx([60 / 255, 0, 1])
    targets = sample["targets"]
    assert targets["boxes"].tolist() == [[5, 5, 15, 15], [0, 2, 4, 6]], "clipped to the image"
    assert targets["labels"].tolist() == [1, 2]
    assert targets["masks"].shape == (2, HEIGHT, WIDTH)
    assert targets["masks"][0, 5:15, 5:15].all()
    assert int(targets["masks"][0].sum()) == 100
    empty = data[2]["targets"]
    assert empty["boxes"].shape == (0, 4)
    assert empty["masks"].shape == (0, HEIGHT, WIDTH)


def test_chosen_classes_are_numbered_in_their_order_and_the_others_left_out(tmp_path: Path) -> None:
    data = read(write(tmp_path), classes=["bottle"])
    assert data.metainfo == {"classes": ["bottle"]}
    assert [data[i]["targets"]["labels"].tolist() for i in range(3)] == [[1], [1], []]
    with pytest.raises(DatasetError, match=r"'botle' is no category .*'bottle'"):
        read(tmp_path, classes=["botle"])


WRONG = changed(
    images=[{"id": 4, "file_name": "gone.png", "height": 5, "width": 5}, {"id": 5, "file_name": "a.png"}],
    annotations=[
        {"id": 10, "image_id": 7, "category_id": 99, "bbox": [1, 1, 2, 2]},
        {"id": 11, "image_id": 7, "category_id": 98, "bbox": [1, 1, 2, 2]},
        {"id": 12, "image_id": 7, "category_id": 18, "bbox": [1, 1, 0, 2]},
        {"id": 13, "image_id": 7, "category_id": 18, "bbox": [WIDTH, 1, 5, 5]},
        {"id": 14, "image_id": 7, "category_id": 18, "bbox": [1, 1]},
        {"id": 15, "image_id": 7, "category_id": 18},
        {"id": 16, "image_id": 4, "category_id": 18, "bbox": [1, 1, 2, 2]},
        {"id": 17, "image_id": 7, "category_id": 18, "bbox": [1, 1, 2, 2], "segmentation": [[1, 2, 3]]},
        {"id": 18, "image_id": 7, "category_id": 18, "bbox": [1, 1, 2, 2], "segmentation": {"size": [2, 2]}},
    ],
)


def test_all_mistakes_are_told_at_once_with_counts(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read(write(tmp_path, WRONG))
    text = str(caught.value)
    for line in (
        "has 11 mistakes",
        "1 image files that are not in",
        "'gone.png'",
        "1 images without id, file_name, height or width",
        "2 annotations with an unknown category id: annotation 10 with category_id 99",
        "4 boxes without area inside their image: annotation 12 with bbox [1, 1, 0, 2] in 'a.png'",
        "1 annotations of images that are not listed or missing: annotation 16",
        "2 masks that cannot be decoded: annotation 17, annotation 18",
        "wrong='skip'",
    ):
        assert line in text, line


def test_mistakes_are_skipped_on_request_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = read(write(tmp_path, WRONG), wrong="skip")
    assert data.skipped == 11
    assert "11 mistakes are left out" in caplog.text
    right = read(write(tmp_path / "right"))
    assert len(data) == len(right)
    for index in range(3):
        assert torch.equal(data[index]["targets"]["boxes"], right[index]["targets"]["boxes"])


def test_images_without_objects_are_background_or_a_mistake(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(DatasetError, match=r"1 images without objects: 'empty.png'"):
        read(tmp_path, background_images=False)
    assert len(read(tmp_path, background_images=False, wrong="skip")) == 2


def test_crowds_are_returned_only_for_evaluation(tmp_path: Path) -> None:
    crowd = {"id": 4, "image_id": 7, "category_id": 18, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    crowd["segmentation"] = uncompressed_rle(np.ones((HEIGHT, WIDTH), bool))
    write(tmp_path, changed(annotations=[crowd]))
    assert len(read(tmp_path)[0]["targets"]["boxes"]) == 1
    targets = read(tmp_path, with_crowds=True)[0]["targets"]
    assert targets["crowd"].tolist() == [False, True]


def test_sets_without_masks_give_boxes_alone(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    del content["annotations"][0]["segmentation"]
    data = read(write(tmp_path, content))
    assert all(set(data[index]["targets"]) == {"boxes", "labels"} for index in range(3))


def test_compressed_and_plain_run_lengths_and_polygons_are_the_same_mask() -> None:
    polygons = decode_mask(SQUARE, HEIGHT, WIDTH)
    plain = uncompressed_rle(polygons)
    packed = coder.encode(np.asfortranarray(polygons.astype(np.uint8)))
    for form in (plain, packed, {**packed, "counts": packed["counts"].decode()}):
        assert np.array_equal(decode_mask(form, HEIGHT, WIDTH), polygons)
    with pytest.raises(ValueError, match="30×20"):
        decode_mask(packed, 5, 5)


def test_flips_move_boxes_and_masks_together(tmp_path: Path) -> None:
    data = read(write(tmp_path), transforms=[{"type": "RandomHorizontalFlip", "p": 1.0}])
    targets = data[1]["targets"]
    assert targets["boxes"].tolist() == [[15, 5, 25, 15], [26, 2, 30, 6]]
    assert targets["masks"][1, 2:6, 26:30].all()
    assert type(targets["boxes"]) is torch.Tensor
    sometimes = read(tmp_path, transforms=[{"type": "RandomHorizontalFlip"}])
    seen = set()
    for seed in range(8):
        with isolated_randomness(seed):
            seen.add(sometimes[0]["targets"]["boxes"][0, 0].item())
    assert seen == {5.0, 15.0}


@pytest.mark.parametrize(
    "transforms, message",
    [
        ([{"type": "RandomHorizontalFlop"}], r"'RandomHorizontalFlop' is no transform.*'RandomHorizontalFlip'"),
        ([{"type": "RandomHorizontalFlip", "q": 1}], "RandomHorizontalFlip does not take these arguments"),
    ],
)
def test_unknown_transforms_are_named(tmp_path: Path, transforms: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(write(tmp_path), transforms=transforms)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{not json", "no JSON file"),
        ({"images": []}, "has no list 'annotations' nor 'categories'"),
        ([1], "has no list"),
        ({"images": [], "annotations": [], "categories": []}, "names no usable image"),
        (changed(categories=[{"id": 18, "name": "cat"}]), "categories of the same name or id"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read(write(tmp_path, content))


def test_missing_files_say_where_was_looked(tmp_path: Path) -> None:
    for objects, images, message in (
        ("none.json", "images", r"looked for the file .*none\.json"),
        ("objects.json", "none", r"looked for the folder .*none"),
    ):
        with pytest.raises(DatasetError, match=message):
            CocoInstances.check_available(write(tmp_path), annotations=objects, images=images)


def test_damaged_and_resized_images_are_named_when_read(tmp_path: Path) -> None:
    data = read(write(tmp_path))
    (tmp_path / "images" / "a.png").write_bytes(b"nothing")
    with pytest.raises(CorruptImageError, match=r"a\.png.*annotations"):
        data[0]
    Image.new("RGB", (3, 3)).save(tmp_path / "images" / "a.png")
    with pytest.raises(CorruptImageError, match=r"is 3×3, its annotations are for 30×20"):
        data[0]
