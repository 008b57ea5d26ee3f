"""Detection in point clouds from the training to the tools, on a few rendered scenes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_config
from visionssm.cli import predict, test, train, visualize
from visionssm.data.errors import UnreadableFileError
from visionssm.drawing import class_colour
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import CheckpointError
from visionssm.engine.task import Source
from visionssm.pointcloud.variants import create_detector
from visionssm.prediction import load_predictor
from visionssm.tasks.pointcloud.groups import KEPT, MADE
from visionssm.tasks.pointcloud.kitti import IMAGE_SIZE, read_labels, read_points, write_calibration, write_sweep
from visionssm.tasks.pointcloud.model import PointCloudDetector
from visionssm.tasks.pointcloud.predictor import SweepDetector
from visionssm.tasks.pointcloud.scenes import CALIBRATION, Scenes, ScenesSpec, render

SPEC = {"train": 4, "val": 2, "test": 1, "columns": 120}
SMALL = {
    "dim": 8,
    "voxel_size": (0.8, 0.8, 0.5),
    "backbone": {"windows": ((5, 5, 8), (5, 5, 4)), "group_sizes": (64, 32)},
    "bev": {"layers": (0, 0), "channels": (8, 8), "up_channels": (8, 8)},
}
ROOT = Path(__file__).parents[3]
CONFIG = shipped_config("lion_mamba_nano_scenes")


EPOCHS = ["--cfg-options", "train_cfg.max_epochs=2", "train_cfg.val_interval=1"]


def write_config(folder: Path, shipped: str = "lion_mamba_nano_scenes") -> Path:
    """The shipped one on a few scenes and with a smaller network."""
    small = f"model = dict(name={shipped.removesuffix('_scenes')!r}, changes={SMALL!r})"
    lines = [f"_base_ = {str(shipped_config(shipped))!r}", small]
    for part in ("train", "val", "test"):
        lines.append(f"{part}_dataloader = dict(dataset=dict(root={str(folder.parent)!r}, spec={SPEC!r}))")
    path = folder / "config.py"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished training."""
    folder = tmp_path_factory.mktemp("pointcloud") / "run"
    folder.mkdir()
    assert train.main([str(write_config(folder)), "--work-dir", str(folder), *EPOCHS]) == 0
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    """A checkpoint of the run, whose detector finds something everywhere: its scores are raised."""
    checkpoint = torch.load(run / "best.pth", weights_only=True)
    checkpoint["state_dict"]["model.dense_head.conv_cls.bias"] += 4
    return checkpoint


@pytest.fixture(scope="module")
def keen(run: Path, found: dict[str, Any]) -> Path:
    path = run / "keen.pth"
    torch.save(found, path)
    return path


def test_published_config_fits_its_data(tmp_path: Path) -> None:
    cfg = load_config(CONFIG)
    check_config(cfg)
    dataset = dict(cfg.train_dataloader.dataset)
    dataset.pop("type")
    data = Scenes(**{**dataset, "root": str(tmp_path), "spec": SPEC})
    model = PointCloudDetector(**{key: x for key, x in cfg.model.items() if key != "type"})
    assert model.checkpoint_meta(data, None)["classes"] == ["Car", "Pedestrian", "Cyclist"]
    assert tuple(model.model.grid.point_range) == tuple(dataset["point_range"])


def test_training_writes_pictures_curves_and_a_checkpoint_that_describes_itself(run: Path) -> None:
    about = torch.load(run / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert about["task"] == "pointcloud"
    assert about["model"]["name"] == "lion_mamba_nano"
    for name in ("predictions.png", "learning_curves.png", "precision_recall.png"):
        with Image.open(run / name) as image:
            assert np.asarray(image.convert("L")).min() < 128


def test_evaluation_writes_kittis_files_a_table_and_pictures(
    run: Path, keen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run / "config.py"), str(keen), "--work-dir", str(tmp_path)]
    options = ["--out", str(tmp_path / "found"), "--pictures", str(tmp_path / "pictures")]
    assert test.main([*arguments, *options]) == 0
    assert "car_bev_50" in capsys.readouterr().out
    labels = read_labels(tmp_path / "found" / "200000.txt")
    assert labels
    assert all(0 <= label.score <= 1 for label in labels if label.score is not None)
    with (tmp_path / "found" / "scores.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 3 * 6
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1
    assert test.main([*arguments, "--out", str(tmp_path / "found.json")]) == 0
    (frame,) = json.loads((tmp_path / "found.json").read_text())
    assert frame["sample"] == "200000"
    assert len(frame["objects"]) == len(labels)


def test_resumed_training_ends_with_the_same_weights(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    shutil.copy(run / "epoch_1.pth", folder)
    (folder / "last_checkpoint").write_text(str(folder / "epoch_1.pth"))
    assert train.main([str(run / "config.py"), "--work-dir", str(folder), "--resume", *EPOCHS]) == 0
    first, second = (torch.load(x / "epoch_2.pth", weights_only=True)["state_dict"] for x in (run, folder))
    assert first.keys() == second.keys()
    assert all(torch.equal(x, second[key]) for key, x in first.items())


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_weights_when_it_is_resumed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "tools/train.py"), str(run / "config.py"), "--work-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, *EPOCHS], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 240
        while not (folder / "last_checkpoint").exists() and time.monotonic() < end and process.poll() is None:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert (folder / "epoch_1.pth").exists()
    (folder / "epoch_2.pth").unlink(missing_ok=True)
    (folder / "last_checkpoint").write_text(str(folder / "epoch_1.pth"))
    assert train.main([str(run / "config.py"), "--work-dir", str(folder), "--resume", *EPOCHS]) == 0
    first, second = (torch.load(x / "epoch_2.pth", weights_only=True)["state_dict"] for x in (run, folder))
    assert all(torch.equal(x, second[key]) for key, x in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["retnet", "rwkv", "ttt", "xlstm"])
def test_every_operator_trains_by_its_shipped_config(operator: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = write_config(folder, f"lion_{operator}_nano_scenes")
    assert train.main([str(config), "--work-dir", str(folder), *EPOCHS]) == 0
    state = torch.load(folder / "epoch_2.pth", weights_only=True)["state_dict"]
    start = torch.load(folder / "epoch_1.pth", weights_only=True)["state_dict"]
    still = [key for key, x in state.items() if x.is_floating_point() and torch.equal(x, start[key])]
    assert not [key for key in still if "backbone_3d" in key or "dense_head" in key]
    assert load_predictor(folder / "best.pth").model.backbone_3d.dim == SMALL["dim"]  # type: ignore[attr-defined]


@pytest.fixture
def sweeps(tmp_path: Path) -> Path:
    """A folder with two sweeps and a file that is none."""
    folder = tmp_path / "sweeps"
    folder.mkdir()
    for index in range(2):
        write_sweep(folder / f"{index}.bin", render(ScenesSpec(columns=120), "test", index).points)
    (folder / "odd.bin").write_bytes(b"\0" * 21)
    return folder


def test_prediction_gives_boxes_pictures_and_kittis_files(keen: Path, sweeps: Path, tmp_path: Path) -> None:
    write_calibration(tmp_path / "calib.txt", CALIBRATION)
    Image.new("RGB", IMAGE_SIZE, (90, 90, 90)).save(tmp_path / "image.png")
    out, pictures = tmp_path / "boxes.json", tmp_path / "pictures"
    camera = ["--calib", str(tmp_path / "calib.txt"), "--image", str(tmp_path / "image.png")]
    options = ["--out", str(out), "--pictures", str(pictures), "--threshold", "0.2"]
    assert predict.main([str(keen), str(sweeps), *camera, *options]) == 0
    result = json.loads(out.read_text())
    assert [len(x["box"]) for entry in result["predictions"] for x in entry["objects"]].count(7) > 0
    assert "21 bytes are no multiple of 16" in result["unreadable"][0]["reason"]
    written = {path.name for path in pictures.iterdir()}
    assert written == {f"000{i}_{i}{end}" for i in range(2) for end in (".png", ".txt", "_image.png")}
    assert len(read_labels(pictures / "0000_0.txt")) == len(result["predictions"][0]["objects"])
    with Image.open(pictures / "0000_0_image.png") as image:
        assert image.size == IMAGE_SIZE
        assert len(np.unique(np.asarray(image))) > 1


def test_points_that_the_camera_does_not_see_are_left_out(keen: Path, tmp_path: Path) -> None:
    write_calibration(tmp_path / "calib.txt", CALIBRATION)
    points = render(ScenesSpec(columns=120), "test", 0).points
    beside = np.concatenate([points, points * np.array([1, 0, 1, 1]) + np.array([0, 18, 0, 0])]).astype(np.float32)
    predictor = load_predictor(keen, calib=tmp_path / "calib.txt")
    seen, alone = predictor([beside[CALIBRATION.sees(beside, IMAGE_SIZE)], beside])
    np.testing.assert_allclose(seen.boxes, alone.boxes, atol=1e-4)  # type: ignore[attr-defined]


def test_empty_sweeps_give_empty_results(keen: Path, sweeps: Path, tmp_path: Path) -> None:
    write_sweep(tmp_path / "empty.bin", np.zeros((0, 4)))
    write_sweep(tmp_path / "far.bin", np.full((9, 4), 900.0))
    predictor = load_predictor(keen, threshold=0.99)
    results = predictor([predictor.read(tmp_path / name) for name in ("empty.bin", "far.bin")])
    assert [result.rows() for result in results] == [[], []]
    assert results[0].plain() == {"objects": []}


def test_camera_files_that_are_missing_or_do_not_fit_are_told_first(
    keen: Path, sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(keen), str(sweeps), "--image", str(tmp_path / "image.png")]) == 2
    assert "image needs calib" in capsys.readouterr().err
    with pytest.raises(UnreadableFileError, match=r"absent\.txt"):
        load_predictor(keen, calib=tmp_path / "absent.txt")
    assert predict.main([str(keen), str(sweeps), "--calib", str(tmp_path / "absent.txt")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(621, 188), (5, 4), (2484, 750)])
def test_pictures_of_another_size_than_the_cameras_are_refused(
    keen: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    write_calibration(tmp_path / "calib.txt", CALIBRATION)
    Image.new("RGB", size).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=rf"has {size[0]}×{size[1]} pixels, but the camera's axis .* \(610, 173\)"):
        load_predictor(keen, calib=tmp_path / "calib.txt", image=tmp_path / "image.png")


def test_descriptions_that_ask_for_more_than_a_network_are_refused(found: dict[str, Any], tmp_path: Path) -> None:
    for changes, words in (
        ({"pretrained": "weights.pth"}, "pretrained"),
        ({**SMALL, "voxel_size": (1e-3, 1e-3, 0.5)}, "seen from above"),
        ({**SMALL, "backbone": {**SMALL["backbone"], "group_sizes": (10**7, 32)}}, "group_size=10000000"),  # type: ignore[dict-item]
    ):
        found["meta"]["visionssm"]["model"]["changes"] = changes
        torch.save(found, tmp_path / "file.pth")
        with pytest.raises(CheckpointError, match=words):
            load_predictor(tmp_path / "file.pth")


def test_groups_of_voxels_are_drawn_for_checkpoints_and_names(
    keen: Path, sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (str(keen), "lion_retnet_nano"):
        out = tmp_path / "groups.png"
        assert visualize.main(["groups", str(sweeps / "0.bin"), "--model", model, "--out", str(out)]) == 0
        with Image.open(out) as image:
            colours = {tuple(x) for x in np.asarray(image.convert("RGB")).reshape(-1, 3)}
        assert {class_colour(0), KEPT, MADE} <= colours
    for arguments, words in (
        ([str(sweeps / "odd.bin")], "no multiple of 16"),
        ([str(sweeps / "0.bin"), "--model", "lion_lstm_nano"], "detector 'lion_lstm_nano' is unknown"),
    ):
        assert visualize.main(["groups", *arguments]) == 2
        assert words in capsys.readouterr().err
    write_sweep(tmp_path / "far.bin", np.full((9, 4), 900.0))
    assert visualize.main(["groups", str(tmp_path / "far.bin")]) == 2
    assert "no point is within the detector's range" in capsys.readouterr().err


def test_velocities_are_columns_of_tables_and_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = {"kind": "transfusion", "small": (), "queries": 9}
    detector = create_detector("lion_mamba_nano", **{**SMALL, "point_features": 5, "head": head}).eval()  # type: ignore[arg-type]
    predictor = SweepDetector(detector, detector.classes, threshold=0.0)
    assert predictor.columns[-3:] == ("heading", "vx", "vy")
    points = np.random.default_rng(0).uniform(size=(200, 5)).astype("<f4") * np.array([30, 9, 2, 1, 1], "<f4")
    (tmp_path / "sweep.bin").write_bytes(points.tobytes())
    (result,) = predictor([predictor.read(tmp_path / "sweep.bin")])
    assert len(result.boxes)
    assert {len(row) for row in result.rows()} == {len(predictor.columns)}
    assert {len(found["box"]) for found in result.plain()["objects"]} == {9}
    result.save(tmp_path, Source("shown", predictor.read(tmp_path / "sweep.bin")))
    assert (tmp_path / "shown.png").exists()


def test_sweeps_have_as_many_numbers_as_the_model_takes_and_nuscenes_files_the_age_for_the_laser(
    tmp_path: Path,
) -> None:
    points = np.arange(20, dtype="<f4").reshape(4, 5)
    (tmp_path / "sweep.bin").write_bytes(points.tobytes())
    (tmp_path / "sweep.pcd.bin").write_bytes(points.tobytes())
    np.testing.assert_array_equal(read_points(tmp_path / "sweep.bin", 5), points)
    aged = np.concatenate([points[:, :4], np.zeros((4, 1), np.float32)], 1)
    np.testing.assert_array_equal(read_points(tmp_path / "sweep.pcd.bin", 5), aged)
    np.testing.assert_array_equal(read_points(tmp_path / "sweep.pcd.bin", 4), points[:, :4])
    with pytest.raises(UnreadableFileError, match="it has 5 numbers per point, the model takes 6"):
        read_points(tmp_path / "sweep.pcd.bin", 6)
    with pytest.raises(UnreadableFileError, match=r"no multiple of 24.*x, y, z, intensity, number 5, number 6"):
        read_points(tmp_path / "sweep.bin", 6)
