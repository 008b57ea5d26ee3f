"""Average precision is the same with either package that has COCO's evaluation."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from visionssm.data.masks import mask_coder
from visionssm.tasks.detection.metric import average_precision


def _objects(boxes: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    masks = np.zeros((len(boxes), 60, 80), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
        mask[top:bottom, left:right] = 1
    return {"boxes": boxes, "labels": labels, "masks": [mask_coder().encode(np.asfortranarray(x)) for x in masks]}


def _rows() -> list[dict[str, Any]]:
    numbers = np.random.default_rng(0)
    rows = []
    for _ in range(12):
        corner = numbers.uniform(0, 30, (5, 2))
        boxes, labels = np.concatenate([corner, corner + numbers.uniform(8, 28, (5, 2))], 1), numbers.integers(1, 4, 5)
        moved = (boxes + numbers.normal(0, 2, boxes.shape)).clip(0, 58)
        found = _objects(moved, labels) | {"scores": numbers.uniform(0, 1, 5)}
        rows.append({"size": (60, 80), "truth": _objects(boxes, labels) | {"crowd": np.arange(5) == 4}, "found": found})
    return rows


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_both_packages_give_the_same_figures(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocotools")
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    fast = average_precision(_rows(), kind)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert fast == average_precision(_rows(), kind)
    assert 0.1 < fast[0] < fast[1] < 1
