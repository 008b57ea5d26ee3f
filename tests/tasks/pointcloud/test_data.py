"""KITTI's files, rendered scenes, changes while training, and what is told of wrong data."""

from __future__ import annotations

import logging
import math
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pointcloud.frames import KITTI, with_real_frames
from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.data.seeding import SeededDataset
from visionssm.pointcloud.boxes import inside
from visionssm.tasks.pointcloud.augment import CHANGES, Cloud, Flip, Rotate, Scale, Translate, build_changes, wrapped
from visionssm.tasks.pointcloud.data import KittiFrames
from visionssm.tasks.pointcloud.kitti import (
    IMAGE_SIZE,
    image_box,
    labels_of_boxes,
    lidar_boxes,
    parse_label,
    read_calibration,
    read_labels,
    read_sweep,
    write_calibration,
    write_labels,
    write_sweep,
)
from visionssm.tasks.pointcloud.pictures import seen_from_above, view_of
from visionssm.tasks.pointcloud.scenes import CALIBRATION, Scenes, ScenesSpec, render, write_scenes

TINY = {"train": 3, "val": 2, "test": 1, "columns": 150}
RANGE = (0.0, -19.2, -3.0, 38.4, 19.2, 1.0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "tiny", ScenesSpec(**TINY))


@pytest.fixture
def copied(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "set"))


# -- files -------------------------------------------------------------------------------------------------------------


def test_boxes_go_to_labels_and_back() -> None:
    generator = np.random.default_rng(0)
    low, high = [5, -10, -2, 3, 1, 1, -3], [40, 10, 0, 5, 2, 2, 3]
    boxes = generator.uniform(low, high, (20, 7))
    labels = labels_of_boxes(boxes, ["Car"] * 20, CALIBRATION, IMAGE_SIZE)
    back = lidar_boxes(labels, CALIBRATION)
    np.testing.assert_allclose(back[:, :6], boxes[:, :6], atol=1e-9)
    np.testing.assert_allclose(wrapped(back[:, 6] - boxes[:, 6]), 0, atol=1e-9)
    for box, label in zip(boxes, labels, strict=True):
        assert label.alpha == pytest.approx(wrapped(np.array(label.rotation - math.atan2(-box[1], box[0]))))


def test_label_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    labels = render(ScenesSpec(), "train", 0).labels
    found = [replace(label, score=0.25) for label in labels]
    write_labels(tmp_path / "a.txt", [*labels, *found])
    again = read_labels(tmp_path / "a.txt")
    assert [x.kind for x in again] == [x.kind for x in labels] * 2
    assert [x.score for x in again] == [None] * len(labels) + [0.25] * len(labels)
    np.testing.assert_allclose([x.location for x in again[: len(labels)]], [x.location for x in labels], atol=0.006)


def test_calibration_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.txt", CALIBRATION)
    again = read_calibration(tmp_path / "c.txt")
    points = np.random.default_rng(0).uniform(-20, 20, (50, 3))
    np.testing.assert_allclose(again.to_camera(points), CALIBRATION.to_camera(points), atol=1e-6)
    np.testing.assert_allclose(again.to_lidar(again.to_camera(points)), points, atol=1e-9)


def test_points_ahead_are_in_the_middle_of_the_picture_and_those_behind_are_not_seen() -> None:
    points = np.array([[10.0, 0, 0], [-10, 0, 0], [10, 9, 0], [10, 0, 9]])
    assert CALIBRATION.sees(points, IMAGE_SIZE).tolist() == [True, False, False, False]
    pixels, depth = CALIBRATION.to_image(CALIBRATION.to_camera(points[:1]))
    assert abs(pixels[0, 0] - 609.6) < 10
    assert depth[0] == pytest.approx(9.73)


def test_boxes_in_the_picture_surround_all_corners() -> None:
    box = image_box(np.array([0.0, 1.7, 20.0]), (1.5, 1.6, 4.0), 0.0, CALIBRATION)
    nearest = 20 - 1.6 / 2
    expected = [x / nearest * 721.5 + 609.6 for x in (-2, 2)]
    np.testing.assert_allclose(box[[0, 2]], expected, atol=3)
    assert box[3] - box[1] == pytest.approx(1.5 / nearest * 721.5, abs=4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0" * 20, r"20 bytes are no multiple of 16, 4 are left over.*x, y, z, intensity"),
        (np.full(8, np.nan, "<f4").tobytes(), "none of its 2 points has finite numbers"),
    ],
)
def test_files_that_are_no_sweeps_are_told(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "sweep.bin"
    path.write_bytes(data)
    with pytest.raises(UnreadableFileError, match=words) as error:
        read_sweep(path)
    assert str(path) in str(error.value)
    with pytest.raises(UnreadableFileError, match="no such file"):
        read_sweep(tmp_path / "absent.bin")


def test_files_of_a_folder_beside_the_sweeps_are_not_taken_for_points(tmp_path: Path) -> None:
    points = np.arange(8, dtype="<f4").reshape(2, 4)
    (tmp_path / "epoch_1.pth").write_bytes(points.tobytes())
    with pytest.raises(UnreadableFileError, match=r"no sweep, whose name ends in \.bin"):
        read_sweep(tmp_path / "epoch_1.pth")
    (tmp_path / "SWEEP.BIN").write_bytes(points.tobytes())
    assert np.array_equal(read_sweep(tmp_path / "SWEEP.BIN"), points)


@pytest.mark.filterwarnings("error")
def test_points_at_any_distance_leave_a_picture_of_those_in_range() -> None:
    view = view_of((0, -8, -3, 16, 8, 1), side=64)
    points = np.array([[5, 1, 0, 0], [3e38, -3e38, 0, 0], [5, 3e38, 3e38, 0]], dtype=np.float32)
    seen = np.asarray(seen_from_above(points, view))
    assert np.array_equal(seen, np.asarray(seen_from_above(points[:1], view)))
    assert (seen < 255).any(2).sum() == 1


def test_points_that_are_not_finite_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = np.arange(20, dtype=np.float32).reshape(5, 4)
    points[1, 2], points[3, 3] = np.nan, np.inf
    write_sweep(tmp_path / "sweep.bin", points)
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(read_sweep(tmp_path / "sweep.bin"), points[[0, 2, 4]])
    assert "2 points" in caplog.text
    write_sweep(tmp_path / "empty.bin", np.zeros((0, 4)))
    assert read_sweep(tmp_path / "empty.bin").shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("P2: 1 2 3\n", "P2 is no matrix"),
        ("P2: " + "1 " * 12, "R0_rect, Tr_velo_to_cam is missing"),
        ("P2: " + "1 " * 12 + "\nR0_rect: " + "0 " * 9 + "\nTr_velo_to_cam: " + "0 " * 12, "cannot be inverted"),
        (
            "P2: " + "0 " * 12 + "\nR0_rect: 1 0 0 0 1 0 0 0 1\nTr_velo_to_cam: 1 0 0 0 0 1 0 0 0 0 1 0",
            "cannot be inverted",
        ),
    ],
)
def test_files_that_are_no_calibration_are_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(UnreadableFileError, match=words):
        read_calibration(tmp_path / "c.txt")


@pytest.mark.parametrize("line", ["Car 0 0", "Car " + "x " * 14, "Car " + "nan " * 14, "Car 0 inf " + "0 " * 12])
def test_lines_that_are_no_labels_are_told_with_their_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "l.txt").write_text("\n" + line + "\n")
    with pytest.raises(UnreadableFileError, match="line 2 is no label"):
        read_labels(tmp_path / "l.txt")
    with pytest.raises(ValueError):
        parse_label(line)


# -- scenes ------------------------------------------------------------------------------------------------------------


def test_a_scene_is_a_function_of_specification_split_and_number() -> None:
    spec = ScenesSpec(**TINY)
    first, again = render(spec, "train", 1), render(spec, "train", 1)
    assert np.array_equal(first.points, again.points)
    assert first.labels == again.labels
    for other in (render(spec, "val", 1), render(spec, "train", 2), render(ScenesSpec(**TINY, seed=1), "train", 1)):
        assert other.points.shape != first.points.shape or not np.array_equal(other.points, first.points)


def test_scenes_show_every_class_on_the_ground_with_points_in_most_boxes() -> None:
    kinds: set[str] = set()
    hit = total = 0
    for index in range(12):
        scene = render(ScenesSpec(columns=150), "train", index)
        boxes = lidar_boxes(scene.labels, CALIBRATION)
        wider = torch.from_numpy(boxes + np.array([0, 0, 0, 0.1, 0.1, 0.1, 0]))
        counts = inside(torch.from_numpy(scene.points.astype(np.float64)), wider).sum(0)
        kinds |= {label.kind for label in scene.labels}
        heights = [(label.kind == "Car", height) for label, height in zip(scene.labels, boxes[:, 5], strict=True)]
        assert all(1.35 < height < 1.75 if is_car else 1.5 < height < 1.9 for is_car, height in heights)
        hit, total = hit + int((counts > 0).sum()), total + len(counts)
        bottoms = boxes[:, 2] - boxes[:, 5] / 2
        assert (np.abs(bottoms + 1.73) < 0.05 * np.hypot(boxes[:, 0], boxes[:, 1]) + 0.05).all()
        assert CALIBRATION.sees(scene.points.astype(np.float64), IMAGE_SIZE).mean() > 0.999
        assert ((scene.points[:, 3] >= 0) & (scene.points[:, 3] < 1)).all()
    assert kinds == {"Car", "Pedestrian", "Cyclist"}
    assert hit >= 0.97 * total


def test_what_stands_behind_is_hidden() -> None:
    occluded = [label.occluded for i in range(12) for label in render(ScenesSpec(columns=150), "train", i).labels]
    assert {0, 1, 2} == set(occluded)


def test_set_is_written_once_and_another_one_is_refused(scenes: Path) -> None:
    stamp = (scenes / "ImageSets/train.txt").stat().st_mtime_ns
    assert write_scenes(scenes, ScenesSpec(**TINY)) == scenes
    assert (scenes / "ImageSets/train.txt").stat().st_mtime_ns == stamp
    with pytest.raises(DatasetError, match="remove the folder"):
        write_scenes(scenes, ScenesSpec(**TINY, seed=5))


@pytest.mark.parametrize(
    ("split", "spec", "words"),
    [
        ("training", {}, "split must be one of train, val, test"),
        ("train", {"trian": 3}, "the fields are train"),
        ("train", {"train": 0}, "spec.train must be a whole number from 1"),
        ("train", {"columns": 1.5}, "spec.columns"),
    ],
)
def test_specifications_that_make_no_sense_are_named(split: str, spec: dict[str, int], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        Scenes.check_available(split, spec)


# -- the data set ------------------------------------------------------------------------------------------------------


def test_samples_have_points_and_boxes_of_the_classes(scenes: Path) -> None:
    data = KittiFrames(scenes, split="train", point_range=RANGE)
    data.for_evaluation()
    sample = data[1]
    assert sample["inputs"].dtype == sample["boxes"].dtype == torch.float32
    assert sample["boxes"].shape == (len(sample["labels"]), 7)
    assert sample["frame"].name == data.sample_name(1) == "000001"
    assert data.metainfo == {"classes": ["Car", "Pedestrian", "Cyclist"]}
    kinds = [data.classes[i] for i in sample["labels"].tolist()]
    assert kinds == [label.kind for label in sample["frame"].labels]
    other = KittiFrames(scenes, split="train", classes=["Cyclist"])
    other.for_evaluation()
    assert sum(len(other[i]["labels"]) for i in range(3)) < sum(len(data[i]["labels"]) for i in range(3))


def test_training_samples_depend_on_their_seed_alone(scenes: Path) -> None:
    changes = [{"type": name} for name in CHANGES]
    data = KittiFrames(scenes, split="train", point_range=RANGE, changes=changes)
    one, again, other = (SeededDataset(data, seed=s)[(5, 0)] for s in (0, 0, 1))
    assert torch.equal(one["inputs"], again["inputs"])
    assert torch.equal(one["boxes"], again["boxes"])
    assert one["boxes"].shape != other["boxes"].shape or not torch.equal(one["boxes"], other["boxes"])


def test_boxes_outside_of_the_range_are_trained_on_no_more_and_frames_without_boxes_give_way(scenes: Path) -> None:
    whole = KittiFrames(scenes, split="train")
    near = KittiFrames(scenes, split="train", point_range=(0, -20, -3, 18, 20, 1))
    counts = [sum(len(data[i]["boxes"]) for i in range(3)) for data in (whole, near)]
    assert 0 < counts[1] < counts[0]
    assert all(len(near[i]["boxes"]) for i in range(3))
    assert (near[0]["inputs"][:, 0] <= 18).all()
    with pytest.raises(DatasetError, match="in a row have no box"):
        KittiFrames(scenes, split="train", point_range=(100, 0, 0, 110, 1, 1))[0]


def test_all_mistakes_are_told_at_once_or_left_out(copied: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = copied / "training"
    (folder / "velodyne/000000.bin").write_bytes(b"\0" * 18)
    (folder / "calib/000001.txt").unlink()
    text = (folder / "label_2/000002.txt").read_text()
    (folder / "label_2/000002.txt").write_text(text + "Unicorn " + "1 " * 14 + "\n")
    (copied / "ImageSets/train.txt").write_text("000000 000001 000002 000002 000007 100000 100001")
    label = copied / "training/label_2/100001.txt"
    label.write_text("Car 0 0 0 0 0 50 50 1.5 -1 4 0 1.7 20 0\n")
    with pytest.raises(DatasetError) as error:
        KittiFrames(copied, split="train")
    for words in (
        "6 mistakes",
        "'000000' (18 bytes, 2 are left over)",
        "1 frames without a file in calib/: '000001'",
        "labels of unknown classes: '000002' (Unicorn)",
        "names that are there twice: '000002'",
        "frames without a sweep in velodyne/: '000007'",
        "labels whose sizes are not positive: '100001'",
    ):
        assert words in str(error.value), words
    with caplog.at_level(logging.WARNING):
        assert len(KittiFrames(copied, split="train", wrong="skip")) == 1
    assert "6 mistakes are left out" in caplog.text


@pytest.mark.parametrize(
    ("classes", "named", "words"),
    [
        (("Car",), "car", r"'000002' \(car \(Car is known\)\)"),
        (("Car",), "PEDESTRIAN", r"PEDESTRIAN \(Pedestrian is known\)"),
        (("Car",), "Dontcare", r"Dontcare \(DontCare is known\)"),
        (("car",), "Car", r"Car \(car is known\)"),
    ],
)
def test_classes_in_another_case_are_told_with_the_known_name(
    copied: Path, classes: tuple[str, ...], named: str, words: str
) -> None:
    (copied / "training/label_2/000002.txt").write_text(f"{named} 0 0 0 0 0 50 50 1.5 1.6 4 0 1.7 20 0\n")
    (copied / "ImageSets/train.txt").write_text("000002")
    with pytest.raises(DatasetError, match=f"1 labels of classes in another case: .*{words}"):
        KittiFrames(copied, split="train", classes=classes)
    assert len(KittiFrames(copied, split="train", classes=(named,))) == 1


def test_names_of_frames_lead_nowhere_else_and_pictures_that_are_bombs_are_told(copied: Path) -> None:
    (copied / "training/image_2").mkdir(exist_ok=True)
    chunk = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
    header = (
        b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + b"\0\0\0\0IDAT"
    )
    (copied / "training/image_2/000001.png").write_bytes(header)
    (copied / "ImageSets/train.txt").write_text("000000 ../velodyne/000000 000001 .hidden")
    with pytest.raises(DatasetError) as error:
        KittiFrames(copied, split="train")
    assert "2 names of frames that are no plain names of files: '../velodyne/000000', '.hidden'" in str(error.value)
    assert "1 pictures of image_2/ that cannot be read: '000001' (Image size" in str(error.value)


def test_a_missing_set_or_split_is_told_with_the_place(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(DatasetError, match=r"data set not found: looked for '.*nowhere"):
        KittiFrames.check_available(tmp_path / "nowhere", split="train")
    with pytest.raises(DatasetError, match=r"trainval\.txt"):
        KittiFrames(scenes, split="trainval")


@with_real_frames
def test_real_frames_have_points_in_their_boxes() -> None:
    data = KittiFrames(KITTI, split="trainval")
    data.for_evaluation()
    assert len(data) == 5
    for sample in data:
        counts = inside(sample["inputs"], sample["boxes"]).sum(0)
        assert (counts > 0).float().mean() > 0.9
    names = [frame.name for frame in data.frames]
    assert 17_200 < len(data[names.index("000008")]["inputs"]) <= 17_238  # cut to the picture already
    assert len(data[names.index("000000")]["inputs"]) < 25_000  # of 115,384


# -- changes -----------------------------------------------------------------------------------------------------------


def cloud() -> Cloud:
    generator = np.random.default_rng(0)
    points = generator.uniform(-10, 10, (2000, 4)).astype(np.float32)
    boxes = generator.uniform([-6, -6, -3, 3, 3, 3, -3], [6, 6, 3, 6, 6, 6, 3], (5, 7))
    return Cloud(points, boxes, np.arange(5))


@pytest.mark.parametrize("change", [Flip(("x", "y")), Rotate(), Scale(), Translate()])
def test_boxes_keep_their_points_whatever_is_changed(change: object) -> None:
    before = cloud()
    points, boxes = before.points.copy(), before.boxes.copy()
    for seed in range(4):
        after = change(before, np.random.default_rng(seed))  # type: ignore[operator]
        members = [
            inside(torch.from_numpy(x.points.astype(np.float64)), torch.from_numpy(x.boxes)) for x in (before, after)
        ]
        assert float((members[0] == members[1]).float().mean()) > 0.9999
        assert members[0].any(0).all()
    assert np.array_equal(before.points, points)
    assert np.array_equal(before.boxes, boxes)


@pytest.mark.parametrize(("axis", "expected"), [("x", [1, -2, -0.3]), ("y", [-1, 2, math.pi - 0.3])])
def test_flips_mirror_places_and_headings(axis: str, expected: list[float]) -> None:
    before = Cloud(np.zeros((1, 4)), np.array([[1.0, 2, 0, 4, 2, 1, 0.3]]), np.zeros(1))
    after = Flip((axis,))(before, _Always())  # type: ignore[arg-type]
    np.testing.assert_allclose(after.boxes[0, [0, 1, 6]], expected)


class _Always:
    """A generator of zeros: every flip is made."""

    def random(self) -> float:
        return 0.0


def test_unknown_changes_and_arguments_are_named() -> None:
    for configs, words in (
        ([{"type": "Shear"}], "no change 'Shear'"),
        ([{"type": "Rotate", "angle": 3}], "Rotate: .*angle"),
        ([{"type": "Flip", "axes": ["z"]}], r"axes=\['z'\]"),
        ([{"type": "Scale", "low": 2.0}], "low=2"),
    ):
        with pytest.raises(DatasetError, match=words):
            build_changes(configs)
