"""Converted nuScenes, Waymo, Argoverse 2 and ONCE: what is read, and that nothing in an info file can do more."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tasks.pointcloud.converted import FILES, NAMES, SPEC, converted, scene_of
from visionssm.data.errors import DatasetError
from visionssm.pointcloud.boxes import inside
from visionssm.tasks.pointcloud.infos import SOURCES, InfoFrames
from visionssm.tasks.pointcloud.metric import KittiMetric


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {source: converted(tmp_path_factory.mktemp(source), source) for source in SOURCES}


def opened(root: Path, source: str, split: str = "train", **options: Any) -> InfoFrames:
    classes = list(NAMES[source].values())
    return InfoFrames(root, **{"infos": FILES[source].format(split), "source": source, "classes": classes, **options})


@pytest.mark.parametrize("source", SOURCES)
def test_points_and_boxes_are_those_of_the_converted_set(sets: dict[str, Path], source: str) -> None:
    data = opened(sets[source], source)
    data.for_evaluation()
    assert len(data) == SPEC.train
    for index in range(len(data)):
        points, boxes, names = scene_of(source, "train", index)
        sample = data[index]
        skipped = 5 if source == "waymo" else 0
        assert len(sample["inputs"]) == len(points) - skipped
        np.testing.assert_allclose(sample["inputs"][:, :3], points[skipped:, :3], atol=1e-6)
        np.testing.assert_allclose(sample["boxes"][:, :7], boxes, atol=1e-5)
        assert [data.classes[i] for i in sample["labels"]] == names.tolist()
        assert (inside(sample["inputs"], sample["boxes"][:, :7]).sum(0) > 0).float().mean() > 0.7


def test_waymos_intensity_and_elongation_are_squashed(sets: dict[str, Path]) -> None:
    points = opened(sets["waymo"], "waymo").cloud(0).points
    assert points.shape[1] == 5
    np.testing.assert_allclose(points[:, 3], np.tanh(scene_of("waymo", "train", 0)[0][5:, 3]), rtol=1e-6)
    np.testing.assert_allclose(points[:, 4], np.tanh(0.5), rtol=1e-6)


def test_earlier_sweeps_are_moved_and_told_by_their_age(sets: dict[str, Path]) -> None:
    single = opened(sets["nuscenes"], "nuscenes").cloud(0)
    cloud = opened(sets["nuscenes"], "nuscenes", sweeps=3).cloud(0)
    assert cloud.boxes.shape[1] == 9
    assert (cloud.boxes[:, 7:] == 0).all(), "velocities that are not known"
    assert set(single.points[:, 4]) == {0.0}
    ages, counts = np.unique(cloud.points[:, 4], return_counts=True)
    np.testing.assert_allclose(ages, [0, 0.05])
    earlier = cloud.points[cloud.points[:, 4] > 0]
    far = single.points[(np.abs(single.points[:, :2]) >= 1).any(1)]
    assert counts[1] == 2 * len(far)
    np.testing.assert_allclose(earlier[: len(far), :3], far[:, :3] + [0.5, 0, 0], atol=1e-5)


def test_json_says_the_same_as_a_pickle(sets: dict[str, Path]) -> None:
    root = sets["once"]
    infos = pickle.loads((root / "once_infos_train.pkl").read_bytes())
    (root / "a.json").write_text(json.dumps(infos, default=lambda x: x.tolist()))
    one, other = opened(root, "once"), opened(root, "once", infos="a.json")
    assert [x.name for x in one.frames] == [x.name for x in other.frames]
    np.testing.assert_array_equal(one.frames[1].boxes, other.frames[1].boxes)


def test_frames_are_measured_without_a_camera_behind_the_sensor_too(sets: dict[str, Path]) -> None:
    data = opened(sets["waymo"], "waymo")
    data.for_evaluation()
    metric = KittiMetric(least_points=1)
    metric.dataset_meta = data.metainfo
    rows = []
    for index in range(len(data)):
        sample = data[index]
        turn = np.array([-1, -1, 1, 1, 1, 1, 1.0])  # to the other side of the sensor
        boxes = sample["boxes"].numpy() * turn
        points = sample["inputs"].numpy() * np.array([-1, -1, 1, 1, 1])
        info = data.frames[index]
        object.__setattr__(info, "boxes", info.boxes * turn)
        frame = data[index]["frame"]
        rows.append({"index": index, "frame": frame, "boxes": boxes, "points": points, "labels": sample["labels"].numpy(), "scores": np.linspace(0.9, 0.5, len(boxes))})  # fmt: skip  # noqa: E501
    metric.process(None, rows)
    figures = metric.compute_metrics(metric.results)
    assert figures["ap_3d"] == figures["vehicle_3d_70"] == pytest.approx(1)


def test_objects_without_points_are_not_trained_on(tmp_path: Path) -> None:
    root = converted(tmp_path, "once")
    infos = pickle.loads((root / "once_infos_train.pkl").read_bytes())
    infos[0]["annos"]["num_points_in_gt"][0] = 0
    infos.append({"sequence_id": "x", "frame_id": "unlabelled"})
    (root / "once_infos_train.pkl").write_bytes(pickle.dumps(infos))
    data = opened(root, "once")
    assert len(data) == SPEC.train
    assert len(data.cloud(0).boxes) == len(data.frames[0].boxes) - 1


def test_objects_are_pasted_into_scenes_of_any_source(sets: dict[str, Path], tmp_path: Path) -> None:
    for source, root in sets.items():
        counts = dict.fromkeys(NAMES[source].values(), 3)
        data = opened(root, source, pasting={"counts": counts, "folder": str(tmp_path / source)})
        torch.manual_seed(0)
        assert sum(len(data[i]["boxes"]) for i in range(3)) > sum(len(data.cloud(i).boxes) for i in range(3))
        assert data[0]["inputs"].shape[1] == data.cloud(0).points.shape[1]


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged, or no info file"),
        (pickle.dumps([_Code()]), "wants to run code, and is refused: posix.system"),
        (pickle.dumps({"a": 1}), "holds no list of frames"),
        (pickle.dumps([1] * 9)[:-3], "damaged, or no info file"),
        (pickle.dumps([{"sequence_id": "a"}]), "no frame with labels"),
        (pickle.dumps([3]), "1 infos that are wrong"),
    ],
)
def test_files_that_are_no_infos_are_told(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "once_infos_train.pkl").write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        opened(tmp_path, "once")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda info: info.update(sequence_id="../../etc"), "the name '../../etc'"),
        (lambda info: info["annos"].update(boxes_3d=info["annos"]["boxes_3d"] * np.nan), "not finite"),
        (lambda info: info["annos"].update(boxes_3d=-np.abs(info["annos"]["boxes_3d"])), "sizes are not positive"),
        (lambda info: info["annos"].update(boxes_3d=np.zeros((2, 5))), r"an array \(2, 5\)"),
        (lambda info: info["annos"].update(name=np.array(["Car"])), "1 names"),
        (lambda info: info["annos"].pop("name"), "without 'name'"),
        (
            lambda info: info["annos"].update(name=np.char.upper(info["annos"]["name"].astype(str))),
            r"frames with classes in another case: number 1 \(CAR \(Car is known\)",
        ),
        (lambda info: info.update(frame_id="77"), "frames without their points: number 1"),
    ],
)
def test_wrong_frames_are_told_or_left_out(tmp_path: Path, change: Any, words: str) -> None:
    root = converted(tmp_path, "once")
    infos = pickle.loads((root / "once_infos_train.pkl").read_bytes())
    change(infos[1])
    (root / "once_infos_train.pkl").write_bytes(pickle.dumps(infos))
    with pytest.raises(DatasetError, match=words):
        opened(root, "once")
    assert len(opened(root, "once", wrong="skip")) == SPEC.train - 1


def test_names_of_files_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    root = converted(tmp_path, "nuscenes")
    infos = pickle.loads((root / FILES["nuscenes"].format("train")).read_bytes())
    for path in ("/etc/hostname", "../a.bin", "a/../../b.bin", "", 3):
        infos[0]["sweeps"][0] = {**infos[0]["sweeps"][0], "lidar_path": path}
        (root / FILES["nuscenes"].format("train")).write_bytes(pickle.dumps(infos))
        with pytest.raises(DatasetError, match="the file name"):
            opened(root, "nuscenes", sweeps=2)


def test_a_missing_set_is_told_with_the_place_and_odd_settings_by_name(sets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"looked for '.*once_infos_train\.pkl'"):
        InfoFrames.check_available(tmp_path, "once_infos_train.pkl", "once")
    with pytest.raises(DatasetError, match="source='lyft' is unknown"):
        InfoFrames(sets["once"], infos="once_infos_train.pkl", source="lyft", classes=["Car"])
    with pytest.raises(DatasetError, match="sweeps=0"):
        opened(sets["once"], "once", sweeps=0)


def test_waymos_points_are_an_array_and_no_pickle(tmp_path: Path) -> None:
    root = converted(tmp_path, "waymo")
    data = opened(root, "waymo")
    path = root / data.frames[0].sweeps[0].path
    for array in (np.array([{}], dtype=object), np.zeros((3, 4), np.float32), np.zeros((3, 6), np.int64)):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(DatasetError, match=r"cannot read .*0000\.npy"):
            data.cloud(0)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DatasetError, match="no array of NumPy"):
        data.cloud(0)


def test_names_of_sequences_lead_nowhere_else(sets: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(sets["waymo"], root)
    (root / "train.txt").write_text("train.tfrecord ../set/train.tfrecord")
    with pytest.raises(DatasetError, match=r"1 names of sequences that are no plain names: \.\./set/train"):
        opened(root, "waymo")
    assert len(opened(root, "waymo", wrong="skip")) == SPEC.train
