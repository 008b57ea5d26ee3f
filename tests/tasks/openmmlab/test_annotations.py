"""Mistakes in data sets of mmdet and mmseg are told before training, all in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from PIL import Image

pytest.importorskip("mmdet", reason="needs the openmmlab extra")
pytest.importorskip("mmseg", reason="needs the openmmlab extra")

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from tests.configs import shipped_config
from tests.tasks.openmmlab.inputs import write_ade20k, write_coco
from visionssm.data.images import UnreadableImageError
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


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn(path: Path, orientation: int, size: tuple[int, int]) -> None:
    """An image that viewers turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "red").save(path, exif=exif)


def loading(cfg: Config, part: str, **options: Any) -> Config:
    """The config with arguments of the step that loads images."""
    step = next(x for x in cfg[f"{part}_dataloader"].dataset.pipeline if x.type == "LoadImageFromFile")
    step.update(options)
    return cfg


def test_damaged_and_mis_sized_images_are_told_before_training_without_advice_that_mmdet_cannot_take(
    coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cut_off(coco / "train2017" / "1.png")
    Image.new("RGB", (3, 5)).save(coco / "train2017" / "2.png")
    with pytest.raises(DatasetError) as caught:
        check_data(detection())
    assert "1 image files that cannot be read: '1.png' (it cannot be decoded" in str(caught.value)
    assert "1 images of another size than the file says: '2.png' (3×5, annotated as 64×64)" in str(caught.value)
    assert "wrong=" not in str(caught.value)
    assert "take the entries out of the annotation file" in str(caught.value)
    Image.new("RGB", (64, 64)).save(coco / "train2017" / "2.png")
    check_data(loading(detection(), "train", ignore_empty=True))
    assert "1 image files that cannot be read: '1.png'" in caplog.text


def test_masks_that_mmdet_could_not_decode_are_refused(coco: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["annotations"][0]["segmentation"] = {"size": [64, 64], "counts": [5, 5]}

    change(coco, edit)
    with pytest.raises(DatasetError, match="1 masks that cannot be decoded: annotation 1"):
        check_data(detection())


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "area"])
def test_annotations_that_mmdet_would_stumble_over_are_refused(coco: Path, key: str) -> None:
    change(coco, lambda content: content["annotations"][1].pop(key))
    with pytest.raises(DatasetError, match=r"1 annotations without id.*: annotation (2|number 1)\n"):
        check_data(detection())


def test_ids_of_annotations_are_needed_once(coco: Path) -> None:
    change(coco, lambda content: content["annotations"][1].update(id=1))
    with pytest.raises(DatasetError, match=r"or with an id twice: annotation 1\n"):
        check_data(detection())


def test_objects_without_the_mask_that_the_pipeline_loads_are_refused(coco: Path) -> None:
    change(coco, lambda content: content["annotations"][1].pop("segmentation"))
    with pytest.raises(DatasetError, match=r"1 objects without a mask .*: annotation 2 in '1.png'"):
        check_data(detection())
    cfg = detection()
    next(x for x in cfg.train_dataloader.dataset.pipeline if x.type == "LoadAnnotations").with_mask = False
    check_data(cfg)


def test_names_that_lead_out_of_the_set_are_refused(coco: Path, tmp_path: Path) -> None:
    (coco / "train2017" / "1.png").rename(tmp_path / "1.png")
    change(coco, lambda content: content["images"][1].update(file_name=str(tmp_path / "1.png")))
    with pytest.raises(DatasetError, match="1 image files outside of"):
        check_data(detection())


def test_images_that_viewers_turn_need_annotations_of_a_known_way_round(coco: Path) -> None:
    turn(coco / "train2017" / "0.png", 6, (64, 64))
    with pytest.raises(DatasetError, match=r"fit both ways \(say which with color_type=.*'0.png'"):
        check_data(detection())
    for colour in ("color", "color_ignore_orientation"):
        check_data(loading(detection(), "train", color_type=colour))
    turn(coco / "train2017" / "0.png", 6, (30, 64))
    change(coco, lambda content: content["images"][0].update(width=64, height=30))
    check_data(detection())
    change(coco, lambda content: content["images"][0].update(width=30, height=64))
    with pytest.raises(DatasetError, match=r"of the pixels as stored \(set color_type='color_ignore_orientation'"):
        check_data(detection())
    check_data(loading(detection(), "train", color_type="color_ignore_orientation"))


def test_a_set_without_images_is_refused(coco: Path) -> None:
    change(coco, lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(DatasetError, match="names no usable image"):
        check_data(detection())


def test_sets_within_others_are_looked_at(coco: Path) -> None:
    (coco / "train2017" / "1.png").unlink()
    cfg = detection()
    inner = cfg.train_dataloader.dataset
    for outer in (dict(type="RepeatDataset", times=2, dataset=inner), dict(type="ConcatDataset", datasets=[inner])):
        cfg.train_dataloader.dataset = outer
        with pytest.raises(DatasetError, match=r"1 image files that are not in .*'1\.png'"):
            check_data(cfg)


def test_sets_of_other_formats_are_not_taken_for_coco(coco: Path) -> None:
    change(coco, lambda content: [image.pop("file_name") for image in content["images"]])
    cfg = detection()
    with pytest.raises(DatasetError, match="4 images without id, file_name"):
        check_data(cfg)
    cfg.train_dataloader.dataset.type = "LVISV1Dataset"
    check_data(cfg)


def test_a_single_class_is_a_list(coco: Path, ade: Path) -> None:
    for cfg in (detection(), segmentation()):
        cfg.train_dataloader.dataset.metainfo = dict(classes="water")
        with pytest.raises(DatasetError, match=r"got the string 'water'; write classes=\['water'\]"):
            check_data(cfg)


def test_label_images_with_colours_of_other_sizes_and_damaged_ones_are_counted(ade: Path) -> None:
    labels, images = ade / "annotations" / "training", ade / "images" / "training"
    Image.new("RGB", (64, 64)).save(labels / "0.png")
    Image.new("L", (64, 60)).save(labels / "1.png")
    cut_off(labels / "2.png")
    cut_off(images / "3.jpg")
    with pytest.raises(DatasetError) as caught:
        check_data(segmentation())
    text = str(caught.value)
    for line in (
        "has 4 mistakes",
        "1 label images with colours instead of class numbers: '0.png' (mode RGB)",
        "1 label images of another size than their image: '1.png' (64×64 and 64×60)",
        "1 files that cannot be read: '2.jpg'",
        "1 image files that cannot be read: '3.jpg'",
    ):
        assert line in text, line
    assert "wrong=" not in text


def test_label_images_of_images_that_viewers_turn_need_a_known_way_round(ade: Path) -> None:
    turn(ade / "images" / "training" / "0.jpg", 6, (64, 64))
    with pytest.raises(DatasetError, match=r"fit both ways \(say which with color_type=.*'0.jpg'"):
        check_data(segmentation())
    check_data(loading(segmentation(), "train", color_type="color"))
    turn(ade / "images" / "training" / "0.jpg", 8, (64, 30))
    Image.new("L", (64, 30)).save(ade / "annotations" / "training" / "0.png")
    with pytest.raises(DatasetError, match=r"of the pixels as stored"):
        check_data(segmentation())
    check_data(loading(segmentation(), "train", color_type="color_ignore_orientation"))
    Image.new("L", (30, 64)).save(ade / "annotations" / "training" / "0.png")
    check_data(segmentation())


def test_mmcvs_loader_says_which_file_it_cannot_read_or_passes_it_over(coco: Path) -> None:
    path = coco / "train2017" / "1.png"
    cut_off(path)
    with pytest.raises(UnreadableImageError, match=r"1\.png"):
        TRANSFORMS.build(dict(type="LoadImageFromFile"))({"img_path": str(path)})
    assert TRANSFORMS.build(dict(type="LoadImageFromFile", ignore_empty=True))({"img_path": str(path)}) is None


@pytest.mark.parametrize("colour", ["color", "grayscale", "color_ignore_orientation", "grayscale_ignore_orientation"])
def test_mmcvs_loader_keeps_its_arguments(tmp_path: Path, colour: str) -> None:
    turn(tmp_path / "a.png", 6, (6, 4))
    step = TRANSFORMS.build(dict(type="LoadImageFromFile", color_type=colour, to_float32=True))
    image = step({"img_path": str(tmp_path / "a.png")})["img"]
    assert image.dtype == np.float32
    assert image.shape[:2] == ((4, 6) if colour.endswith("orientation") else (6, 4))
    expected = [76] if colour.startswith("gray") else [0, 0, 255]
    np.testing.assert_array_equal(np.unique(image.reshape(24, -1), axis=0), [expected])
    whole = TRANSFORMS.build(dict(type="LoadImageFromFile", color_type="unchanged"))
    assert whole({"img_path": str(tmp_path / "a.png")})["img"].shape == (4, 6, 3)
