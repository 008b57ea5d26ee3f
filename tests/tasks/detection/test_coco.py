"""COCO-format sets of one's own: read as they are, or refused with all their mistakes at once."""

from __future__ import annotations

import contextlib
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

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import read_image
from visionssm.data.masks import decode_mask, uncompressed_rle
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


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def turned(folder: Path, orientation: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    """The set, with an image that viewers turn; its left half is white where the file has it."""
    write(folder)
    image = Image.new("RGB", size)
    image.paste("white", (0, 0, size[0] // 2, size[1]))
    image.save(folder / "images" / "a.png", exif=exif(orientation))
    return folder


def resized(folder: Path, width: int, height: int) -> Path:
    """Another size of the turned image in the annotations."""
    content = copy.deepcopy(CONTENT)
    content["images"][0] |= {"width": width, "height": height}
    (folder / "objects.json").write_text(json.dumps(content))
    return folder


def test_orientation_of_annotations_is_told_by_the_size(tmp_path: Path) -> None:
    stored = read(turned(tmp_path, 6))[0]["inputs"]
    assert stored.shape == (3, HEIGHT, WIDTH)
    assert stored[0, :, :10].mean() == 1
    upright = read(resized(tmp_path, HEIGHT, WIDTH))[0]["inputs"]
    assert upright.shape == (3, WIDTH, HEIGHT)
    assert upright[0, :10].mean() == 1, "turned clockwise: left is above"
    with pytest.raises(DatasetError, match=r"another size than the file says: 'a.png' \(30×20, annotated as 20×30\)"):
        read(tmp_path, orientation="stored")


@pytest.mark.parametrize("orientation, size", [(3, (WIDTH, HEIGHT)), (2, (WIDTH, HEIGHT)), (6, (25, 25))])
def test_images_whose_annotations_fit_both_ways_are_refused_until_the_user_says_which(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    resized(turned(tmp_path, orientation, size), *size)
    with pytest.raises(
        DatasetError, match=r"fit both ways \(say which with orientation='upright' or 'stored'\): 'a.png'"
    ):
        read(tmp_path)
    assert len(read(tmp_path, wrong="skip")) == 2
    for choice in ("upright", "stored"):
        expected = np.asarray(read_image(tmp_path / "images" / "a.png", upright=choice == "upright"))
        inputs = read(tmp_path, orientation=choice)[0]["inputs"]
        np.testing.assert_array_equal((inputs * 255).round().byte().permute(1, 2, 0), expected)
    with pytest.raises(DatasetError, match="orientation must be None, 'upright' or 'stored', got 'left'"):
        read(tmp_path, orientation="left")


def damage(path: Path) -> None:
    """Cut a file off."""
    path.write_bytes(path.read_bytes()[:50])


def test_damaged_and_mis_sized_images_are_told_before_the_first_step_or_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "empty.png")
    damage(tmp_path / "images" / "empty.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "images" / "below" / "b.png")
    with pytest.raises(DatasetError) as caught:
        read(tmp_path)
    assert "1 image files that cannot be read: 'empty.png' (it cannot be decoded" in str(caught.value)
    assert "1 images of another size than the file says: 'below/b.png' (3×3, annotated as 30×20)" in str(caught.value)
    data = read(tmp_path, wrong="skip")
    assert [data.sample_name(index) for index in range(len(data))] == ["a.png"]
    assert data.skipped == 4, "both images, and the two objects of one"


def damaged_later(folder: Path, **options: Any) -> CocoInstances:
    """A set that was whole when it was opened."""
    data = read(write(folder), wrong="skip", **options)
    damage(folder / "images" / "a.png")
    return data


def test_images_damaged_later_are_replaced_in_training_and_left_out_of_evaluation(tmp_path: Path) -> None:
    data = damaged_later(tmp_path)
    sample = data[0]
    assert (sample["index"], sample["skipped"]) == (1, 1)
    assert len(sample["targets"]["boxes"]) == 2
    data.for_evaluation()
    place = [data.sample_name(index) for index in range(3)].index("a.png")
    left_out = data[place]
    assert (left_out["index"], left_out["skipped"]) == (-1, 1)
    assert left_out["inputs"].shape == (3, HEIGHT, WIDTH)
    assert left_out["targets"]["boxes"].shape == (0, 4)
    assert set(left_out["targets"]) == {"boxes", "labels", "masks", "crowd"}


def test_a_lost_storage_stops_training(tmp_path: Path) -> None:
    data = damaged_later(tmp_path)
    for path in (tmp_path / "images").rglob("*.png"):
        path.unlink()
    with pytest.raises(CorruptImageError, match=r"20 images in a row cannot be read.*a\.png"):
        data[0]


def test_names_may_lead_through_links_and_be_absolute_but_not_out_of_the_set(tmp_path: Path) -> None:
    write(tmp_path)
    elsewhere = tmp_path.with_name(f"{tmp_path.name}_elsewhere")
    (tmp_path / "images" / "below").rename(elsewhere)
    (tmp_path / "images" / "below").symlink_to(elsewhere)
    content = copy.deepcopy(CONTENT)
    content["images"][0]["file_name"] = str(tmp_path / "images" / "a.png")
    content["images"][2]["file_name"] = "../images/below/../empty.png"
    (tmp_path / "objects.json").write_text(json.dumps(content))
    data = read(tmp_path)
    names = [data.sample_name(index) for index in range(3)]
    assert names == ["a.png", "below/b.png", "empty.png"], "pictures of them stay in their folder"
    content["images"][0]["file_name"] = str(elsewhere / "b.png")
    content["images"][2]["file_name"] = f"../../{elsewhere.name}/b.png"
    (tmp_path / "objects.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"2 image files outside of .*\(set root to a folder that holds them\)"):
        read(tmp_path)
    whole = CocoInstances(
        tmp_path.parent, annotations=f"{tmp_path.name}/objects.json", images=f"{tmp_path.name}/images"
    )
    assert [whole.sample_name(index) for index in range(3)] == [
        f"{elsewhere.name}/b.png",
        "below/b.png",
        f"{elsewhere.name}/b.png",
    ]


def test_objects_without_a_mask_among_others_are_named_where_masks_are_wanted(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    del content["annotations"][1]["segmentation"]
    data = read(write(tmp_path, content))
    assert (data.has_masks, data.object_count, data.without_mask) == (False, 3, ["annotation 2 in 'below/b.png'"])
    with pytest.raises(DatasetError, match=r"1 objects without a mask: annotation 2 in 'below/b.png'"):
        read(tmp_path, masks=True)
    data = read(tmp_path, masks=True, wrong="skip")
    assert data.has_masks
    assert data[1]["targets"]["masks"].shape == (1, HEIGHT, WIDTH)
    assert "masks" not in read(write(tmp_path), masks=False)[0]["targets"]


def test_crowds_stay_with_their_boxes_when_transforms_leave_some_out(tmp_path: Path) -> None:
    crowd = {"id": 4, "image_id": 7, "category_id": 18, "bbox": [20, 0, 10, 9], "iscrowd": 1}
    crowd["segmentation"] = uncompressed_rle(np.ones((HEIGHT, WIDTH), bool))
    write(tmp_path, changed(annotations=[crowd]))
    steps = [{"type": "CenterCrop", "size": [HEIGHT, 6]}, {"type": "SanitizeBoundingBoxes"}]
    assert read(tmp_path, with_crowds=True)[0]["targets"]["crowd"].tolist() == [False, True]
    targets = read(tmp_path, with_crowds=True, transforms=steps)[0]["targets"]
    assert targets["crowd"].tolist() == [False]
    assert targets["labels"].tolist() == [2]
    assert len(targets["masks"]) == 1


def test_classes_are_names_not_the_letters_of_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"got the string 'dog'; write classes=\['dog'\]"):
        read(write(tmp_path), classes="dog")


@pytest.mark.parametrize("wrong", [None, 3, [], {}, "x", True, 1.5, [1], 10**30, -1, float("inf")])
@pytest.mark.parametrize(
    "place", [(part, key) for part, entries in CONTENT.items() for key in entries[0]] + [(x, None) for x in CONTENT]
)
def test_values_of_other_types_are_mistakes_not_crashes(tmp_path: Path, place: tuple[str, Any], wrong: Any) -> None:
    content = copy.deepcopy(CONTENT)
    part, key = place
    if key is None:
        content[part][0] = wrong
    else:
        content[part][0][key] = wrong
    write(tmp_path, content)
    with contextlib.suppress(DatasetError):
        read(tmp_path)
    if part == "categories":  # without them nothing can be read
        with contextlib.suppress(DatasetError):
            read(tmp_path, wrong="skip")
        return
    data = read(tmp_path, wrong="skip")
    assert [data[index]["index"] for index in range(len(data))] == list(range(len(data)))
