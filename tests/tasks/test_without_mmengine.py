"""Networks, metrics and predictors need no MMEngine: it is blocked while they load, compute and predict."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from visionssm.heads.detectors import DETECTORS
from visionssm.heads.segmentors import HEADS
from visionssm.tasks.classification.model import ImageClassifier
from visionssm.tasks.detection.model import TorchvisionDetector
from visionssm.tasks.segmentation.model import TorchvisionSegmentor
from visionssm.tasks.video.model import NextFramePredictor

NAME = "vmamba_nano_test"
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mmengine", "mmcv"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(code: str, *arguments: Path) -> str:
    """What a fresh process without MMEngine prints."""
    done = subprocess.run([sys.executable, "-c", BLOCKED + code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_ALL = """
import importlib, pkgutil
import visionssm.heads, visionssm.tasks
for module in pkgutil.iter_modules(visionssm.heads.__path__):
    importlib.import_module(f"visionssm.heads.{module.name}")
for task in ("classification", "detection", "segmentation", "video", "pose", "restoration"):
    for part in ("metric", "predictor", "data"):
        importlib.import_module(f"visionssm.tasks.{task}.{part}")
try:
    import mmengine
except ModuleNotFoundError:
    print("fine")
"""
PREDICT = """
import torch
from PIL import Image
from visionssm.prediction import load_predictor
for path in sys.argv[1:]:
    predictor = load_predictor(path)
    sample = torch.zeros(3, 8, 8, 1) if path.endswith("video.pth") else Image.new("RGB", (40, 30), "red")
    with torch.inference_mode():
        (result,) = predictor([sample])
    print(type(result).__name__)
"""


def test_heads_metrics_and_predictors_import_and_predict_without_mmengine(tmp_path: Path) -> None:
    dense: dict[str, Any] = {"name": NAME, "channels": 8, "num_classes": 2}
    models: dict[str, Any] = {
        "classifier": ImageClassifier(NAME, num_classes=2),
        "video": NextFramePredictor("convs5_nano", context=2, model_kwargs={"dim": 8, "states": 8, "depth": 1}),
    }
    models |= {x: TorchvisionDetector(x, size=(32, 32), **dense) for x in DETECTORS}
    models |= {x: TorchvisionSegmentor(head=x, atrous_rates=(1, 2), **dense) for x in HEADS}
    for name, model in models.items():
        content = {"meta": {"visionssm": model.checkpoint_meta(None, None)}, "state_dict": model.state_dict()}
        torch.save(content, tmp_path / f"{name}.pth")
    printed = run(PREDICT + IMPORT_ALL, *(tmp_path / f"{name}.pth" for name in models))
    kinds = ["ClassResult", "Continuation", *["Detection"] * len(DETECTORS), *["PixelClasses"] * len(HEADS)]
    assert printed.split() == [*kinds, "fine"]


@pytest.mark.parametrize("kind", [ImageClassifier, TorchvisionDetector, TorchvisionSegmentor, NextFramePredictor])
def test_models_share_the_adapter(kind: type) -> None:
    shared = {"forward", "init_weights", "checkpoint_meta", "check_checkpoint"}
    assert not shared & vars(kind).keys()
