"""Data sets of medical images: what they give, and every mistake in one message before the first step."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from visionssm.data.errors import CorruptImageError, DatasetError, UnreadableFileError
from visionssm.prediction import load_predictor  # noqa: F401  makes the tasks known
from visionssm.tasks.medical.datasets.masked_images import MaskedImages
from visionssm.tasks.medical.datasets.nifti_folder import NiftiFolder
from visionssm.tasks.medical.datasets.slice_volumes import SliceVolumes
from visionssm.tasks.medical.scan import read_scan, read_volume

NUMBERS = np.random.default_rng(0)


def write_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images of 20×24 pixels with masks of 0 and 255."""
    for name in "abc":
        write_png(tmp_path / f"images/{name}.jpg", NUMBERS.integers(0, 255, (20, 24, 3), dtype=np.uint8))
        mask = np.zeros((20, 24), np.uint8)
        mask[5:12, 6:18] = 255
        write_png(tmp_path / f"masks/{name}.png", mask)
    return tmp_path


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine), path)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Six cases of two channels and 10×12×4 voxels, classes 0, 1 and 5."""
    about = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "tumour": 5, "oedema": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    for n in range(6):
        for channel in range(2):
            noise = NUMBERS.normal(size=(10, 12, 4)).astype(np.float32)
            write_nifti(tmp_path / f"imagesTr/case{n}_{channel:04d}.nii.gz", noise)
        labels = np.zeros((10, 12, 4), np.uint8)
        labels[2:5, 3:9, 1:3], labels[6:8, 3:9, 2] = 1, 5
        write_nifti(tmp_path / f"labelsTr/case{n}.nii.gz", labels)
    return tmp_path


def write_h5(path: Path, image: np.ndarray, label: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label


@pytest.fixture
def synapse(tmp_path: Path) -> Path:
    """Three slices of 16×16 pixels and two volumes of five slices."""
    for folder in ("train_npz", "test_vol_h5", "lists"):
        (tmp_path / folder).mkdir()
    label = np.zeros((5, 16, 16), np.uint8)
    label[1:4, 3:9, 4:8] = 8
    for n in range(3):
        image = NUMBERS.random((16, 16), np.float32)
        np.savez(tmp_path / f"train_npz/case{n}.npz", image=image, label=label[2].astype(np.float32))
    for n in range(2):
        write_h5(tmp_path / f"test_vol_h5/case{n}.npy.h5", NUMBERS.random((5, 16, 16), np.float32), label)
    (tmp_path / "lists/train.txt").write_text("case0\ncase1\ncase2\n")
    (tmp_path / "lists/test_vol.txt").write_text("case0\ncase1\n")
    return tmp_path


def test_masks_of_0_and_255_are_two_classes_resized_for_training_and_as_they_are_for_evaluation(pictures: Path) -> None:
    data = MaskedImages(pictures, prepare=dict(size=(16, 16), intensity="minmax"))
    sample = data[1]
    assert sample["inputs"].shape == (3, 16, 16)
    assert 0 <= sample["inputs"].min() < 60 < 200 < sample["inputs"].max() <= 255  # resized after that
    assert sample["labels"].shape == (16, 16)
    data.for_evaluation()
    assert data[1]["labels"].shape == (20, 24)
    assert data[1]["labels"].sum() == 7 * 12
    assert data.sample_name(1) == "b.jpg"


def test_values_name_the_grey_level_of_every_class(pictures: Path) -> None:
    for name in "abc":
        write_png(pictures / f"masks/{name}.png", np.repeat(np.array([0, 85, 170], np.uint8), 160).reshape(20, 24))
    data = MaskedImages(pictures, classes=["nothing", "disc", "cup"], values=[0, 170, 85], channels=1)
    assert np.bincount(data.pair(0).labels.ravel()).tolist() == [160, 160, 160]
    assert data.pair(0).labels[-1, -1] == 1
    assert data[0]["inputs"].shape[0] == 1


def test_all_mistakes_of_masked_images_are_told_at_once_and_left_out_when_asked(pictures: Path) -> None:
    for name in "defgh":
        write_png(pictures / f"images/{name}.png", np.zeros((20, 24, 3), np.uint8))
    write_png(pictures / "masks/e.png", np.zeros((20, 23), np.uint8))
    write_png(pictures / "masks/f.png", np.full((20, 24), 7, np.uint8))
    write_png(pictures / "masks/g.png", np.zeros((20, 24, 3), np.uint8))
    (pictures / "masks/h.png").write_bytes((pictures / "masks/a.png").read_bytes()[:60])
    with pytest.raises(DatasetError) as error:
        MaskedImages(pictures)
    told = str(error.value)
    for part in (
        "has 5 mistakes",
        "1 images without mask",
        "'d.png'",
        "'e.png' (24×20 and 23×20)",
        "numbers that no class has: 'f.png' (7; 480 times)",
        "colours instead of class numbers: 'g.png'",
        "files that cannot be read: 'h.png'",
        "wrong='skip'",
    ):
        assert part in told, part
    assert len(MaskedImages(pictures, wrong="skip")) == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"images": "photos"}, "looked for the folder .*photos"),
        ({"images": "empty"}, "holds no usable image"),
        ({"channels": 2}, "channels must be 1 .grey. or 3"),
        ({"values": [0]}, "values=.0. must be 2 different numbers"),
        ({"classes": ["lesion"]}, "classes must be 2 to 255 names"),
        ({"prepare": {"sizes": 3}}, "prepare: unknown key 'sizes' with the value 3; closest: 'size'"),
        ({"repeat": 0}, "repeat must be at least 1"),
    ],
)
def test_wrong_arguments_are_told(options: dict[str, Any], told: str, pictures: Path) -> None:
    (pictures / "empty").mkdir()
    with pytest.raises(DatasetError, match=told):
        MaskedImages(pictures, **options)


def test_damage_met_later_stops_the_run_or_is_passed_over(pictures: Path) -> None:
    data, lenient = (MaskedImages(pictures, wrong=wrong) for wrong in ("raise", "skip"))
    (pictures / "images/a.jpg").write_bytes(b"no image")
    with pytest.raises(CorruptImageError, match=r"a\.jpg.*wrong='skip'"):
        data[0]
    assert lenient[0]["index"] == 1


def test_folder_of_volumes_gives_channels_classes_in_order_and_folds(volumes: Path) -> None:
    data = NiftiFolder(volumes, part="train")
    assert data.classes == ["background", "oedema", "tumour"]
    assert (len(data), len(NiftiFolder(volumes, part="val"))) == (4, 2)
    assert not set(data.names) & set(NiftiFolder(volumes, part="val").names)
    sample = data[0]
    assert sample["inputs"].shape == (2, 4, 12, 10)
    assert np.bincount(sample["labels"].flatten()).tolist() == [480 - 36 - 12, 36, 12]
    data.for_evaluation()
    assert data[0]["spacing"].tolist() == [3, 1, 1]


def scaled(labels: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """Class numbers as nibabel writes floats into whole numbers: times a slope, so that they come back inexactly."""
    image = nibabel.Nifti1Image(labels.astype(np.float32), affine)
    image.header.set_data_dtype(np.int16)
    return image


def test_labels_may_be_of_any_type_of_numbers_and_scaled(volumes: Path) -> None:
    expected = NiftiFolder(volumes, part="all").pair(0).labels
    path = volumes / "labelsTr/case0.nii.gz"
    content: Any = nibabel.load(path)
    labels, affine = np.asarray(content.dataobj), content.affine
    for dtype in (np.uint64, np.int64, np.int16, np.float32, np.float64):
        nibabel.save(nibabel.Nifti1Image(labels.astype(dtype), affine, dtype=dtype), path)
        np.testing.assert_array_equal(NiftiFolder(volumes, part="all").pair(0).labels, expected)
    nibabel.save(scaled(labels, affine), path)
    inexact: Any = nibabel.load(path)
    assert not np.array_equal(np.asarray(inexact.dataobj), labels)
    np.testing.assert_array_equal(NiftiFolder(volumes, part="all").pair(0).labels, expected)
    nibabel.save(nibabel.Nifti1Image(labels * 0.5, affine), path)
    with pytest.raises(DatasetError, match=r"dataset\.json does not name: 'case0' \(0\.5, 2\.5; 48 times\)"):
        NiftiFolder(volumes, part="all")


def test_random_patches_of_resampled_volumes_have_one_size(volumes: Path) -> None:
    data = NiftiFolder(
        volumes,
        part="all",
        prepare=dict(spacing=(1.5, 1.0, 1.0)),
        transforms=[
            dict(type="SpatialPadd", spatial_size=(8, 8, 16)),
            dict(type="RandCropByPosNegLabeld", spatial_size=(8, 8, 16), pos=1, neg=2),
        ],
        repeat=3,
        cache=True,
    )
    assert len(data) == 18
    for index in (0, 7, 17):
        assert data[index]["inputs"].shape == (2, 8, 8, 16)
        assert data[index]["labels"].shape == (8, 8, 16)


def test_all_mistakes_of_a_folder_of_volumes_are_told_at_once(volumes: Path) -> None:
    images, labels = volumes / "imagesTr", volumes / "labelsTr"
    (labels / "case0.nii.gz").unlink()
    (images / "case1_0001.nii.gz").unlink()
    content = (images / "case2_0000.nii.gz").read_bytes()
    (images / "case2_0000.nii.gz").write_bytes(content[: len(content) // 2])
    noise = NUMBERS.normal(size=(10, 12, 4)).astype(np.float32)
    noise[1, 2, 3] = np.nan
    write_nifti(images / "case3_0000.nii.gz", noise)
    write_nifti(labels / "case4.nii.gz", np.zeros((10, 12, 4), np.uint8), np.eye(4))
    write_nifti(labels / "case5.nii.gz", np.full((10, 12, 4), 3, np.uint8))
    for n, shape in enumerate([(10, 12, 5), (10, 12, 4, 2)], start=6):
        for channel in range(2):
            write_nifti(images / f"case{n}_{channel:04d}.nii.gz", np.zeros(shape, np.float32))
        write_nifti(labels / f"case{n}.nii.gz", np.zeros((10, 12, 4), np.uint8))
    with pytest.raises(DatasetError) as error:
        NiftiFolder(volumes, part="all")
    told = str(error.value)
    for part in (
        "has 8 mistakes",
        "1 cases without label",
        "cases without the file of a channel: 'case1' (case1_0001.nii.gz)",
        "case2_0000.nii.gz' (it is truncated or damaged",
        "case3_0000.nii.gz' (1 of 480 voxels are not finite",
        "labels with another affine than their image: 'case4'",
        "numbers that dataset.json does not name: 'case5' (3; 480 times)",
        "labels with another shape than their image: 'case6'",
    ):
        assert part in told, (part, told)
    with pytest.raises(UnreadableFileError, match=r"case7.*4 dimensions \(10×12×4×2\), where 3 are expected"):
        read_volume(images / "case7_0000.nii.gz")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot read"),
        ('{"channel_names": {"0": "CT"}}', "has no labels"),
        ('{"labels": {"background": 0}}', "has no channel_names"),
        ('{"channel_names": {"0": "CT"}, "labels": {"liver": 1}}', "must have 0, the background"),
        ('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "all": [1, 2]}}', "regions .* are not known"),
        ('{"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1, "b": 1}}', "one number to several"),
    ],
)
def test_unusable_descriptions_are_told(content: str, told: str, volumes: Path) -> None:
    (volumes / "dataset.json").write_text(content)
    with pytest.raises(DatasetError, match=told):
        NiftiFolder(volumes)


def test_too_few_slices_and_empty_folders_are_told(volumes: Path) -> None:
    with pytest.raises(DatasetError, match=r"6 cases of fewer than 5 slices: 'case0' \(4\)"):
        NiftiFolder(volumes, part="all", min_slices=5)
    (volumes / "nothing").mkdir()
    with pytest.raises(DatasetError, match="holds no usable case"):
        NiftiFolder(volumes, images="nothing")


def test_slices_and_volumes_are_read_by_their_lists(synapse: Path) -> None:
    slices = SliceVolumes(synapse, split="train", list="lists/train.txt", prepare=dict(intensity="none"))
    assert len(slices) == 3
    assert slices[0]["inputs"].shape == (1, 16, 16)
    assert slices[0]["labels"].unique().tolist() == [0, 8]
    whole = SliceVolumes(synapse, split="test", list="lists/test_vol.txt", prepare=dict(size=(8, 8), order=3))
    whole.for_evaluation()
    assert whole[0]["inputs"].shape == (1, 5, 8, 8)
    assert whole[0]["labels"].shape == (5, 16, 16)
    assert whole.sample_name(1) == "case1"


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def other_shape(path: Path) -> None:
    np.savez(path, image=np.zeros((16, 16)), label=np.zeros((16, 15)))


def not_finite(path: Path) -> None:
    np.savez(path, image=np.full((16, 16), np.inf), label=np.zeros((16, 16)))


def without_label(path: Path) -> None:
    np.savez(path, image=np.zeros((16, 16)))


def objects(path: Path) -> None:
    np.savez(path, image=np.array([[print]], dtype=object), label=np.zeros((1, 1)))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (broken, r"files that cannot be read: 'case1\.npz' \(it is truncated or damaged"),
        (other_shape, r"labels of another shape than their image: 'case1' \(16×16 and 16×15\)"),
        (not_finite, r"images with values that are not finite: 'case1' \(256 of 256\)"),
        (without_label, r"'case1\.npz' .*has no label"),
        (objects, r"'case1\.npz' .*truncated or damaged"),
        (os.remove, "names in 'train.txt' without a file.*: 'case1'"),
    ],
)
def test_damaged_slices_are_told(damage: Callable[[Path], None], told: str, synapse: Path) -> None:
    damage(synapse / "train_npz/case1.npz")
    with pytest.raises(DatasetError, match=told):
        SliceVolumes(synapse, split="train", list="lists/train.txt")
    assert len(SliceVolumes(synapse, split="train", list="lists/train.txt", wrong="skip")) == 2


def test_damaged_volumes_and_links_to_other_files_are_told(synapse: Path) -> None:
    broken(synapse / "test_vol_h5/case0.npy.h5")
    with h5py.File(synapse / "test_vol_h5/case1.npy.h5", "w") as file:
        file["label"] = np.zeros((5, 16, 16))
        file["image"] = h5py.ExternalLink("/etc/passwd", "image")
    with pytest.raises(DatasetError, match=r"2 files that cannot be read(.|\n)*links to other files"):
        SliceVolumes(synapse, split="test", list="lists/test_vol.txt")


def test_slices_of_a_patient_are_in_one_part(synapse: Path) -> None:
    names = [f"case{n}_slice{z:03d}" for n in range(7) for z in range(2)]
    for name in names:
        (synapse / f"train_npz/{name}.npz").write_bytes((synapse / "train_npz/case0.npz").read_bytes())
    (synapse / "lists/train.txt").write_text("\n".join(names))
    parts = [
        SliceVolumes(synapse, split="train", list="lists/train.txt", part=part, fold=1).names
        for part in ("train", "val")
    ]
    assert parts[1] == ["case1_slice000", "case1_slice001", "case6_slice000", "case6_slice001"]
    assert sorted(parts[0] + parts[1]) == names
    with pytest.raises(DatasetError, match="part must be one of train, val, all and fold 0 to 4, got 'val' and 5"):
        SliceVolumes(synapse, split="train", list="lists/train.txt", part="val", fold=5)


def test_lists_may_not_name_other_folders(synapse: Path) -> None:
    (synapse / "lists/train.txt").write_text("../case0\n")
    with pytest.raises(DatasetError, match="names with folders in them"):
        SliceVolumes(synapse, split="train", list="lists/train.txt")
    with pytest.raises(DatasetError, match=r"looked for .*none\.txt"):
        SliceVolumes(synapse, split="train", list="lists/none.txt")


def test_headers_that_promise_too_much_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), np.uint8))
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (tmp_path / "huge.nii").write_bytes(content)
    with pytest.raises(UnreadableFileError, match="are none or too many"):
        read_volume(tmp_path / "huge.nii")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no volume" * 100))
    with pytest.raises(UnreadableFileError, match="it is no NIfTI file"):
        read_volume(tmp_path / "text.nii.gz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("image.npy", b"")
    with pytest.raises(UnreadableFileError, match="there is no such file"):
        read_volume(tmp_path / "absent.nii.gz")


def test_channels_of_a_case_are_found_beside_the_first_one(volumes: Path) -> None:
    first = volumes / "imagesTr/case0_0000.nii.gz"
    assert read_scan(first, 2).pixels.shape == (2, 4, 12, 10)
    with pytest.raises(UnreadableFileError, match="name the file of the first one"):
        read_scan(volumes / "imagesTr/case0_0001.nii.gz", 2)
    write_nifti(volumes / "imagesTr/case0_0001.nii.gz", np.zeros((10, 12, 4), np.float32), np.eye(4))
    with pytest.raises(UnreadableFileError, match="its affine is not that of 'case0_0000"):
        read_scan(first, 2)
