"""What people give to prediction: damaged, odd and misplaced files; each is told by its name, and the rest is done."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import visionssm
from visionssm.data.errors import UnreadableFileError
from visionssm.prediction import find_files, predict_files, write_predictions
from visionssm.tasks.medical.inference import Inference
from visionssm.tasks.medical.predictor import MedicalSegmenter
from visionssm.tasks.medical.preparation import Preparation
from visionssm.tasks.medical.results import Segmented
from visionssm.tasks.medical.scan import read_scan, read_volume, write_labels

VALUES = np.random.default_rng(0).normal(100, 40, (20, 24, 6)).astype(np.float32)
TINY: dict[str, Any] = {"dim": 8, "depths": (1, 1), "decoder_depths": (1, 1)}


def segmenter(name: str = "vmunet_nano", **changes: Any) -> Any:
    torch.manual_seed(0)
    model = visionssm.create_segmenter(name, num_classes=2, in_chans=1, **(changes or TINY)).eval()
    return MedicalSegmenter(model, ("background", "liver"), Preparation(), Inference())


def volume(path: Path, values: np.ndarray = VALUES, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def with_nan() -> np.ndarray:
    values = VALUES.copy()
    values[3, 4, 2] = np.nan
    return values


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((5, 6, 4, 3), np.float32), r"it has 4 dimensions \(5×6×4×3\), where 3 are expected"),
        (with_nan(), "1 of 2880 voxels are not finite"),
        (np.full((5, 6, 4), 1e39), "120 of 120 voxels are not finite .*more than float32 holds"),
        (np.zeros((5, 6, 4), np.complex64), "its voxels are complex64"),
        (np.zeros((5, 6, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "no plain numbers"),
    ],
)
def test_volumes_that_cannot_be_used_are_told(values: np.ndarray, told: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=told):
        read_volume(volume(tmp_path / "scan.nii.gz", values))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b\x08\x00"])
def test_files_that_are_no_volumes_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(content)
    with pytest.raises(UnreadableFileError, match="it is no NIfTI file"):
        read_volume(tmp_path / "scan.nii.gz")


def test_files_whose_name_says_wrongly_whether_they_are_compressed_are_told_the_right_one(tmp_path: Path) -> None:
    volume(tmp_path / "plain.nii").rename(tmp_path / "plain.nii.gz")
    volume(tmp_path / "small.nii.gz").rename(tmp_path / "small.nii")
    with pytest.raises(UnreadableFileError, match=r"it is not compressed: name it \.nii$"):
        read_volume(tmp_path / "plain.nii.gz")
    with pytest.raises(UnreadableFileError, match=r"it is compressed by gzip: name it \.nii\.gz$"):
        read_volume(tmp_path / "small.nii")


@pytest.mark.parametrize("size", [0.0, -2.0, np.nan])
def test_voxels_of_no_size_are_refused_unless_an_affine_tells_it(
    size: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = nibabel.Nifti1Image(VALUES, None)
    content = bytearray(image.to_bytes())
    content[80:92] = np.full(3, size, np.float32).tobytes()  # pixdim of three axes
    (tmp_path / "scan.nii").write_bytes(content)
    if size < 0:  # its sign means nothing
        assert read_volume(tmp_path / "scan.nii").spacing == (2.0, 2.0, 2.0)
    else:
        with pytest.raises(UnreadableFileError, match="does not say how large its voxels are"):
            read_volume(tmp_path / "scan.nii")
    content[254:256] = np.int16(1).tobytes()  # sform_code
    for axis in range(3):
        content[280 + 16 * axis : 296 + 16 * axis] = (3 * np.eye(4, dtype=np.float32)[axis]).tobytes()
    (tmp_path / "scan.nii").write_bytes(content)
    assert read_volume(tmp_path / "scan.nii").spacing == (3.0, 3.0, 3.0)
    assert capfd.readouterr().err == "", "nibabel's remarks do not say which file they are of"


@pytest.mark.parametrize("name", ["IM0001", "slice.dcm", "head.mha", "head.NRRD"])
def test_other_medical_formats_are_told_what_they_are_to_be(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bytes(128) + (b"DICM" if "." not in name else b"some") + bytes(99))
    with pytest.raises(
        UnreadableFileError, match=r"DICOM or of another medical format than NIfTI: convert it to .nii.gz"
    ):
        read_scan(tmp_path / name, 1)


def test_only_volumes_have_a_size_in_mm() -> None:
    assert MedicalSegmenter.columns == ("class", "pixels", "mm3")
    names, ones = ("background", "liver"), np.ones((1, 2), int)
    assert Segmented(names, ones[None], (2, 2, 3), True).rows() == [("liver", 2, 24.0)]
    assert Segmented(names, ones, (1, 1), False).rows() == [("liver", 2, "")]


def test_files_that_cannot_be_read_stop_nothing_and_are_in_the_table(tmp_path: Path) -> None:
    good = volume(tmp_path / "good.nii.gz")
    (tmp_path / "half.nii.gz").write_bytes(good.read_bytes()[:3000])
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(tmp_path / "small.png")  # smaller than the stride
    paths = [tmp_path / "half.nii.gz", good, tmp_path / "small.png"]
    found = predict_files(segmenter(), paths, masks=tmp_path / "masks")
    write_predictions(found, tmp_path / "found.csv")
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows if row["error"]] == [str(paths[0])]
    assert "truncated" in rows[-1]["error"]
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["0001_good.nii.gz", "0002_small.png"]
    with Image.open(tmp_path / "masks/0002_small.png") as image:
        assert image.size == (7, 5)


def test_hidden_files_of_a_folder_are_left_alone(tmp_path: Path) -> None:
    good = volume(tmp_path / "a.nii.gz")
    (tmp_path / ".hidden").mkdir()
    for name in ("._a.nii.gz", ".hidden/b.nii.gz"):  # as macOS leaves beside files
        shutil.copy(good, tmp_path / name)
    assert find_files([tmp_path]) == [good]


def test_labels_of_a_volume_without_an_affine_have_none_either(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(VALUES, None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, tmp_path / "scan.nii.gz")
    predict_files(segmenter(), [tmp_path / "scan.nii.gz"], masks=tmp_path / "masks")
    original: Any = nibabel.load(tmp_path / "scan.nii.gz")
    label: Any = nibabel.load(tmp_path / "masks/0000_scan.nii.gz")
    assert label.shape == original.shape
    np.testing.assert_array_equal(label.affine, original.affine)
    for code in ("sform_code", "qform_code"):
        assert label.header[code] == original.header[code]


OBLIQUE = np.array([[0.9, 0.2, 0, 1], [-0.3, 1.4, 0.1, -5], [0.1, 0, 2.8, 7], [0, 0, 0, 1]])
TURNED = np.array([[0, 0, -2.0, 10], [3, 0, 0, -5], [0, -1.5, 0, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize("affine", [OBLIQUE, OBLIQUE @ np.diag([-1, 1, 1, 1]), TURNED, np.diag([1.0, 1.0, 5.0, 1.0])])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_labels_of_volumes_in_any_direction_lie_where_the_voxels_are(
    suffix: str, kind: Any, affine: np.ndarray, tmp_path: Path
) -> None:
    source = tmp_path / f"Kopf Müller 1{suffix}"
    nibabel.save(kind(VALUES, affine), source)
    scan = read_volume(source)
    bright = (scan.pixels[0] > 100).astype(np.int64)
    (tmp_path / "masks").mkdir()
    written: Any = nibabel.load(write_labels(bright, scan, tmp_path / "masks/0000"))
    assert isinstance(written, kind)
    original: Any = nibabel.load(source)
    np.testing.assert_array_equal(written.affine, original.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), VALUES > 100)
    assert sorted(scan.spacing) == pytest.approx(sorted(np.linalg.norm(affine[:3, :3], axis=0)), rel=1e-6)


def test_scaled_whole_numbers_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 3.0)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    content: Any = nibabel.load(tmp_path / "scaled.nii.gz")
    assert (content.dataobj.slope, content.dataobj.inter) == (0.5, 3.0)
    scan = read_volume(tmp_path / "scaled.nii.gz")
    np.testing.assert_allclose(scan.pixels[0].T, np.asarray(content.dataobj))
    label: Any = nibabel.load(write_labels(np.ones(scan.pixels.shape[1:], int), scan, tmp_path / "label"))
    assert np.unique(np.asarray(label.dataobj)).tolist() == [1]  # not scaled by the image's slope


def test_sixteen_bits_of_a_photo_are_scaled_by_their_range(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 40 * 50).reshape(40, 50)
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    pixels = read_scan(tmp_path / "deep.png", 1).pixels
    np.testing.assert_allclose(pixels[0], values / 257, atol=1)


def test_volumes_of_a_single_slice_or_voxel_get_labels(tmp_path: Path) -> None:
    small: dict[str, Any] = {"plan": {"patch": (8, 16, 16), "widths": (4, 8), "strides": (1, 2), "blocks": (1,)}}
    for predictor in (segmenter(), segmenter("umamba_enc3d_nano", **small)):
        for values in (VALUES[..., :1], VALUES[:1, :1, :1]):
            scan = predictor.read(volume(tmp_path / "scan.nii.gz", values))
            (result,) = predictor([scan])
            assert result.numbers.shape == scan.pixels.shape[1:]


def on_a_full_disk(_image: Any, path: Path) -> None:
    Path(path).write_bytes(b"some of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_places_that_cannot_be_written_are_named_with_their_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = volume(tmp_path / "good.nii.gz")
    (tmp_path / "taken").write_text("a file")
    for name in ("masks", "pictures"):
        options: dict[str, Any] = {name: tmp_path / "taken"}
        with pytest.raises(OSError, match=rf"{name}='.*taken' cannot be made a folder \(File exists\); name another"):
            predict_files(segmenter(), [good], **options)
    monkeypatch.setattr(nibabel.Nifti1Image, "to_filename", on_a_full_disk)
    with pytest.raises(OSError, match=r"cannot write into masks='.*masks' \(No space left on device\); name another"):
        predict_files(segmenter(), [good], masks=tmp_path / "masks")
    assert list((tmp_path / "masks").iterdir()) == []
    found = predict_files(segmenter(), [good])
    with pytest.raises(OSError, match=r"cannot write out='.*taken/found\.csv' \(.*\); name another file"):
        write_predictions(found, tmp_path / "taken/found.csv")
    assert (tmp_path / "taken").read_text() == "a file"
