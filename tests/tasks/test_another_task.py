"""A task that was added without a change outside its folder: `tests.tasks.points`, whose samples are no images."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.children import environment
from visionssm.cli import predict, test, train

ROOT = Path(__file__).parents[2]
CONFIG = """
custom_imports = dict(imports=["tests.tasks.points"])
model = dict(type="PointClassifier", width=16, num_classes=2)
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(type="PointClouds", split="train"),
                        sampler=dict(type="DefaultSampler", shuffle=True))
val_dataloader = dict(batch_size=5, num_workers=0, dataset=dict(type="PointClouds", split="val"),
                      sampler=dict(type="DefaultSampler", shuffle=False))
val_evaluator = dict(type="PointMetric")
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=10)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-2))
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook", interval=30, save_best="accuracy"))
custom_hooks = [dict(type="PredictionPicturesHook"), dict(type="FiguresHook", metrics=("accuracy",))]
randomness = dict(seed=0)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished training."""
    folder = tmp_path_factory.mktemp("points")
    (folder / "points.py").write_text(CONFIG)
    assert train.main([str(folder / "points.py"), "--work-dir", str(folder)]) == 0
    return folder


def test_training_writes_a_checkpoint_that_names_its_task(run: Path) -> None:
    checkpoint = torch.load(run / "best.pth", weights_only=True)
    about = {"task": "points", "model": {"width": 16, "num_classes": 2}, "classes": ["sphere", "cube"]}
    assert checkpoint["meta"]["visionssm"] == about
    assert checkpoint["meta"]["metrics"]["accuracy"] == 1.0


def test_evaluation_writes_a_table_and_pictures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(tmp_path / "found.csv"), "--pictures", str(tmp_path / "pictures")]
    assert test.main([str(run / "points.py"), str(run / "best.pth"), "--work-dir", str(tmp_path), *options]) == 0
    assert "accuracy: 1.0000" in capsys.readouterr().out
    with (tmp_path / "found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["sample"]: row["class"] for row in rows} == {f"val{i}": ("sphere", "cube")[i % 2] for i in range(16)}
    assert len(list((tmp_path / "pictures").glob("val*.png"))) == 16


def test_prediction_as_a_command_reads_what_the_task_reads(run: Path, tmp_path: Path) -> None:
    from tests.tasks.points.data import cloud

    for name, label in (("ball", 0), ("box", 1)):
        np.save(tmp_path / f"{name}.npy", cloud(label, seed=77))
    (tmp_path / "note.npy").write_text("no points")
    files = [str(tmp_path / f"{name}.npy") for name in ("ball", "box", "note")]
    out, pictures = tmp_path / "found.json", tmp_path / "pictures"
    command = [
        sys.executable,
        ROOT / "tools/predict.py",
        run / "best.pth",
        *files,
        "--out",
        out,
        "--pictures",
        pictures,
    ]
    command_and_task = [*command, "--import", "tests.tasks.points"]
    done = subprocess.run(command_and_task, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert [entry["class"] for entry in found["predictions"]] == ["sphere", "cube"]
    assert "no point cloud" in found["unreadable"][0]["reason"]
    with Image.open(pictures / "0000_ball.png") as image:
        assert np.asarray(image).any()
    unknown = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "is of the task 'points'" in unknown.stderr


def test_results_in_another_form_are_refused_before_the_test(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run / "points.py"), str(run / "best.pth"), "--work-dir", str(tmp_path)]
    assert test.main([*arguments, "--out", str(tmp_path / "found.json")]) == 1
    assert "--out must be a .csv file for a PointMetric" in capsys.readouterr().err
    assert predict.main([str(run / "best.pth"), str(run), "--masks", str(tmp_path / "masks")]) == 2
    assert "masks does not apply here: a PointPredictor gives no label images" in capsys.readouterr().err
