"""Image folders through timm: errors before anything is opened, damaged images, labels."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.dataset import IterableImageDataset

from visionssm.data.errors import CorruptImageError, DatasetError
from visionssm.data.images import read_image
from visionssm.tasks.classification.data import ClassificationStream, check_timm_dataset, timm_dataset

TRANSFORM = {"input_size": (3, 16, 16), "interpolation": "bicubic"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images in both splits; the first class is dark, the second bright."""
    for split in ("train", "val"):
        for value, name in ((0, "black"), (255, "white")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                noise = np.random.default_rng(number).integers(0, 60, (20, 24, 3))
                Image.fromarray(np.abs(value - noise).astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_samples_carry_the_labels_of_their_folders(root: Path) -> None:
    dataset = timm_dataset(str(root), "val", transform=TRANSFORM)
    assert dataset.metainfo["classes"] == ["black", "white"]
    assert dataset.metainfo["input"]["size"] == (3, 16, 16)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["inputs"].shape == (3, 16, 16)
        assert sample["index"] == index
        assert sample["skipped"] == 0
        assert (sample["inputs"].mean() > 0) == (sample["labels"] == 1)
        assert dataset.sample_name(index).startswith(dataset.metainfo["classes"][sample["labels"]])


def test_missing_folder_says_where_was_looked_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere.*--cfg-options"):
        check_timm_dataset(root=str(tmp_path / "nowhere"), split="train")


def test_missing_split_is_not_replaced_by_the_root(root: Path) -> None:
    with pytest.raises(DatasetError, match="split 'test' not found"):
        check_timm_dataset(root=str(root), split="test")


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_synonyms_of_the_split_are_found(root: Path, name: str) -> None:
    (root / "val").rename(root / name)
    assert len(timm_dataset(str(root), "val", transform=TRANSFORM)) == 6


def test_empty_class_folder_is_named(root: Path) -> None:
    (root / "train" / "grey").mkdir()
    with pytest.raises(DatasetError, match=r"1 of 3 class folders .* grey"):
        check_timm_dataset(root=str(root), split="train")


def test_split_without_class_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DatasetError, match="no class folders"):
        check_timm_dataset(root=str(tmp_path), split="train")


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_corrupt_training_image_is_replaced_and_counted(root: Path, damage: str) -> None:
    broken = root / "train" / "black" / "1.png"
    content = {"truncated": broken.read_bytes()[:300], "empty": b"", "text": b"not an image"}[damage]
    broken.write_bytes(content)
    dataset = timm_dataset(str(root), "train", transform=TRANSFORM)
    sample = dataset[1]
    assert sample["skipped"] == 1
    assert sample["index"] == 2
    assert sample["inputs"].shape == (3, 16, 16)


def test_corrupt_validation_image_is_left_out_of_the_labels(root: Path) -> None:
    (root / "val" / "white" / "0.png").write_bytes(b"")
    sample = timm_dataset(str(root), "val", transform=TRANSFORM)[3]
    assert sample["labels"] == -1
    assert sample["skipped"] == 1
    assert torch.equal(sample["inputs"], torch.zeros(3, 16, 16))


def test_corrupt_image_stops_by_option_and_is_named(root: Path) -> None:
    (root / "train" / "black" / "1.png").write_bytes(b"")
    with pytest.raises(CorruptImageError, match=r"black/1\.png"):
        timm_dataset(str(root), "train", transform=TRANSFORM, corrupt="raise")[1]


def test_unreadable_storage_does_not_look_like_an_endless_row_of_corrupt_images(root: Path) -> None:
    dataset = timm_dataset(str(root), "train", transform=TRANSFORM)
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(CorruptImageError, match="in a row"):
        dataset[0]


def test_unknown_transform_key_names_the_closest() -> None:
    with pytest.raises(DatasetError, match=r"colour_jitter.*'color_jitter'"):
        check_timm_dataset(root=".", split="train", transform={"colour_jitter": 0.4})


def test_missing_package_of_a_source_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install datasets"):
        check_timm_dataset(root=None, split="train", name="hfds/cifar10")


def test_grayscale_input_size_gives_one_channel(root: Path) -> None:
    transform = {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.5,)}
    assert timm_dataset(str(root), "val", transform=transform)[0]["inputs"].shape == (1, 16, 16)


class Reader:
    """Stands for a reader of shards: a new order every epoch, shuffling state that lives as long as `ds`."""

    ds = None
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 6

    def __iter__(self):
        if self.ds is None:
            self.ds = np.random.default_rng(0)
        for number in self.ds.permutation(6):
            yield Image.new("RGB", (8, 8), (40 * int(number), 0, 0)), int(number) + 10 * self.epoch


def test_stream_depends_on_the_epoch_and_not_on_the_passes_before() -> None:
    def draw(image: Image.Image) -> torch.Tensor:
        return torch.rand(2)  # an augmentation

    def labels_and_draws(stream: ClassificationStream, epoch: int) -> list[list[float]]:
        stream.set_epoch(epoch)
        return [[sample["labels"], *sample["inputs"].tolist()] for sample in stream]

    def make() -> ClassificationStream:
        return ClassificationStream(IterableImageDataset("", reader=Reader()), draw, {}, seed=1)

    stream = make()
    first, second = labels_and_draws(stream, 0), labels_and_draws(stream, 1)
    assert labels_and_draws(make(), 1) == second
    assert [row[1:] for row in first] != [row[1:] for row in second]
    assert len({tuple(row[1:]) for row in first}) == 6


def test_classes_are_names_not_the_letters_of_one(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"got the string 'black'; write classes=\['black'\]"):
        timm_dataset(str(root), "val", classes="black")


def test_images_of_every_format_are_found(root: Path) -> None:
    Image.new("RGB", (8, 8)).save(root / "val" / "black" / "a.webp")
    Image.new("RGB", (8, 8)).save(root / "val" / "black" / "b.TIFF")
    assert len(timm_dataset(str(root), "val", transform=TRANSFORM)) == 8


def test_linked_folders_are_classes_and_loops_are_told(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path.with_name(f"{tmp_path.name}_elsewhere")
    (root / "val" / "white").rename(elsewhere)
    (root / "val" / "white").symlink_to(elsewhere)
    dataset = timm_dataset(str(root), "val", transform=TRANSFORM)
    assert (len(dataset), dataset.metainfo["classes"]) == (6, ["black", "white"])
    (root / "val" / "black" / "again").symlink_to(root / "val")
    with pytest.raises(DatasetError, match=r"black/again' is a link to a folder above it"):
        check_timm_dataset(root=str(root), split="val")


@pytest.mark.parametrize("place", [".ipynb_checkpoints", "black/.ipynb_checkpoints"])
def test_hidden_folders_do_not_become_a_class(root: Path, place: str) -> None:
    (root / "val" / place).mkdir()
    assert len(timm_dataset(str(root), "val", transform=TRANSFORM)) == 6
    Image.new("RGB", (8, 8)).save(root / "val" / place / "0-checkpoint.png")
    with pytest.raises(
        DatasetError, match=r"ipynb_checkpoints' is hidden and holds images, which would become a class"
    ):
        check_timm_dataset(root=str(root), split="val")


def test_folders_that_cannot_be_listed_are_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "val" / "black" / "below").mkdir()
    monkeypatch.setattr("os.scandir", refusing(root / "val" / "black" / "below"))
    with pytest.raises(DatasetError, match=r"below' cannot be listed \(Permission denied\)"):
        timm_dataset(str(root), "val", transform=TRANSFORM)


def refusing(folder: Path) -> Any:
    """`os.scandir` for somebody who may not list a folder (tests may run as one who may everything)."""
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:
        if os.fspath(path) == str(folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    return refuse


def test_streams_are_asked_for_images_as_they_are_stored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8)
    path = root / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)

    def opened(name: str, **options: Any) -> Any:
        asked.update(options)
        return IterableImageDataset(None, reader=[(Image.open(path), 0)])

    monkeypatch.setattr("visionssm.tasks.classification.data.create_dataset", opened)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    stream = timm_dataset(str(root), "val", name="wds/x", transform=TRANSFORM)
    stream.transform = np.asarray
    assert asked["input_img_mode"] == ""
    np.testing.assert_array_equal(next(iter(stream))["inputs"], read_image(path))
