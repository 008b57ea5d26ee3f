"""Detection in the engine: losses, average precision, pictures, and runs from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image

import visionssm.engine.registration  # noqa: F401
from tests.configs import shipped_config
from tests.engine.shapes import DETECTOR, SPEC, write_detection_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.cli.launch import evaluate, train
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.heads.detectors import DETECTORS
from visionssm.tasks.detection.metric import DetectionMetric, average_precision, plain_objects
from visionssm.tasks.detection.model import TorchvisionDetector

CONFIG = shipped_config("shapes_detection_maskrcnn")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of six steps."""
    folder = tmp_path_factory.mktemp("detection") / "run"
    folder.mkdir()
    train(write_detection_config(folder), work_dir=folder)
    return folder


def batch() -> tuple[list[torch.Tensor], dict[str, list[torch.Tensor]]]:
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    masks[:, :, 4:20, 6:26] = 1
    boxes = torch.tensor([[6.0, 4.0, 26.0, 20.0]])
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
    return images, {"boxes": [boxes] * 2, "labels": [torch.tensor([3])] * 2, "masks": list(masks)}


def test_published_config_has_no_unknown_key_and_fits_its_data(tmp_path: Path) -> None:
    small = {"train_dataloader.dataset.spec": SPEC, "train_dataloader.dataset.root": str(tmp_path)}
    cfg = load_config(CONFIG, small)
    check_config(cfg)
    model, data = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    assert model.checkpoint_meta(data, None)["classes"] == data.metainfo["classes"]


def test_run_writes_weights_curves_and_pictures(uninterrupted: Path) -> None:
    assert (uninterrupted / "learning_curves.png").exists()
    with Image.open(uninterrupted / "predictions.png") as image:
        assert image.width > 2 * 288
        assert np.asarray(image).std() > 5
    losses = logged(uninterrupted, "loss")
    assert len(losses) == 6
    parts = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    total = sum(logged(uninterrupted, part)[0] for part in parts)
    assert losses[0] == pytest.approx(total, rel=1e-4)
    assert len(logged(uninterrupted, "box_ap50")) == len(logged(uninterrupted, "mask_ap50")) == 2
    meta = torch.load(uninterrupted / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "detection"
    assert meta["classes"] == ["circle", "square", "triangle", "cross"]


def test_resumed_run_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = write_detection_config(folder)
    train(config, work_dir=folder, resume=str(uninterrupted / "epoch_1.pth"))
    assert_equal_weights(uninterrupted / "epoch_2.pth", folder / "epoch_2.pth")


def test_evaluation_gives_the_validation_metrics_and_pictures_of_every_image(
    uninterrupted: Path, tmp_path: Path
) -> None:
    metrics = evaluate(
        uninterrupted / "tiny.py", uninterrupted / "epoch_2.pth", work_dir=tmp_path, pictures=tmp_path / "pictures"
    )
    assert metrics["box_ap"] == pytest.approx(logged(uninterrupted, "box_ap")[-1], abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"{n:06d}.png" for n in range(4)]


@pytest.mark.parametrize("name", ["vmamba_nano_test", "vim_nano_test"])
@pytest.mark.parametrize("architecture", DETECTORS)
def test_architectures_learn_one_batch_and_predict(architecture: str, name: str) -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(architecture, **{**DETECTOR, "name": name})
    images, targets = batch()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    totals = []
    for _ in range(6):
        optimizer.zero_grad()
        losses = model(images, targets, mode="loss")
        assert all("loss" in key for key in losses)
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    with torch.no_grad():
        rows = model.eval()(images, targets, [4, 5], mode="predict")
    assert [row["index"] for row in rows] == [4, 5]
    assert ("masks" in rows[0]["found"]) == (architecture == "MaskRCNN")
    assert rows[0]["image"].shape == (32, 32, 3)


def rows_of(shift: float, score: float = 0.9, label: int = 3) -> list[dict[str, Any]]:
    """Two images, each with one true object and one detection `shift` pixels to the right of it."""
    _, targets = batch()
    rows = []
    for index in range(2):
        truth = {key: items[index] for key, items in targets.items()}
        found = {
            "boxes": truth["boxes"] + torch.tensor([shift, 0, shift, 0]),
            "labels": torch.tensor([label]),
            "scores": torch.tensor([score]),
            "masks": truth["masks"].roll(int(shift), -1)[:, None].float(),
        }
        rows.append({"index": index, "truth": plain_objects(truth), "found": plain_objects(found), "size": (32, 32)})
    return rows


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_average_precision_is_cocos(kind: str) -> None:
    assert average_precision(rows_of(0), kind) == pytest.approx((1, 1, 1))
    shifted = average_precision(rows_of(4), kind)  # 16 of 24 columns are common: IoU 2/3, above 4 of the 10 thresholds
    assert shifted == pytest.approx((0.4, 1, 0))
    assert average_precision(rows_of(0, label=2), kind) == pytest.approx((0, 0, 0))


def test_average_precision_without_detections_is_0_and_without_objects_minus_1() -> None:
    rows = rows_of(0)
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    assert average_precision([{**row, "found": nothing} for row in rows], "bbox") == (0, 0, 0)
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}
    assert average_precision([{**row, "truth": empty} for row in rows], "bbox") == (-1, -1, -1)
    assert average_precision([{**row, "truth": empty, "found": nothing} for row in rows], "bbox") == (-1, -1, -1)


def test_detections_of_crowds_do_not_count_against_precision() -> None:
    rows = rows_of(0)
    crowd = {"boxes": np.array([[0.0, 22, 32, 32]]), "labels": np.array([3]), "crowd": np.array([True])}
    for row in rows:
        row["truth"] = {key: np.concatenate([row["truth"].get(key, np.array([False])), crowd[key]]) for key in crowd}
        extra = {"boxes": np.array([[2.0, 23, 12, 31]]), "labels": np.array([3]), "scores": np.array([0.95])}
        row["found"] = {key: np.concatenate([row["found"][key], extra[key]]) for key in extra}
    assert average_precision(rows, "bbox")[1] == pytest.approx(1)
    for row in rows:
        row["truth"] = {**row["truth"], "crowd": np.array([False, False])}
    assert average_precision(rows, "bbox")[1] < 0.9


def test_metric_keeps_the_first_images_and_draws_likely_objects(uninterrupted: Path) -> None:
    metric = DetectionMetric(keep=1)
    metric.dataset_meta = {"classes": ["a", "b", "c", "d"]}
    rows = [{**row, "image": np.full((32, 32, 3), 128, np.uint8)} for row in rows_of(0)]
    metric.process(None, rows)
    assert metric.compute_metrics(metric.results)["mask_ap50"] == pytest.approx(1)
    assert [index for index, _ in metric.pictures] == [0]
    unlikely = DetectionMetric(keep=1, threshold=0.95)
    unlikely.process(None, rows)
    unlikely.compute_metrics(unlikely.results)
    assert np.asarray(unlikely.pictures[0][1])[:, 310:].std() < np.asarray(metric.pictures[0][1])[:, 310:].std()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"architecture": "YOLO"}, "'YOLO' is unknown.*FasterRCNN, MaskRCNN, RetinaNet"),
        ({"name": "vmamba_nano_tets"}, "vmamba_nano_test"),
        ({"size": (64, 32)}, "shortest, longest"),
        ({"anchor_sizes": (8, 16)}, "must be 5 numbers"),
        ({"options": {"box_detections_per_image": 1}}, "closest: 'box_detections_per_img'"),
        ({"backbone": {"no_such": 1}}, "no_such"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchvisionDetector(**{"architecture": "FasterRCNN", **DETECTOR, **arguments})


def test_data_and_checkpoints_that_do_not_fit_are_refused() -> None:
    model = TorchvisionDetector("MaskRCNN", **DETECTOR)
    images, targets = batch()
    del targets["masks"]
    with pytest.raises(ConfigError, match=r"needs masks.*FasterRCNN"):
        model(images, targets, mode="loss")

    class Five:
        metainfo = {"classes": list("abcde")}  # noqa: RUF012

    with pytest.raises(ConfigError, match="num_classes=4, but the data set has 5 classes"):
        model.checkpoint_meta(Five(), None)
    meta = {"visionssm": model.checkpoint_meta(None, None)}
    model.check_checkpoint(meta, "x.pth")
    meta["visionssm"]["model"]["architecture"] = "RetinaNet"
    with pytest.raises(CheckpointError, match="its architecture is 'RetinaNet', the config's 'MaskRCNN'"):
        model.check_checkpoint(meta, "x.pth")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_published_config_reaches_its_bounds(tmp_path: Path) -> None:
    train(CONFIG, work_dir=tmp_path)
    metrics = evaluate(CONFIG, tmp_path / "best.pth", work_dir=tmp_path / "test")
    assert metrics["box_ap50"] >= 0.5
    assert metrics["mask_ap50"] >= 0.5
