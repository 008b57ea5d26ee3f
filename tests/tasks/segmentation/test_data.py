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
