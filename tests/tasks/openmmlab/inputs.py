"""Made images with boxes, masks and labels for models of mmdet and mmseg, in memory and as a COCO folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDE = 64
BOX = (8, 12, 40, 44)


def detection_batch(count: int = 2, side: int = SIDE, classes: int = 2) -> dict[str, Any]:
    """What mmdet's data loader gives: images with a rectangle each."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    images, samples = [], []
    for number in range(count):
        image = torch.randint(0, 100, (3, side, side), dtype=torch.uint8)
        x1, y1, x2, y2 = BOX
        image[:, y1:y2, x1:x2] = 220
        mask = np.zeros((1, side, side), dtype=np.uint8)
        mask[0, y1:y2, x1:x2] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_id=number,
                img_shape=(side, side),
                ori_shape=(side, side),
                scale_factor=(1.0, 1.0),
                batch_input_shape=(side, side),
                pad_shape=(side, side),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([BOX], dtype=torch.float32),
            labels=torch.tensor([number % classes]),
            masks=BitmapMasks(mask, side, side),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        images.append(image)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def segmentation_batch(count: int = 2, side: int = SIDE, classes: int = 2) -> dict[str, Any]:
    """What mmseg's data loader gives."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images, samples = [], []
    for _ in range(count):
        images.append(torch.randint(0, 255, (3, side, side), dtype=torch.uint8))
        sample = SegDataSample(metainfo=dict(img_shape=(side, side), ori_shape=(side, side), pad_shape=(side, side)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, classes, (1, side, side)))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def write_coco(folder: Path, count: int = 4, side: int = SIDE) -> Path:
    """A COCO data set of images with one rectangle each, the same for training and validation; COCO's 80 categories."""
    from mmdet.datasets import CocoDataset

    x1, y1, x2, y2 = BOX
    polygon = [x1, y1, x2, y1, x2, y2, x1, y2]
    area = (x2 - x1) * (y2 - y1)
    names = [f"{number}.png" for number in range(count)]
    content = {
        "images": [dict(id=i, file_name=name, width=side, height=side) for i, name in enumerate(names)],
        "categories": [dict(id=i + 1, name=name) for i, name in enumerate(CocoDataset.METAINFO["classes"])],
        "annotations": [
            dict(
                id=i + 1, image_id=i, category_id=1, bbox=[x1, y1, x2 - x1, y2 - y1], area=area, iscrowd=0,
                segmentation=[polygon],
            )
            for i in range(count)
        ],
    }  # fmt: skip
    (folder / "annotations").mkdir(parents=True)
    for part in ("train2017", "val2017"):
        (folder / part).mkdir()
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        for i, name in enumerate(names):
            pixels = np.random.default_rng(i).integers(0, 100, (side, side, 3), dtype=np.uint8)
            pixels[y1:y2, x1:x2] = 220
            Image.fromarray(pixels).save(folder / part / name)
    return folder


def write_ade20k(folder: Path, count: int = 4, side: int = SIDE) -> Path:
    """A data set in ADE20K's layout: images of two halves, labels 1 and 2."""
    for part in ("training", "validation"):
        for kind in ("images", "annotations"):
            (folder / kind / part).mkdir(parents=True)
        for i in range(count):
            labels = np.ones((side, side), dtype=np.uint8)
            labels[:, side // 2 :] = 2
            pixels = np.random.default_rng(i).integers(0, 100, (side, side, 3), dtype=np.uint8)
            pixels[labels == 2] += 120
            Image.fromarray(pixels).save(folder / "images" / part / f"{i}.jpg")
            Image.fromarray(labels).save(folder / "annotations" / part / f"{i}.png")
    return folder
