"""Objects of other frames in training samples: what is drawn, where it may stand, and the files it comes from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from visionssm.data.errors import DatasetError
from visionssm.data.seeding import SeededDataset
from visionssm.engine.errors import ConfigError
from visionssm.kernels import rotated_iou
from visionssm.pointcloud.boxes import inside
from visionssm.tasks.pointcloud.augment import Cloud, wrapped
from visionssm.tasks.pointcloud.data import KittiFrames
from visionssm.tasks.pointcloud.hooks import ChangesEndHook
from visionssm.tasks.pointcloud.kitti import Ground, difficulty, parse_label, read_plane
from visionssm.tasks.pointcloud.pasting import Objects, Pasting, read_objects
from visionssm.tasks.pointcloud.scenes import CALIBRATION, ScenesSpec, write_scenes

RANGE = (0.0, -19.2, -3.0, 38.4, 19.2, 1.0)
COUNTS = {"Car": 4, "Pedestrian": 3}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ScenesSpec(train=4, val=1, test=1, columns=120)
    return write_scenes(tmp_path_factory.mktemp("pasting") / "tiny", spec)


@pytest.fixture
def copied(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "set"))


def with_pasting(root: Path, base: Path, **options: Any) -> KittiFrames:
    return KittiFrames(root, split="train", pasting={"counts": COUNTS, "folder": str(base), **options})


def counted(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    rows = torch.from_numpy(points[:, :3].astype(np.float64))
    return inside(rows, torch.from_numpy(boxes[:, :7])).sum(0).numpy()


def made_objects(*boxes: list[float]) -> Objects:
    """Objects of class 0, each with nine points about its centre."""
    points = np.tile(np.linspace(-0.4, 0.4, 9, dtype=np.float32)[:, None], (len(boxes), 4))
    count = len(boxes)
    return Objects(points, 9 * np.arange(1, count + 1), np.array(boxes, dtype=float), np.zeros(count, dtype=np.int64))


# -- what is pasted ----------------------------------------------------------------------------------------------------


def test_pasted_objects_stand_apart_with_their_points_and_nothing_else_within(scenes: Path, tmp_path: Path) -> None:
    data = with_pasting(scenes, tmp_path / "base")
    added = 0
    for index in range(len(data)):
        before = data.cloud(index)
        after = data.pasting(before, np.random.default_rng(index))
        new = slice(len(before.boxes), None)
        added += len(after.boxes[new])
        assert np.array_equal(after.boxes[: len(before.boxes)], before.boxes)
        boxes = torch.from_numpy(after.boxes)
        overlap = rotated_iou(boxes[:, None], boxes[None]).numpy()
        assert (overlap[new] - np.eye(len(boxes))[new]).max(initial=0) < 1e-9
        number = len(after.points) - (counted_any(before.points, after.boxes[new]) == 0).sum()
        assert counted(after.points[:number], after.boxes[new]).min(initial=5) >= 5
        assert counted(after.points[number:], after.boxes[new]).max(initial=0) == 0
    assert added > 6


def counted_any(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    rows = torch.from_numpy(points[:, :3].astype(np.float64))
    return inside(rows, torch.from_numpy(boxes)).sum(1).numpy()


@pytest.mark.parametrize("label", [0, 1, -1])
def test_boxes_of_any_class_are_in_the_way_of_pasted_ones(label: int) -> None:
    objects = made_objects([10, 0, 0, 4, 2, 1, 0])
    scene = Cloud(np.zeros((0, 4), np.float32), np.array([[12.0, 1, 0, 4, 2, 1, 0.4]]), np.array([label]))
    pasting = Pasting(objects, {0: 1})
    assert len(pasting(scene, np.random.default_rng(0)).boxes) == 1
    aside = scene._replace(boxes=scene.boxes + np.array([0, 4, 0, 0, 0, 0, 0]))
    assert len(pasting(aside, np.random.default_rng(0)).boxes) == 2


def test_of_two_drawn_objects_that_overlap_neither_is_pasted() -> None:
    objects = made_objects([10, 0, 0, 4, 2, 1, 0], [11, 0, 0, 4, 2, 1, 0], [30, 0, 0, 4, 2, 1, 0])
    empty = Cloud(np.zeros((0, 4), np.float32), np.zeros((0, 7)), np.zeros(0, np.int64))
    after = Pasting(objects, {0: 3})(empty, np.random.default_rng(0))
    assert after.boxes[:, 0].tolist() == [30]
    assert after.points[:, 0].tolist() == pytest.approx(np.linspace(29.6, 30.4, 9))


def test_objects_are_drawn_in_rounds_and_those_of_the_scene_count_if_it_is_filled() -> None:
    objects = made_objects(*([10.0 * x, 0, 0, 4, 2, 1, 0] for x in range(6)))
    there = Cloud(np.zeros((0, 4), np.float32), np.array([[5.0, 30, 0, 4, 2, 1, 0]] * 2), np.zeros(2, np.int64))
    for seed in range(5):
        filled = Pasting(objects, {0: 5}, fill=True)(there, np.random.default_rng(seed))
        assert len(filled.boxes) == 2 + 3
        everything = Pasting(objects, {0: 6})(there, np.random.default_rng(seed))
        assert sorted(everything.boxes[2:, 0].tolist()) == [0, 10, 20, 30, 40, 50]


def test_objects_are_put_on_the_road_where_it_is_known() -> None:
    plane = np.array([0.02, -1.0, 0.03, 1.6])
    ground = Ground(plane / np.linalg.norm(plane[:3]), CALIBRATION)
    objects = made_objects([12, 3, 5, 4, 2, 1.5, 0.7])
    empty = Cloud(np.zeros((0, 4), np.float32), np.zeros((0, 7)), np.zeros(0, np.int64))
    after = Pasting(objects, {0: 1})(empty, np.random.default_rng(0), ground)
    bottom = CALIBRATION.to_camera(after.boxes[:, :3] - [0, 0, 0.75])
    assert (bottom @ plane[:3] + plane[3]).tolist() == pytest.approx([0], abs=0.02)
    assert after.boxes[0, 2] < 0
    assert after.points[:, 2].mean() == pytest.approx(after.boxes[0, 2], abs=1e-5)


def test_velocities_are_kept_of_pasted_objects() -> None:
    objects = made_objects([10, 0, 0, 4, 2, 1, 0, 3, -2])
    empty = Cloud(np.zeros((0, 5), np.float32), np.zeros((0, 9)), np.zeros(0, np.int64))
    objects = Objects(np.zeros((9, 5), np.float32), objects.ends, objects.boxes, objects.labels)
    assert Pasting(objects, {0: 1})(empty, np.random.default_rng(0)).boxes[0, 7:].tolist() == [3, -2]


# -- samples -----------------------------------------------------------------------------------------------------------


def test_every_step_of_a_sample_has_a_seed_of_its_own(scenes: Path, tmp_path: Path) -> None:
    """A change that draws many numbers more leaves the others as they were."""
    changes = [{"type": "Rotate"}, {"type": "Translate", "spread": 0.0}, {"type": "Scale"}]
    plain, other = (
        SeededDataset(KittiFrames(scenes, split="train", changes=x), seed=0)[(3, 1)]
        for x in (changes, [changes[0], {"type": "Flip", "axes": ("x", "x", "x", "x")}, changes[2]])
    )
    sizes = [x["boxes"][:, 3:6] for x in (plain, other)]
    assert torch.equal(*sizes)
    distances = [x["inputs"][:, :2].norm(dim=1) for x in (plain, other)]
    torch.testing.assert_close(*distances)
    base = str(tmp_path / "base")
    data = KittiFrames(scenes, split="train", changes=changes, pasting={"counts": COUNTS, "folder": base})
    pasted = SeededDataset(data, seed=0)[(3, 1)]
    count = len(plain["boxes"])
    assert len(pasted["boxes"]) > count
    torch.testing.assert_close(pasted["boxes"][:count], plain["boxes"])


def test_last_epochs_have_no_pasting_and_then_no_changes(scenes: Path, tmp_path: Path) -> None:
    data = KittiFrames(
        scenes, split="train", changes=[{"type": "Rotate"}], pasting={"counts": COUNTS, "folder": str(tmp_path / "b")}
    )
    loader = SimpleNamespace(dataset=SeededDataset(data, seed=0), persistent_workers=False)
    hook = ChangesEndHook(pasting=2, changes=1)
    told = []
    for epoch in range(4):
        hook.before_train_epoch(SimpleNamespace(epoch=epoch, max_epochs=4, train_dataloader=loader))
        sample = loader.dataset[(epoch, 0)]
        before = data.cloud(0).boxes
        turned = not np.allclose(sample["boxes"][: len(before), 6], wrapped(before[:, 6]), atol=1e-5)
        told.append((len(sample["boxes"]) > len(before), turned))
    assert told == [(True, True), (True, True), (False, True), (False, False)]


def test_trainings_that_cannot_be_told_of_their_end_are_refused() -> None:
    with pytest.raises(ConfigError, match="counts of epochs"):
        ChangesEndHook(pasting=-1)
    with pytest.raises(ConfigError, match="counts epochs"):
        ChangesEndHook(1).before_train(SimpleNamespace(train_loop=None))


# -- files -------------------------------------------------------------------------------------------------------------


def test_base_is_written_once_and_again_for_other_files(copied: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("VISIONSSM_CACHE", str(tmp_path / "cache"))
    options: dict[str, Any] = {"split": "train", "pasting": {"counts": COUNTS}}
    KittiFrames(copied, **options)
    (first,) = (tmp_path / "cache").glob("objects-*")
    stamp = (first / "points.bin").stat().st_mtime_ns
    KittiFrames(copied, **options)
    assert (first / "points.bin").stat().st_mtime_ns == stamp
    path = copied / "training/label_2/000000.txt"
    told = path.stat()
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns + 10**9))
    KittiFrames(copied, **options)
    assert len(list((tmp_path / "cache").glob("objects-*"))) == 2


def test_a_half_written_base_is_none(scenes: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        with_pasting(scenes, tmp_path / "base")
    assert not [x for x in tmp_path.iterdir() if not x.name.endswith(".lock")]


def test_base_has_objects_of_enough_points_and_known_difficulty(scenes: Path, tmp_path: Path) -> None:
    data = with_pasting(scenes, tmp_path / "base", least_points={"Car": 60})
    objects = data.pasting.objects
    counts = np.diff(objects.ends, prepend=0)
    assert counts[objects.labels == 0].min() >= 60
    assert counts.min() >= 5
    expected = 0
    for index in range(len(data)):
        cloud = data.cloud(index)
        least = np.where(cloud.labels == 0, 60, 5)
        expected += int(((counted(cloud.points, cloud.boxes) >= least) & data.worth_pasting(index)).sum())
    assert len(objects.labels) == expected > 3
    for number in range(expected):
        box = torch.from_numpy(objects.boxes[number, :7]).clone()
        box[:3], box[3:6] = 0, box[3:6] + 1e-4
        assert inside(torch.from_numpy(objects.points_of(number).astype(float)), box[None]).all()


@pytest.mark.parametrize("name", ["ends.npy", "boxes.npy", "labels.npy", "points.bin", "features.txt"])
def test_damaged_bases_are_told(scenes: Path, tmp_path: Path, name: str) -> None:
    with_pasting(scenes, tmp_path / "base")
    path = tmp_path / "base" / name
    content = path.read_bytes()
    for damaged in (b"", content[:-8] if name != "features.txt" else b"four", b"\x80\x04" + content):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match="no sound base of objects"):
            with_pasting(scenes, tmp_path / "base")
    path.unlink()
    with pytest.raises(DatasetError, match="no sound base of objects"):
        read_objects(tmp_path / "base", 3)


def test_objects_that_a_pickle_would_make_are_never_loaded(scenes: Path, tmp_path: Path) -> None:
    with_pasting(scenes, tmp_path / "base")
    np.save(tmp_path / "base/labels.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(DatasetError, match="no sound base of objects"):
        read_objects(tmp_path / "base", 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"counts": {"Unicorn": 3}}, "pasting.counts.*must name classes among Car"),
        ({"counts": {"Car": -1}}, r"pasting\.counts\.Car must be a whole number from 0"),
        ({"least_points": {"Car": 0}}, r"pasting\.least_points\.Car"),
        ({"number": 3}, "pasting=.*number"),
        ({"least_points": {"Car": 9999, "Pedestrian": 9999, "Cyclist": 9999}}, "no object with points to paste"),
    ],
)
def test_odd_settings_of_pasting_are_named(scenes: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        with_pasting(scenes, tmp_path / "base", **options)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("Car 0.15 0 0 0 0 50 39.0 1.5 1.6 4 0 1.7 20 0", 0),
        ("Car 0.15 0 0 0 0 50 38.9 1.5 1.6 4 0 1.7 20 0", 1),
        ("Car 0.3 1 0 0 0 50 24.0 1.5 1.6 4 0 1.7 20 0", 1),
        ("Car 0.5 2 0 0 0 50 24.0 1.5 1.6 4 0 1.7 20 0", 2),
        ("Car 0.51 2 0 0 0 50 90 1.5 1.6 4 0 1.7 20 0", -1),
        ("Car 0 3 0 0 0 50 90 1.5 1.6 4 0 1.7 20 0", -1),
        ("Car 0 0 0 0 0 50 23.9 1.5 1.6 4 0 1.7 20 0", -1),
    ],
)
def test_difficulties_have_kittis_limits(line: str, level: int) -> None:
    assert difficulty(parse_label(line)) == level


def test_planes_are_read_normalised_and_turned_upwards(copied: Path) -> None:
    path = copied / "training/planes/000000.txt"
    path.parent.mkdir()
    path.write_text("# Plane\nWidth 4\nHeight 1\n0.0 2.0 0.0 -3.4\n")
    assert read_plane(path).tolist() == [0, -1, 0, 1.7]
    data = KittiFrames(copied, split="train")
    ground = data.ground(0)
    assert ground is not None
    assert ground.height(np.array([[10.0, 0, 3]])) == pytest.approx(-1.7 - 0.08)
    assert data.ground(1) is None
    for text in ("# Plane\n", "a\nb\nc\n0 nan 0 1\n", "a\nb\nc\n1 0 0 1\n", "a\nb\nc\n0 -1 0\n"):
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"files of planes/ that cannot be read: '000000'"):
            KittiFrames(copied, split="train")


def test_labels_are_read_again_only_when_their_file_has_changed(copied: Path, monkeypatch: Any) -> None:
    first = KittiFrames(copied, split="train")
    opened: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read_bytes(path))  # type: ignore[func-returns-value]
    again = KittiFrames(copied, split="train")
    assert again.frames == first.frames or [x.labels for x in again.frames] == [x.labels for x in first.frames]
    assert opened == []
    path = copied / "training/label_2/000001.txt"
    path.write_text(path.read_text() + path.read_text())
    changed = KittiFrames(copied, split="train")
    assert opened == ["000001.txt"]
    assert len(changed.frames[1].labels) == 2 * len(first.frames[1].labels)
