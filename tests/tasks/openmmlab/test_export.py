"""Segmentors of mmseg as files, beside what their own pipeline finds; detectors of mmdet are refused by a sentence."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("mmseg", reason="needs the openmmlab extra")

import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from tests.configs import shipped_config
from visionssm.cli import export as tool
from visionssm.engine.config import load_config
from visionssm.integrations.export import ExportError, export_archive, export_onnx
from visionssm.prediction import load_predictor
from visionssm.tasks.openmmlab.description import checkpoint_meta
from visionssm.tasks.openmmlab.export import Scores, exportable_openmmlab_segmentor
from visionssm.tasks.openmmlab.predictor import OpenMMLabDetector


def trained(folder: Path, **head: Any) -> Path:
    """A checkpoint of a small UPerNet with random weights, whose pipeline leaves images as large as they are."""
    cfg = load_config(shipped_config("shapes_segmentation_mmseg"))
    cfg.model.auxiliary_head = None
    cfg.model.decode_head.update(head)
    importlib.import_module("mmseg.utils").register_all_modules(init_default_scope=True)
    model = importlib.import_module("mmseg.registry").MODELS.build(cfg.model)
    for module in model.modules():  # the statistics of a trained network are not those of a new one
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    about = {**checkpoint_meta(cfg, None), "classes": ["none", "circle", "square", "triangle", "star"]}
    torch.save({"meta": {"visionssm": about}, "state_dict": model.state_dict()}, folder / "best.pth")
    return folder / "best.pth"


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8))


def test_exported_segmentor_finds_what_its_own_pipeline_finds(tmp_path: Path, image: Image.Image) -> None:
    predictor: Any = load_predictor(trained(tmp_path))
    (found,) = predictor([image])
    exportable = predictor.exportable()
    assert "triangle" in exportable.about["classes"]
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    export_archive(exportable, tmp_path / "m.pt2", torch.rand(2, 3, 64, 96))
    (classes,) = torch.export.load(tmp_path / "m.pt2").module()(pixels)
    assert len(np.unique(found.numbers)) > 1, "a map of one class compares little"
    assert np.mean(classes.numpy() != found.numbers) <= 1e-3, "pixels between two classes may fall on either side"


@pytest.mark.slow
def test_onnx_graph_of_a_segmentor_has_fixed_sizes_where_it_pools_to_some_cells(
    tmp_path: Path, image: Image.Image
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    predictor: Any = load_predictor(trained(tmp_path))
    (found,) = predictor([image])
    with pytest.raises(ExportError, match=r"does not run on an input \(.*export fixed ones"):
        export_onnx(predictor.exportable(), tmp_path / "open.onnx", torch.rand(2, 3, 64, 96))
    assert not (tmp_path / "open.onnx").exists()
    export_onnx(predictor.exportable(), tmp_path / "m.onnx", torch.rand(1, 3, 75, 101), dynamic=False)
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255
    (classes,) = onnxruntime.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"image": pixels})
    assert np.mean(classes[0] != found.numbers) <= 1e-3


@pytest.mark.parametrize("flips", [True, False])
def test_one_score_is_two_classes_apart_at_the_threshold(flips: bool) -> None:
    class Red(torch.nn.Module):
        """A segmentor whose score is 10 (red − 0.5), and what of mmseg it needs."""

        def __init__(self) -> None:
            super().__init__()
            self.decode_head = torch.nn.Module()
            self.decode_head.threshold = 0.3  # type: ignore[assignment]
            self.decode_head.predict = lambda maps, metas, cfg: 10 * (maps - 0.5)  # type: ignore[assignment]
            self.test_cfg = {"mode": "whole"}
            self.out_channels = 1
            level = torch.tensor([0.0, 0.0, 51.0] if not flips else [51.0, 0.0, 0.0]).view(3, 1, 1)
            self.data_preprocessor = SimpleNamespace(
                _channel_conversion=flips, _enable_normalize=True, mean=level, std=torch.full((3, 1, 1), 255.0)
            )

        def extract_feat(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1] if flips else x[:, 2:]

    red = torch.tensor([0.1, 0.61, 0.62, 1.0])  # 0.2 is taken off; the logistic function is 0.3 at 10 x = -0.847
    image = torch.stack((red, 1 - red, 1 - red))[None, :, None]
    assert Scores(Red())(image).argmax(1).flatten().tolist() == [0, 0, 1, 1]


def test_windows_and_heads_in_a_row_are_told(tmp_path: Path) -> None:
    predictor: Any = load_predictor(trained(tmp_path))
    predictor.model.test_cfg.update(mode="slide", crop_size=(64, 48))
    assert predictor.exportable().about["window"] == "[64, 48]"
    predictor.model.decode_head = torch.nn.ModuleList()
    with pytest.raises(ExportError, match="EncoderDecoder of mmseg, whose heads follow each other"):
        exportable_openmmlab_segmentor(predictor.model, ["a"])


def test_detectors_of_mmdet_are_refused_with_what_there_is_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = OpenMMLabDetector(torch.nn.Identity(), ["a"], None)
    monkeypatch.setattr("visionssm.prediction.load_predictor", lambda *args, **more: predictor)
    assert tool.main(["best.pth", "--out", str(tmp_path / "m.onnx")]) == 2
    message = capsys.readouterr().err
    assert "Identity of mmdet has no form for export" in message
    assert "MMDeploy" in message
    assert "configs/detection" in message
