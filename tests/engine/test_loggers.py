"""Where the scalars of a training go: a CSV file, MLflow."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest

from tests.engine.tiny import logged, write_config
from visionssm.cli.launch import train
from visionssm.engine.csv_backend import CsvVisBackend

SHORT = {"train_cfg.max_epochs": 1, "train_dataloader.num_batch_per_epoch": 2}


def _visualizer(*backends: str) -> str:
    listed = ", ".join(f"dict(type={name!r})" for name in ("LocalVisBackend", *backends))
    return f"visualizer = dict(type='Visualizer', vis_backends=[{listed}])\n"


def test_csv_has_every_logged_number_with_its_step(tmp_path: Path) -> None:
    train(write_config(tmp_path, _visualizer("CsvVisBackend")), work_dir=tmp_path, options=SHORT)
    (path,) = tmp_path.glob("*/vis_data/scalars.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [(row["step"], float(row["value"])) for row in rows if row["name"] == "loss"]
    assert losses == list(zip(["1", "2"], logged(tmp_path, "loss")))
    assert [float(row["value"]) for row in rows if row["name"] == "top1"] == logged(tmp_path, "top1")


def test_csv_is_gone_on_with_and_holds_numbers_only(tmp_path: Path) -> None:
    for step in (1, 2):
        CsvVisBackend(str(tmp_path)).add_scalars({"loss": 0.5, "note": "text", "step": step})
    assert (tmp_path / "scalars.csv").read_text() == "step,name,value\n1,loss,0.5\n2,loss,0.5\n"


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="MLflow is not installed")
def test_mlflow_has_the_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    train(write_config(tmp_path, _visualizer("MLflowVisBackend")), work_dir=tmp_path, options=SHORT)
    (path,) = tmp_path.glob("*/vis_data/**/metrics/loss")
    assert [float(line.split()[1]) for line in path.read_text().splitlines()] == logged(tmp_path, "loss")
