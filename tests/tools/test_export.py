"""The export command takes what training wrote, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import visionssm  # noqa: F401  the archive has its operators
from tests.tools.test_predict import command

CHANNELS, SIDE, CLASSES = 1, 32, 10


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


def test_unknown_source_is_an_error_that_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("export")(["no_such_model"]) == 2
    assert "no_such_model" in capsys.readouterr().err
