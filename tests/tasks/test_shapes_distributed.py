"""The configs of detection, segmentation and pose estimation on rendered pictures on two processes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.configs import shipped_config
from tests.engine.processes import run_on_two_processes
from tests.engine.tiny import logged
from visionssm.cli.launch import evaluate
from visionssm.heads.yolo import create_yolo

SPLITS = {"train": 16, "val": 5, "test": 1}  # of five images, two processes see one twice
NEEDS_OPENMMLAB = pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="needs the openmmlab extra")

# What lets detectors that have learnt nothing yet find something that can be measured.
FIND_ANYTHING: dict[str, dict[str, Any]] = {
    "hrvmamba_nano_figures": {f"{x}_dataloader.dataset.spec.most": 1 for x in ("train", "val", "test")},
    "mambayolo_nano_shapes": {
        **{"model.threshold": 0.0, "model.overlap": 1.0, "custom_hooks.1.epochs": 1},
        **{f"train_dataloader.dataset.dataset.spec.{split}": count for split, count in SPLITS.items()},
    },
    "shapes_detection_maskrcnn": {
        "model.options.box_score_thresh": 0.0,
        "model.options.box_nms_thresh": 0.9,
        "model.options.box_detections_per_img": 100,
    },
    "shapes_detection_mmdet": {
        "model.test_cfg.rcnn.score_thr": 0.0,
        "model.test_cfg.rcnn.nms.iou_threshold": 0.9,
        "model.test_cfg.rcnn.max_per_img": 100,
        # mmdet rounds its metrics, and so small a precision to 0; the recall is larger
        "val_evaluator.metric": ["bbox", "proposal"],
        "test_evaluator.metric": ["bbox", "proposal"],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, metric",
    [
        ("shapes_detection_maskrcnn", "box_ap50"),
        ("shapes_segmentation_deeplab", "miou"),
        ("hrvmamba_nano_figures", "mean_error"),
        ("mambayolo_nano_shapes", "box_ap50"),
        pytest.param("shapes_detection_mmdet", "coco/AR@100", marks=NEEDS_OPENMMLAB),
        pytest.param("shapes_segmentation_mmseg", "mIoU", marks=NEEDS_OPENMMLAB),
    ],
)
def test_two_processes_train_together_and_measure_what_one_measures(
    name: str, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHAPES_ROOT", str(tmp_path / "set"))
    monkeypatch.setenv("VISIONSSM_CACHE", str(tmp_path / "cache"))
    loaders = ("train_dataloader", "val_dataloader", "test_dataloader")
    options = {f"{loader}.dataset.spec.{split}": n for loader in loaders for split, n in SPLITS.items()}
    if name == "mambayolo_nano_shapes":  # a set around a set
        options = {key: count for key, count in options.items() if not key.startswith("train")}
        options["model.pretrained"] = str(_with_small_boxes(tmp_path / "small.pth"))
    options |= {"train_dataloader.batch_size": 4, "train_cfg.max_epochs": 2, "train_cfg.val_interval": 2}
    options |= {"default_hooks.logger.interval": 1, "param_scheduler": "None", **FIND_ANYTHING.get(name, {})}
    run_on_two_processes(
        shipped_config(name),
        *("--work-dir", str(tmp_path / "two")),
        *("--cfg-options", *(f"{key}={value}" for key, value in options.items())),
    )
    assert len(logged(tmp_path / "two", "loss")) == 4, "16 images in batches of 4 on each of two processes, twice"
    content = torch.load(tmp_path / "two" / "epoch_2.pth", weights_only=True)
    assert len(content["random_states"]) == 2
    assert not any(key.startswith("module.") for key in content["state_dict"])

    (expected,) = logged(tmp_path / "two", metric)
    options |= {"param_scheduler": None, "test_dataloader.dataset.split": "val"}
    if name == "shapes_detection_mmdet":
        options["test_evaluator.ann_file"] = str(tmp_path / "set" / "annotations" / "instances_val.json")
    metrics = evaluate(
        shipped_config(name), tmp_path / "two" / "epoch_2.pth", work_dir=tmp_path / "one", options=options
    )
    assert metrics[metric] == pytest.approx(expected, abs=1e-6)
    assert expected > 0


def _with_small_boxes(path: Path) -> Path:
    """A Mamba-YOLO whose boxes are as large as shapes are; new ones are larger than the image."""
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", num_classes=4)
    for branch in model.head.boxes:
        with torch.no_grad():
            branch[-1].bias.view(4, -1)[:, 1] += 20  # of distances of one stride
    torch.save(model.state_dict(), path)
    return path
