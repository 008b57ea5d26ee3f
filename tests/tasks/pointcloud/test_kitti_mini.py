"""Five real frames, where they are there: what the head should say gives all objects, and a network learns to."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_config
from tests.pointcloud.frames import KITTI, with_real_frames
from visionssm.cli import train
from visionssm.engine.config import load_config
from visionssm.pointcloud.boxes import Detections, Truth, encode, inside, wrapped
from visionssm.pointcloud.heads.anchor import DIRECTION_OFFSET, AnchorHead, AnchorPredictions, AnchorTargets
from visionssm.pointcloud.variants import create_detector
from visionssm.tasks.pointcloud.data import KittiFrames
from visionssm.tasks.pointcloud.metric import KittiMetric

CONFIG = shipped_config("lion_mamba_nano_kitti_mini")


def perfect(head: AnchorHead, targets: AnchorTargets, anchors: Tensor, shape: tuple[int, int]) -> AnchorPredictions:
    """Predictions that say what the targets ask for."""
    scores = torch.full((len(anchors), len(head.classes)), -20.0)
    codes, directions = torch.zeros(len(anchors), 7), torch.zeros(len(anchors), 2)
    chosen = targets.positives
    scores[chosen, targets.labels[chosen] - 1] = 5.0
    codes[chosen] = encode(targets.boxes, anchors[chosen])
    ahead = torch.floor(wrapped(targets.boxes[:, 6] - DIRECTION_OFFSET, 0.0) / math.pi).long().clamp(0, 1)
    directions[chosen, ahead] = 1.0
    return AnchorPredictions(*(x.view(1, *shape, -1) for x in (scores, codes, directions)))


@with_real_frames
def test_predictions_equal_to_the_targets_of_real_frames_find_every_object() -> None:
    cfg = load_config(CONFIG)
    changes: dict[str, Any] = {key: x for key, x in cfg.model.changes.items() if key != "norm_momentum"}
    detector = create_detector(cfg.model.name, **changes)
    head = detector.dense_head
    assert isinstance(head, AnchorHead)
    data = KittiFrames(KITTI, split="trainval", point_range=detector.grid.point_range)
    data.for_evaluation()
    metric = KittiMetric(keep=0, least_points=5)
    metric.dataset_meta = data.metainfo
    rows, shape = [], detector.grid.shape[1:]
    empty = AnchorPredictions(*(torch.zeros(1, *shape, 6 * count) for count in (3, 7, 2)))
    anchors = head.anchors(empty)
    for index in range(len(data)):
        sample = data[index]
        targets = head.targets(Truth(sample["boxes"], sample["labels"]), anchors)
        with_points = inside(sample["inputs"][:, :3], sample["boxes"]).sum(0) >= 5
        for box in sample["boxes"][with_points]:
            assert (targets.boxes == box).all(1).any(), "an anchor for every object"
        (found,) = head.detections(perfect(head, targets, anchors, shape))
        assert isinstance(found, Detections)
        plain = {name: x.numpy() for name, x in found._asdict().items()}
        rows.append({**plain, "index": index, "frame": sample["frame"], "points": sample["inputs"].numpy()})
    metric.process(None, rows)
    figures = metric.compute_metrics(metric.results)
    assert {name: value for name, value in figures.items() if value != 1.0} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes on two cores of its own
@with_real_frames
def test_the_shipped_training_on_real_frames_finds_their_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KITTI_MINI", str(KITTI))
    epochs = load_config(CONFIG).train_cfg.max_epochs
    options = ["--cfg-options", f"train_cfg.val_interval={epochs}"]
    assert train.main([str(CONFIG), "--work-dir", str(tmp_path), *options]) == 0
    (log,) = tmp_path.glob("*/*.log")
    losses = [float(x) for x in re.findall(r"  loss: ([\d.]+)", log.read_text())]
    assert len(losses) == epochs
    assert losses[-1] < losses[0] / 20
    (found,) = re.findall(r"Epoch\(val\).*  ap_3d: ([\d.]+)", log.read_text())
    assert float(found) >= 0.9
    assert all(
        bool(x.isfinite().all()) for x in torch.load(tmp_path / "best.pth", weights_only=True)["state_dict"].values()
    )
