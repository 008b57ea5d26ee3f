"""Images with label images: read as they are, or refused with all their mistakes at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import read_image
from visionssm.tasks.segmentation.data import IGNORED, LabelledImages

CLASSES = ["ground", "tree", "house"]


def numbers(height: int = 6, width: int = 8) -> np.ndarray:
    return (np.arange(height * width).reshape(height, width) % 3).astype(np.uint8)


def write(folder: Path, names: tuple[str, ...] = ("a.jpg", "below/b.png")) -> Path:
    for name in names:
        image, label = folder / "images" / name, (folder / "labels" / name).with_suffix(".png")
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(image)
        Image.fromarray(numbers()).save(label)
    return folder


def read(folder: Path, **options: Any) -> LabelledImages:
    return LabelledImages(folder, images="images", labels="labels", **{"classes": CLASSES, **options})


def test_samples_are_images_in_0_to_1_and_class_numbers(tmp_path: Path) -> None:
    data = read(write(tmp_path))
    assert len(data) == 2
    assert data.metainfo == {"classes": CLASSES}
    assert data.sample_name(1) == "below/b.png"
    sample = data[1]
    assert sample["inputs"].shape == (3, 6, 8)
    assert sample["inputs"][:, 0, 0].tolist() == [1, 0, 0]
    assert sample["labels"].dtype == torch.int64
    assert np.array_equal(sample["labels"], numbers())


def test_palette_images_give_their_indices_and_255_is_ignored(tmp_path: Path) -> None:
    write(tmp_path)
    values = numbers()
    values[0] = IGNORED
    image = Image.fromarray(values, mode="P")
    image.putpalette([200, 10, 10] * 256)
    image.save(tmp_path / "labels" / "a.png")
    assert np.array_equal(read(tmp_path)[0]["labels"], values)


def test_all_mistakes_are_told_at_once_or_skipped_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, ("a.jpg", "below/b.png", "lone.png", "lone2.png", "wide.png", "colours.png", "many.png", "bad.png"))
    labels = tmp_path / "labels"
    (labels / "lone.png").unlink()
    (labels / "lone2.png").unlink()
    Image.fromarray(numbers(6, 9)).save(labels / "wide.png")
    Image.new("RGB", (8, 6)).save(labels / "colours.png")
    Image.fromarray(numbers() + 2).save(labels / "many.png")
    (labels / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError) as caught:
        read(tmp_path)
    text = str(caught.value)
    for line in (
        "has 6 mistakes",
        "2 images without label image",
        "'lone.png', 'lone2.png'",
        "1 label images of another size than their image: 'wide.png' (8×6 and 9×6)",
        "1 label images with colours instead of class numbers: 'colours.png' (mode RGB)",
        "1 label images with numbers that no class has: 'many.png' (3, 4)",
        "1 files that cannot be read: 'bad.png'",
        "wrong='skip'",
    ):
        assert line in text, line
    with caplog.at_level(logging.WARNING):
        data = read(tmp_path, wrong="skip")
    assert (len(data), data.skipped) == (2, 6)
    assert "6 mistakes are left out" in caplog.text


def test_numbers_not_looked_at_beforehand_are_refused_when_read(tmp_path: Path) -> None:
    write(tmp_path)
    Image.fromarray(numbers() + 2).save(tmp_path / "labels" / "below" / "b.png")
    data = read(tmp_path, inspect=1)
    assert data[0]["labels"].max() == 2
    with pytest.raises(CorruptImageError, match=r"b\.png.*numbers that no class has: 3, 4"):
        data[1]


def test_transforms_move_image_and_labels_together_and_keep_numbers_whole(tmp_path: Path) -> None:
    steps = [{"type": "RandomHorizontalFlip", "p": 1.0}, {"type": "Resize", "size": (12, 16)}]
    sample = read(write(tmp_path), transforms=steps)[0]
    assert sample["inputs"].shape == (3, 12, 16)
    assert np.array_equal(sample["labels"], numbers()[:, ::-1].repeat(2, 0).repeat(2, 1))
    assert type(sample["labels"]) is torch.Tensor


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": []}, "classes must be"),
        ({"classes": ["x", "x"]}, "different names"),
        ({"wrong": "ignore"}, "wrong must be 'raise' or 'skip'"),
        ({"suffix": "_gt.png"}, "2 images without label image"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path), **options)


def test_missing_and_empty_folders_say_where_was_looked(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"looked for the folder .*images"):
        LabelledImages.check_available(tmp_path, images="images", labels="labels")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match="holds no usable image"):
        read(tmp_path)


def turned(folder: Path, orientation: int, size: tuple[int, int] = (8, 6)) -> Path:
    """The set, with an image that viewers turn."""
    write(folder)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "below" / "b.png", exif=exif)
    return folder


def test_orientation_of_label_images_is_told_by_their_size(tmp_path: Path) -> None:
    turned(tmp_path, 6)
    path = tmp_path / "images" / "below" / "b.png"
    for labels, upright in ((numbers(6, 8), False), (numbers(8, 6), True)):
        Image.fromarray(labels).save(tmp_path / "labels" / "below" / "b.png")
        sample = read(tmp_path)[1]
        expected = np.asarray(read_image(path, upright=upright))
        np.testing.assert_array_equal((sample["inputs"] * 255).round().byte().permute(1, 2, 0), expected)
        np.testing.assert_array_equal(sample["labels"], labels)
    with pytest.raises(DatasetError, match=r"another size than their image: 'below/b.png' \(8×6 and 6×8\)"):
        read(tmp_path, orientation="stored")


@pytest.mark.parametrize("orientation, size", [(3, (8, 6)), (6, (7, 7))])
def test_label_images_that_fit_both_ways_are_refused_until_the_user_says_which(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    turned(tmp_path, orientation, size)
    Image.fromarray(numbers(size[1], size[0])).save(tmp_path / "labels" / "below" / "b.png")
    with pytest.raises(DatasetError, match=r"fit both ways \(say which with orientation=.*: 'below/b.png'"):
        read(tmp_path)
    upright, stored = (read(tmp_path, orientation=x)[1]["inputs"] for x in ("upright", "stored"))
    assert not torch.equal(upright, stored)
    path = tmp_path / "images" / "below" / "b.png"
    np.testing.assert_array_equal((stored * 255).round().byte().permute(1, 2, 0), read_image(path, upright=False))


def test_label_images_that_viewers_turn_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(numbers()).save(tmp_path / "labels" / "a.png", exif=exif)
    with pytest.raises(DatasetError, match=r"1 label images that viewers turn .*: 'a.jpg'"):
        read(tmp_path)


def test_cut_off_images_are_told_before_the_first_step_or_left_out(tmp_path: Path) -> None:
    write(tmp_path, ("a.jpg", "b.png", "c.png"))
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for name in ("a.jpg", "b.png"):
        path = tmp_path / "images" / name
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DatasetError, match=r"2 files that cannot be read: 'a.jpg' \(it cannot be decoded.*'b.png'"):
        read(tmp_path)
    data = read(tmp_path, wrong="skip")
    assert [data.sample_name(index) for index in range(len(data))] == ["c.png"]


def test_images_damaged_later_are_replaced_in_training_and_left_out_of_evaluation(tmp_path: Path) -> None:
    data = read(write(tmp_path), wrong="skip")
    (tmp_path / "labels" / "a.png").write_bytes(b"")
    sample = data[0]
    assert (sample["index"], sample["skipped"]) == (1, 1)
    data.for_evaluation()
    left_out = data[0]
    assert (left_out["index"], left_out["skipped"]) == (-1, 1)
    assert left_out["inputs"].shape == (3, 6, 8)
    assert left_out["labels"].unique().tolist() == [IGNORED]


def test_linked_folders_are_searched_and_loops_are_not_followed_for_ever(tmp_path: Path) -> None:
    write(tmp_path, ("a.png", "below/b.png", "below/c.png"))
    for kind in ("images", "labels"):
        (tmp_path / kind / "below").rename(tmp_path / f"{kind}_elsewhere")
        (tmp_path / kind / "below").symlink_to(tmp_path / f"{kind}_elsewhere")
        (tmp_path / f"{kind}_elsewhere" / "back").symlink_to(tmp_path / kind)
    data = read(tmp_path)
    assert [data.sample_name(index) for index in range(len(data))] == ["a.png", "below/b.png", "below/c.png"]


def test_images_of_every_format_are_found(tmp_path: Path) -> None:
    write(tmp_path, ("a.webp", "b.tif", "c.bmp", "d.PNG", "e.JPEG"))
    assert len(read(tmp_path)) == 5


def test_classes_are_names_not_the_letters_of_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"got the string 'water'; write classes=\['water'\]"):
        read(write(tmp_path), classes="water")
