"""tools/predict.py with checkpoints of detectors and segmentation models."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.engine.shapes import DETECTOR, SEGMENTOR
from tests.tools.test_predict import predict
from visionssm.engine.checkpoint import save_checkpoint
from visionssm.prediction import Detector, Segmenter, load_classifier, load_predictor, predict_files
from visionssm.tasks.detection.model import TorchvisionDetector
from visionssm.tasks.segmentation.model import TorchvisionSegmentor

NAMES = ["circle", "square", "triangle", "cross"]


def save(model: Any, classes: list[str], path: Path) -> Path:
    meta = model.checkpoint_meta(None, None)
    save_checkpoint({"meta": {"visionssm": {**meta, "classes": classes}}, "state_dict": model.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = TorchvisionDetector("MaskRCNN", **DETECTOR)
    return save(model, NAMES, tmp_path_factory.mktemp("detector") / "best.pth")


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = TorchvisionSegmentor(**SEGMENTOR)
    return save(model, ["background", *NAMES], tmp_path_factory.mktemp("segmentor") / "best.pth")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two images of different sizes and a file that is none."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "wide.png", tmp_path / "tall.png", tmp_path / "broken.png"]
    for path, size in zip(paths, [(32, 48, 3), (40, 32, 3)], strict=False):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    paths[2].write_bytes(b"nothing")
    return paths


def test_objects_are_listed_written_and_drawn(
    detector: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pictures = tmp_path / "out.json", tmp_path / "pictures"
    options = ["--threshold", "0.01", "--out", str(out), "--pictures", str(pictures)]
    assert predict([str(detector), *map(str, images), *options]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["file", "class", "score", "left", "top", "right", "bottom"]
    assert "broken.png" in printed.err
    found = json.loads(out.read_text())["predictions"]
    assert [Path(entry["file"]).name for entry in found] == ["wide.png", "tall.png"]
    objects = [thing for entry in found for thing in entry["objects"]]
    assert objects, "a threshold of 0.01 lets the guesses of an untrained model through"
    for thing in objects:
        assert thing["class"] in NAMES
        assert thing["score"] >= 0.01
        assert len(thing["box"]) == 4
        assert thing["pixels"] >= 0
    drawn = sorted(path.name for path in pictures.iterdir())
    assert drawn == ["0000_wide.png", "0001_tall.png"]
    with Image.open(pictures / drawn[0]) as picture:
        assert picture.size == (48 * 6, 32 * 6)


def test_detections_are_those_of_the_model(detector: Path, images: list[Path]) -> None:
    predictor = load_predictor(detector, threshold=0.01)
    assert isinstance(predictor, Detector)
    result: Any = predict_files(predictor, images[:1]).read[0].result
    with Image.open(images[0]) as image, torch.no_grad():
        tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        (expected,) = predictor.model([tensor])
    certain = expected["scores"] >= 0.01
    np.testing.assert_allclose(result.boxes, expected["boxes"][certain], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result.numbers + 1, expected["labels"][certain])
    nothing: Any = predict_files(load_predictor(detector, threshold=1.0), images[:1]).read[0].result
    assert nothing.rows() == []


def test_shares_of_pixels_are_listed_and_classes_drawn(
    segmentor: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, pictures = tmp_path / "out.csv", tmp_path / "pictures"
    assert predict([str(segmentor), *map(str, images), "--out", str(out), "--pictures", str(pictures)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["file", "class", "share"]
    with out.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["error"]]
    for name in ("wide.png", "tall.png"):
        shares = [float(row["share"]) for row in rows if Path(row["file"]).name == name]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
        assert shares == sorted(shares, reverse=True)
    with Image.open(pictures / "0001_tall.png") as picture:
        assert picture.width == 32 * 7
        assert picture.height > 40 * 7, "a legend below it"


def test_classes_of_pixels_are_those_of_the_model(segmentor: Path, images: list[Path]) -> None:
    predictor = load_predictor(segmentor)
    assert isinstance(predictor, Segmenter)
    result: Any = predict_files(predictor, images[:2]).read[1].result
    with Image.open(images[1]) as image, torch.no_grad():
        tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        expected = predictor.model(tensor[None])[0].argmax(0)
    np.testing.assert_array_equal(result.numbers, expected)


def test_terminal_is_told_how_many_files_are_done(
    segmentor: Path, images: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [str(segmentor), *map(str, images), "--batch-size", "1"]
    assert predict(command) == 0
    assert "of 3 files" not in capsys.readouterr().err.replace("1 of 3 files could not be read", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert predict(command) == 0
    told = capsys.readouterr().err
    assert told.index("1 of 3 files ") < told.index("2 of 3 files ") < told.index("could not be read")


def test_missing_packages_are_named_with_their_extra(
    detector: Path, images: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "visionssm.tasks.detection.predictor")
    monkeypatch.setitem(sys.modules, "visionssm.engine.description", None)
    assert predict([str(detector), str(images[0])]) == 2
    assert "'detection' needs visionssm.engine" in (told := capsys.readouterr().err)
    assert "pip install 'visionssm[train]'" in told


def test_options_of_another_task_are_refused(
    detector: Path, segmentor: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([str(segmentor), str(images[0]), "--threshold", "0.3"]) == 2
    assert "threshold does not apply here: a Segmenter has no such option" in capsys.readouterr().err
    assert predict([str(detector), str(images[0]), "--top-k", "3"]) == 2
    assert "top_k does not apply here" in capsys.readouterr().err
    with pytest.raises(ValueError, match="masks does not apply here: a Detector gives no label images"):
        predict_files(load_predictor(detector), images[:1], masks=detector.parent)
    with pytest.raises(ValueError, match="is of the task 'detection'"):
        load_classifier(detector)


def test_unknown_tasks_and_unfitting_weights_are_refused(tmp_path: Path, detector: Path) -> None:
    content = torch.load(detector, weights_only=True)
    content["meta"]["visionssm"]["task"] = "flying"
    save_checkpoint(content, tmp_path / "flying.pth")
    with pytest.raises(ValueError, match=r"task 'flying'; image files go with classification, detection, segm"):
        load_predictor(tmp_path / "flying.pth")
    content["meta"]["visionssm"]["task"] = "detection"
    content["state_dict"].popitem()
    save_checkpoint(content, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="1 missing in the checkpoint"):
        load_predictor(tmp_path / "short.pth")
