"""The export command takes what training wrote, and says what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import visionssm
from tests.tools.test_predict import command
from tests.tools.test_predict_dense import NAMES, save
from visionssm.engine.checkpoint import save_checkpoint
from visionssm.prediction import load_predictor
from visionssm.tasks.detection.model import TorchvisionDetector
from visionssm.tasks.segmentation.model import TorchvisionSegmentor
from visionssm.tasks.video.model import NextFramePredictor

CHANNELS, SIDE, CLASSES = 1, 32, 10
BACKBONE = "test_resnet"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """As training writes it: of grey images that are smaller than those the registered variant is for."""
    model = timm.create_model("vmamba_nano_test", in_chans=CHANNELS, num_classes=CLASSES)
    given = {"name": "vmamba_nano_test", "in_chans": CHANNELS, "num_classes": CLASSES}
    size = {"size": [CHANNELS, SIDE, SIDE], "mean": [0.5], "std": [0.5]}
    about = {"task": "classification", "model": given, "classes": [str(i) for i in range(CLASSES)], "input": size}
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"visionssm": about}}, tmp_path / "best.pth")
    return tmp_path / "best.pth"


@pytest.mark.slow  # in tests/integrations/test_export.py this model has open sizes, below another one
def test_trained_checkpoint_becomes_an_archive_for_images_of_its_channels_and_any_size(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "best.pt2"
    assert command("export")([str(checkpoint), "--format", "pt2", "--dynamic", "--out", str(out)]) == 0
    program = torch.export.load(out).module()
    assert program(torch.randn(3, CHANNELS, 96, 160)).shape == (3, CLASSES)
    assert program(torch.randn(2, CHANNELS, 64, 64)).shape == (2, CLASSES)


def test_fixed_size_is_that_of_the_training(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "best.pt2"
    assert command("export")([str(checkpoint), "--format", "pt2", "--out", str(out)]) == 0
    assert torch.export.load(out).module()(torch.randn(1, CHANNELS, SIDE, SIDE)).shape == (1, CLASSES)
    _, about = _about(out)
    assert [json.loads(about[key]) for key in ("input_size", "mean", "std")] == [[CHANNELS, SIDE, SIDE], [0.5], [0.5]]
    assert json.loads(about["classes"]) == {str(i): str(i) for i in range(CLASSES)}
    assert about["producer"] == f"visionssm {visionssm.__version__}"
    assert "license" not in about, "the weights are nobody's published ones"


def test_unknown_source_is_an_error_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("export")(["no_such_model"]) == 2
    assert "no_such_model" in capsys.readouterr().err


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = TorchvisionDetector("FasterRCNN", BACKBONE, 4, (64, 96), channels=16, anchor_sizes=(8, 16, 32, 64, 128))
    return save(model, NAMES, tmp_path_factory.mktemp("detector") / "best.pth")


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = TorchvisionSegmentor(BACKBONE, 5, head="fcn", channels=16)
    return save(model, ["background", *NAMES], tmp_path_factory.mktemp("segmentor") / "best.pth")


def _about(file: Path) -> Any:
    content = {"about.json": ""}
    program = torch.export.load(file, extra_files=content)
    return program.module(), json.loads(content["about.json"])


def test_checkpoint_of_a_detector_becomes_image_to_objects(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "detector.pt2"
    assert command("export")([str(detector), "--format", "pt2", "--out", str(out), "--size", "48", "64"]) == 0
    assert "input (1, 3, 48, 64); largest difference to eager" in capsys.readouterr().out
    run, about = _about(out)
    boxes, scores, labels = run(torch.rand(1, 3, 48, 64))
    assert boxes.shape == (len(scores), 4)
    assert json.loads(about["classes"]) == {str(number): name for number, name in enumerate(NAMES, start=1)}
    assert {str(label) for label in labels.tolist()} <= set(json.loads(about["classes"]))


def test_checkpoint_of_a_segmentor_becomes_images_to_classes_at_any_size(
    segmentor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "segmentor.pt2"
    assert (
        command("export")([str(segmentor), "--format", "pt2", "--dynamic", "--out", str(out), "--size", "48", "64"])
        == 0
    )
    assert "any batch, height, width; largest difference" in capsys.readouterr().out
    run, about = _about(out)
    assert run(torch.rand(3, 3, 51, 70)).shape == (3, 51, 70)
    assert json.loads(about["classes"])["0"] == "background"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = NextFramePredictor("convs5_nano", context=3)
    path = tmp_path_factory.mktemp("video") / "best.pth"
    meta = {"visionssm": model.checkpoint_meta(None, None)}
    save_checkpoint({"meta": meta, "state_dict": model.state_dict()}, path)
    return path


def test_checkpoint_of_a_video_model_becomes_frames_to_the_frame_after_each(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "video.pt2"
    assert command("export")([str(video), "--format", "pt2", "--out", str(out), "--size", "16", "8"]) == 0
    run, about = _about(out)
    frames = torch.rand(1, 3, 16, 8, 1) * 2 - 1
    predicted = run(frames)
    assert predicted.shape == frames.shape
    assert about["context"] == "3"
    model = load_predictor(video).model
    with torch.no_grad():
        torch.testing.assert_close(predicted[:, -1:], model.generate(frames, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onnx"], "its states are complex numbers, which ONNX has not; --format pt2 can hold it"),
        (["--format", "pt2", "--dynamic"], "no size of this model's input can be left open"),
    ],
)
def test_what_a_video_model_cannot_is_said(
    options: list[str], message: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export")([str(video), *options, "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_detector_takes_one_image_at_a_time(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("export")([str(detector), "--batch-size", "2", "--out", str(tmp_path / "x.onnx")]) == 2
    assert "--batch-size 2: this network takes one image at a time" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--size", "0", "64"], ["--batch-size", "0"]])
def test_sizes_below_one_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command("export")(["vmamba_nano_test", *option])
    assert f"{option[0]} must be at least 1, got 0" in capsys.readouterr().err
