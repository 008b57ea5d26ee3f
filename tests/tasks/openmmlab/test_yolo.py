"""Mamba-YOLO through mmdet's pipelines and metric, and which of mmdet's transforms equal ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("visionssm.integrations.openmmlab")  # gives mmcv its operators before anything imports mmcv.ops

from mmdet.datasets.transforms import Mosaic, RandomFlip
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

import visionssm.tasks.openmmlab.yolo  # noqa: F401  registers the detector
from tests.configs import shipped_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.cli import predict
from visionssm.cli.launch import evaluate, train
from visionssm.engine.errors import ConfigError
from visionssm.prediction import load_predictor
from visionssm.tasks.yolo.model import YoloDetector
from visionssm.tasks.yolo.transforms import Scene, mirrored, mosaic

CONFIG = shipped_config("mambayolo_nano_shapes_mmdet")
SPEC = {"size": 64, "train": 8, "val": 2, "test": 3}
MODEL: dict[str, Any] = {"backbone": {"name": "mambayolo_nano"}, "num_classes": 4}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options for two epochs of two steps, the second without Mosaic."""
    monkeypatch.setenv("SHAPES_ROOT", str(tmp_path / "set"))
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)
    return {
        "train_dataloader.dataset.dataset.spec": SPEC,
        "val_dataloader.dataset.spec": SPEC,
        "test_dataloader.dataset.spec": SPEC,
        "train_dataloader.batch_size": 4,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 1,
        "default_hooks.logger.interval": 1,
        "custom_hooks.1.switch_epoch": 1,
        "param_scheduler": [],
        "visualizer.vis_backends": [dict(type="LocalVisBackend")],
    }


def test_the_detector_trains_through_mmdet_resumes_and_predicts(tiny: dict[str, Any], tmp_path: Path) -> None:
    train(CONFIG, work_dir=tmp_path / "whole", options=tiny)
    assert len(logged(tmp_path / "whole", "loss_dfl")) == 4
    assert len(logged(tmp_path / "whole", "coco/bbox_mAP_50")) == 2
    train(CONFIG, work_dir=tmp_path / "resumed", resume=str(tmp_path / "whole" / "epoch_1.pth"), options=tiny)
    assert_equal_weights(tmp_path / "whole" / "epoch_2.pth", tmp_path / "resumed" / "epoch_2.pth")

    checkpoint, found = tmp_path / "whole" / "epoch_2.pth", tmp_path / "found.json"
    metrics = evaluate(CONFIG, checkpoint, work_dir=tmp_path / "t", options=tiny, out=found)
    assert metrics["coco/bbox_mAP_50"] >= 0
    photo = tmp_path / "set" / "images" / "test" / "000000.png"
    arguments = [checkpoint, photo, "--threshold", 0.001, "--out", tmp_path / "boxes.json"]
    assert predict.main([str(x) for x in arguments]) == 0
    (entry,) = json.loads((tmp_path / "boxes.json").read_text())["predictions"]
    tested = [x for x in json.loads(found.read_text()) if x["image_id"] == json.loads(found.read_text())[0]["image_id"]]
    assert len(entry["objects"]) == sum(x["score"] > 0.001 for x in tested)
    predictor: Any = load_predictor(checkpoint)
    assert predictor.view().maps is predictor.model.model.backbone


def test_the_pipeline_of_the_run_changes_where_the_hook_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Mosaics have more objects than an image has."""
    most = {}
    for epoch in (0, 2):
        seen: list[int] = []
        options = {**tiny, "custom_hooks.1.switch_epoch": epoch, "train_cfg.max_epochs": 1}
        with pytest.MonkeyPatch.context() as patch:
            loss = MODELS.get("MambaYoloDetector").loss

            def counted(self: Any, inputs: Any, samples: Any, loss: Any = loss, seen: list[int] = seen) -> Any:
                seen.extend(len(x.gt_instances) for x in samples)
                return loss(self, inputs, samples)

            patch.setattr(MODELS.get("MambaYoloDetector"), "loss", counted)
            train(CONFIG, work_dir=tmp_path / f"{epoch}", options=options)
        most[epoch] = max(seen)
    assert most[0] <= 3 < most[2]


def test_it_computes_what_the_detector_without_mmdet_computes() -> None:
    torch.manual_seed(0)
    ours = YoloDetector("mambayolo_nano", 4, size=64).eval()
    theirs: Any = MODELS.get("MambaYoloDetector")(**MODEL).eval()  # whatever scope an earlier run has left
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 64, 64)
    boxes = [torch.tensor([[4.0, 6, 30, 40], [20, 20, 60, 50]]), torch.zeros(0, 4)]
    labels = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)]
    samples = []
    for number in range(2):
        meta = {"ori_shape": (128, 32), "img_shape": (64, 64), "scale_factor": (2.0, 0.5)}
        samples.append(DetDataSample(metainfo=meta))
        samples[-1].gt_instances = InstanceData(bboxes=boxes[number], labels=labels[number])
    with torch.no_grad():
        losses = theirs(images, samples, mode="loss")
        expected = ours(list(images), {"boxes": boxes, "labels": [x + 1 for x in labels]}, mode="loss")
        found = theirs(images, samples, mode="predict")
        rows = ours(list(images), None, mode="predict")
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    for sample, row in zip(found, rows, strict=True):
        np.testing.assert_allclose(sample.pred_instances.bboxes, row["found"]["boxes"] / [2, 0.5, 2, 0.5], atol=1e-4)
        np.testing.assert_array_equal(sample.pred_instances.labels + 1, row["found"]["labels"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"backbone": {"name": "mambayolo_x"}}, "mambayolo_b, mambayolo_l, mambayolo_nano, mambayolo_t"),
        ({"backbone": {"type": "VisionSSM", "name": "vmamba_tiny_s1l8"}}, r"model\.backbone\.type"),
        ({"backbone": {}}, r"no model\.backbone\.name"),
        ({"test_cfg": {"score_thr": 2.0}}, r"score_thr=2\.0 must be from 0 to 1"),
        ({"test_cfg": {"nms": {}}}, r"model\.test_cfg\.nms"),
        ({"loss": {"boxes": 1.0}}, "boxes"),
        ({"num_classes": 0}, "num_classes"),
        ({"pretrained": True}, "no weights of mambayolo_nano are published"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        MODELS.get("MambaYoloDetector")(**{"backbone": {"name": "mambayolo_nano"}, "num_classes": 4, **arguments})


def _pair(numbers: np.random.Generator, side: int) -> tuple[Scene, dict[str, Any]]:
    """One image with two boxes as ours and as mmdet's transforms have it."""
    image = numbers.integers(0, 256, (side, side, 3), dtype=np.uint8)
    corners = numbers.uniform(0, side, (2, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    labels = numbers.integers(0, 4, 2)
    scene = Scene(torch.from_numpy(image).permute(2, 0, 1) / 255, torch.from_numpy(boxes), torch.from_numpy(labels))
    results = {"img": image, "img_shape": image.shape[:2], "gt_bboxes": HorizontalBoxes(boxes.copy())}
    return scene, results | {"gt_bboxes_labels": labels, "gt_ignore_flags": np.zeros(2, dtype=bool)}


def _assert_same(scene: Scene, results: dict[str, Any]) -> None:
    np.testing.assert_array_equal((scene.image * 255).round().permute(1, 2, 0).numpy(), results["img"])
    torch.testing.assert_close(scene.boxes, results["gt_bboxes"].tensor)
    assert scene.labels.tolist() == results["gt_bboxes_labels"].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_mosaic_of_squares_equals_that_of_mmdet(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(seed)
    pairs = [_pair(numbers, 32) for _ in range(4)]
    centre = [int(x) for x in numbers.integers(16, 48, 2)]
    draws = iter([0.0, *(x / 32 for x in centre)])
    monkeypatch.setattr("mmdet.datasets.transforms.transforms.random.uniform", lambda *_: next(draws))
    first = pairs[0][1] | {"mix_results": [results for _, results in pairs[1:]]}
    theirs = Mosaic(img_scale=(32, 32), pad_val=114.0).transform(first)
    _assert_same(mosaic([scene for scene, _ in pairs], 32, (centre[0], centre[1])), theirs)


def test_mirror_image_equals_that_of_mmdet() -> None:
    scene, results = _pair(np.random.default_rng(0), 32)
    _assert_same(mirrored(scene), RandomFlip(prob=1.0).transform(results))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_config_reaches_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAPES_ROOT", str(tmp_path / "set"))
    train(CONFIG, work_dir=tmp_path / "run")
    assert evaluate(CONFIG, tmp_path / "run" / "best.pth", work_dir=tmp_path / "t")["coco/bbox_mAP_50"] >= 0.75
    with Image.open(tmp_path / "run" / "predictions.png") as picture:
        assert np.asarray(picture).std() > 5
