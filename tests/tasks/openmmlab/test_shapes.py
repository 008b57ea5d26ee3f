"""The rendered shapes with mmdet's and mmseg's heads, trained by this package's engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("mmseg", reason="needs the openmmlab extra")

from tests.configs import shipped_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.cli import visualize
from visionssm.cli.launch import evaluate, train
from visionssm.data.errors import DatasetError
from visionssm.prediction import load_predictor

DETECTION = shipped_config("shapes_detection_mmdet")
SEGMENTATION = shipped_config("shapes_segmentation_mmseg")
SPEC = {"size": 64, "train": 8, "val": 2, "test": 3}
EMA = dict(type="EMAHook", ema_type="ExponentialMovingAverage", momentum=0.1, update_buffers=True)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options for two epochs of two steps."""
    monkeypatch.setenv("SHAPES_ROOT", str(tmp_path / "set"))
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)
    return {
        "train_dataloader.dataset.spec": SPEC,
        "val_dataloader.dataset.spec": SPEC,
        "test_dataloader.dataset.spec": SPEC,
        "train_dataloader.batch_size": 4,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 1,
        "default_hooks.logger.interval": 1,
        "custom_hooks": [EMA, dict(type="SamplePicturesHook", threshold=0.0)],
        "param_scheduler": [],
        "visualizer.vis_backends": [dict(type="LocalVisBackend")],
    }


@pytest.mark.parametrize(
    "config, metric",
    [(DETECTION, "coco/bbox_mAP_50"), (SEGMENTATION, "mIoU")],
    ids=["mmdet", "mmseg"],
)
def test_openmmlab_heads_train_resume_and_draw(config: Path, metric: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    train(config, work_dir=tmp_path / "whole", options=tiny)
    assert len(logged(tmp_path / "whole", "loss")) == 4
    assert len(logged(tmp_path / "whole", metric)) == 2
    with Image.open(tmp_path / "whole" / "predictions.png") as picture:
        assert picture.width > 2 * 250
        assert picture.height > 2 * 250
        assert np.asarray(picture).std() > 5
    train(config, work_dir=tmp_path / "resumed", resume=str(tmp_path / "whole" / "epoch_1.pth"), options=tiny)
    assert_equal_weights(tmp_path / "whole" / "epoch_2.pth", tmp_path / "resumed" / "epoch_2.pth")

    pictures, out = tmp_path / "pictures", tmp_path / ("found.json" if config == DETECTION else "found")
    options = {**tiny, "model.test_cfg.rcnn.score_thr": 0.0} if config == DETECTION else tiny
    metrics = evaluate(
        config, tmp_path / "whole" / "epoch_2.pth", work_dir=tmp_path / "t", options=options, pictures=pictures, out=out
    )
    assert metric in metrics
    assert sorted(path.name for path in pictures.iterdir()) == [f"{number:06d}.png" for number in range(3)]
    with Image.open(pictures / "000000.png") as picture:
        assert picture.width > 2 * 250, "truth and what was found"
    (_judge_detections if config == DETECTION else _judge_label_images)(out, tmp_path / "set", metrics[metric])

    photo = tmp_path / "set" / "images" / "test" / "000000.png"
    drawn = tmp_path / "features.png"
    assert visualize.main(["features", str(tmp_path / "whole" / "epoch_2.pth"), str(photo), "--out", str(drawn)]) == 0
    view = load_predictor(tmp_path / "whole" / "epoch_2.pth").view()  # type: ignore[attr-defined]
    with Image.open(photo) as image:
        shown = view.picture(view.prepare(image, None))[:64, :64]
        assert np.allclose(shown, np.asarray(image.resize(shown.shape[1::-1])) / 255, atol=0.02)


def _judge_detections(out: Path, folder: Path, expected: float) -> None:
    """COCO's own judgement of the written results is the metric's, which mmdet rounds to three digits."""
    truth = COCO(str(folder / "annotations" / "instances_test.json"))
    judged = COCOeval(truth, truth.loadRes(str(out)), "bbox")
    judged.evaluate(), judged.accumulate(), judged.summarize()
    assert judged.stats[1] == pytest.approx(expected, abs=5e-4)
    assert "segmentation" in json.loads(out.read_text())[0]


def _judge_label_images(out: Path, folder: Path, expected: float) -> None:
    """The mean IoU of the written label images is the metric's, which mmseg rounds to two digits of a percentage."""
    counts = np.zeros((5, 5))
    for path in sorted(out.glob("*.png")):
        with Image.open(path) as found, Image.open(folder / "labels" / "test" / path.name) as true:
            np.add.at(counts, (np.asarray(true).ravel(), np.asarray(found).ravel()), 1)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert 100 * np.nanmean(counts.diagonal() / union) == pytest.approx(expected, abs=0.02)
    assert len(list(out.glob("*.png"))) == 3
    assert (out / "predictions.csv").read_text().startswith("sample,class,share")


def test_folder_of_another_set_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(DatasetError, match="holds something else"):
        train(SEGMENTATION, work_dir=tmp_path / "run", options=tiny)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "config, metric, bound",
    [(DETECTION, "coco/bbox_mAP_50", 0.5), (SEGMENTATION, "mIoU", 60)],
    ids=["mmdet", "mmseg"],
)
def test_config_reaches_its_bound(
    config: Path, metric: str, bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHAPES_ROOT", str(tmp_path / "set"))
    train(config, work_dir=tmp_path / "run")
    metrics = evaluate(config, tmp_path / "run" / "best.pth", work_dir=tmp_path / "test")
    assert metrics[metric] >= bound
