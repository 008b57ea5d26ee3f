"""Uploads to the Hugging Face Hub, against a stub of its client: what is written, and that timm reads it back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch

import visionssm
from visionssm.engine.checkpoint import save_checkpoint

CONFIG = """train_dataloader = dict(batch_size=2, dataset=dict(split='train', type='Digits', root='/home/someone/data'))
model = dict(type='ImageClassifier')"""


class _Hub:
    """Keeps the folder that is uploaded, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: dict[str, Any] = {}

    def create_repo(self, repo_id: str, **options: Any) -> SimpleNamespace:
        self.asked = options
        return SimpleNamespace(repo_id=repo_id)

    def file_exists(self, **_: Any) -> bool:
        return False

    def upload_folder(self, *, folder_path: str, **options: Any) -> str:
        shutil.copytree(folder_path, self.folder)
        self.asked |= options
        return "commit"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Hub:
    stub = _Hub(tmp_path / "uploaded")
    monkeypatch.setattr("timm.models._hub.HfApi", lambda **_: stub)
    return stub


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = timm.create_model("vmamba_nano_test", num_classes=3, in_chans=1).eval()
    about = {
        "task": "classification",
        "model": {"name": "vmamba_nano_test", "num_classes": 3, "in_chans": 1},
        "classes": ["zero", "one", "two"],
        "input": {"size": (1, 32, 32), "mean": (0.5,), "std": (0.25,), "interpolation": "bilinear", "crop_pct": 1.0},
    }
    meta = {
        "visionssm": about,
        "metrics": {"top1": 97.5},
        "cfg": CONFIG,
        "experiment_name": "vmamba_nano_digits_20261127_093337",
        "versions": {"visionssm": "0.1.0"},
    }
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_checkpoint({"meta": meta, "state_dict": state}, tmp_path / "best.pth")
    return tmp_path / "best.pth", model


def test_uploaded_folder_gives_the_same_model_back(hub: _Hub, checkpoint: tuple[Path, torch.nn.Module]) -> None:
    path, model = checkpoint
    assert visionssm.push_to_hub(path, "me/digits", private=True) == "commit"
    assert hub.asked["private"]
    assert {file.name for file in hub.folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    again = timm.create_model(f"local-dir:{hub.folder}", pretrained=True).eval()
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(again(images), model(images))
    config = json.loads((hub.folder / "config.json").read_text())
    assert config["label_names"] == ["zero", "one", "two"]
    data = timm.data.resolve_model_data_config(again)
    assert (data["input_size"], list(data["mean"]), list(data["std"])) == ((1, 32, 32), [0.5], [0.25])
    assert (data["interpolation"], data["crop_pct"]) == ("bilinear", 1.0)


def test_card_tells_metrics_data_command_and_licence_and_no_path(
    hub: _Hub, checkpoint: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    visionssm.push_to_hub(checkpoint[0], "me/digits")
    card = (hub.folder / "README.md").read_text()
    assert "top1 (validation): 97.5" in card
    assert "**Trained on:** Digits" in card
    assert "`visionssm train vmamba_nano_digits`" in card
    assert "license: unknown" in card
    assert "import timm, visionssm" in card
    everything = card + (hub.folder / "config.json").read_text()
    assert str(tmp_path) not in everything
    assert "someone" not in everything


def test_what_is_given_goes_before_what_is_known(hub: _Hub, checkpoint: tuple[Path, torch.nn.Module]) -> None:
    visionssm.push_to_hub(checkpoint[0], "me/digits", license="mit", data="my digits", metrics={"top1": 12.5})
    card = (hub.folder / "README.md").read_text()
    assert "license: mit" in card
    assert "my digits" in card
    assert "top1: 12.5" in card
    assert "97.5" not in card


def test_card_of_published_weights_has_the_licence_of_their_authors() -> None:
    from visionssm.catalogue.hub import _published, model_card

    facts = {"architecture": "mambavision_tiny", "parameters": 1} | _published(visionssm.model_info("mambavision_tiny"))
    card = model_card("me/copy", facts)
    assert card["license"] == "cc-by-nc-sa-4.0"
    assert card["details"]["Metrics"] == {"top1 (published)": "82.3"}


def test_names_of_repositories_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="user/name"):
        visionssm.push_to_hub("no_such_file.pth", "digits")
