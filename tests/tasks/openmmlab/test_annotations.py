"""Mistakes in data sets of mmdet and mmseg are told before training, all in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("mmseg", reason="needs the openmmlab extra")

import visionssm.engine.registration
import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from tests.configs import shipped_config
from tests.tasks.openmmlab.inputs import write_ade20k, write_coco
from visionssm.engine.config import check_data, load_config
from visionssm.engine.errors import DatasetError


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "coco"))
    return write_coco(tmp_path / "coco")


@pytest.fixture
def ade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADE20K_ROOT", str(tmp_path / "ade"))
    return write_ade20k(tmp_path / "ade")


def detection() -> Config:
    return load_config(shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco"))


def segmentation() -> Config:
    return load_config(shipped_config("upernet_vmamba_tiny_160k_ade20k_512"))


def change(root: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the annotations of the training images."""
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_sound_sets_pass(coco: Path, ade: Path, caplog: pytest.LogCaptureFixture) -> None:
    check_data(detection())
    check_data(segmentation())
    assert "leaves out" not in caplog.text


def test_parts_that_are_missing_are_named(coco: Path, ade: Path) -> None:
    (coco / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(DatasetError, match=r"val_dataloader: .*instances_val2017\.json.*CocoDataset"):
        check_data(detection())
    (ade / "annotations" / "training").rename(ade / "elsewhere")
    with pytest.raises(DatasetError, match=r"train_dataloader: .*annotations/training.*ADE20KDataset"):
        check_data(segmentation())


def test_missing_images_are_counted_before_training(coco: Path) -> None:
    for number in (1, 3):
        (coco / "train2017" / f"{number}.png").unlink()
    with pytest.raises(DatasetError, match=r"2 image files that are not in '.*train2017': '1\.png', '3\.png'"):
        check_data(detection())


def test_objects_that_mmdet_leaves_out_are_counted(coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][0]["category_id"] = 91
        content["annotations"][1]["bbox"] = [3, 3, 0, 9]
        content["annotations"][2]["category_id"] = -1

    change(coco, edit)
    check_data(detection())
    assert "leaves out 3 objects" in caplog.text
    assert "2 annotations with an unknown category id: annotation 1 with category_id 91, annotation 3" in caplog.text
    assert "1 boxes without area inside their image: annotation 2" in caplog.text


def test_categories_that_are_not_the_classes_are_refused(coco: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]

    change(coco, rename)
    with pytest.raises(DatasetError, match=r"no category 'person', 'bicycle'.*its categories are 'circle', 'square'"):
        check_data(detection())


def test_categories_in_another_order_than_the_classes_are_refused(coco: Path) -> None:
    change(coco, lambda content: content["categories"].reverse())
    with pytest.raises(DatasetError, match=r"another order.*metainfo=dict\(classes=\('toothbrush', 'hair drier'"):
        check_data(detection())


def test_label_images_that_are_missing_or_have_odd_numbers_are_counted(ade: Path) -> None:
    folder = ade / "annotations" / "training"
    (folder / "0.png").unlink()
    for name in ("1.png", "2.png"):
        Image.fromarray(np.full((64, 64), 151, dtype=np.uint8)).save(folder / name)
    with pytest.raises(DatasetError) as caught:
        check_data(segmentation())
    assert "has 3 mistakes" in str(caught.value)
    assert f"1 images without label image in {str(folder)!r}: '0.jpg'" in str(caught.value)
    assert "2 label images with numbers that no class has: '1.png' (151), '2.png' (151)" in str(caught.value)


def test_folder_without_images_of_the_suffix_is_named(ade: Path) -> None:
    for path in (ade / "images" / "training").iterdir():
        path.rename(path.with_suffix(".jpeg"))
    with pytest.raises(DatasetError, match=r"no image whose name ends in '\.jpg'"):
        check_data(segmentation())
