"""Dice, distances and pooled counts on shapes of known distance, and against MONAI's figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import ConfusionMatrixMetric, compute_dice, compute_hausdorff_distance
from scipy.ndimage import binary_erosion, distance_transform_edt

from visionssm.tasks.medical.measures.hausdorff import hd95
from visionssm.tasks.medical.measures.overlap import Counts, counts_of, pooled
from visionssm.tasks.medical.measures.surface_dice import nsd
from visionssm.tasks.medical.metric import MedicalMetric


def box(*corners: tuple[int, int], shape: tuple[int, ...] = (12, 16, 20)) -> np.ndarray:
    """A mask of a box."""
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*x) for x in corners)] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...] = (9, 14, 11)) -> np.ndarray:
    noise = np.random.default_rng(seed).random(shape)
    return noise > 0.7


def by_definition(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    """HD95 as medpy writes it."""
    edges = [x & ~binary_erosion(x) for x in (a, b)]
    distances = [distance_transform_edt(~edges[1 - i], sampling=spacing)[edges[i]] for i in range(2)]
    return float(np.percentile(np.concatenate(distances), 95))


def onehot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([~mask, mask])[None].astype(np.float32))


def test_boxes_apart_have_their_distance_in_mm() -> None:
    a = box((2, 3), (2, 3), (2, 3))
    assert hd95(a, box((2, 3), (2, 3), (9, 10))) == 7
    assert hd95(a, box((6, 7), (2, 3), (2, 3)), (3.0, 1.0, 1.0)) == 12
    assert hd95(a, a) == 0


def test_hd95_is_medpys_and_not_the_larger_of_two_percentiles() -> None:
    spacing = (2.5, 1.0, 0.7)
    different = 0
    for seed in range(5):
        a, b = blobs(seed), blobs(seed + 100) & box((0, 9), (0, 8), (0, 11), shape=(9, 14, 11))
        assert hd95(a, b, spacing) == pytest.approx(by_definition(a, b, spacing), rel=1e-6)
        monai = compute_hausdorff_distance(onehot(a), onehot(b), percentile=95, spacing=list(spacing)).item()
        different += abs(monai - hd95(a, b, spacing)) > 1e-3
    assert different


def test_region_at_the_border_of_the_array_has_a_surface_there() -> None:
    whole = np.ones((5, 6), bool)
    inner = np.zeros((5, 6), bool)
    inner[1:4, 1:5] = True
    assert hd95(whole, inner) == pytest.approx(by_definition(whole, inner, (1, 1)))


def test_surfaces_within_the_tolerance_count_as_equal() -> None:
    a, moved = box((2, 8), (2, 8), (2, 8)), box((2, 8), (2, 8), (4, 10))
    assert nsd(a, moved, 2.0) == 1
    assert nsd(a, moved, 1.9, (1.0, 1.0, 1.0)) < 1
    assert nsd(a, moved, 2.0, (1.0, 1.0, 1.5)) < 1  # 3 mm now
    assert nsd(a, moved, 3.0, (1.0, 1.0, 1.5)) == 1
    far = box((2, 8), (2, 8), (14, 20))
    assert nsd(a, far, 1.0) == 0


def test_measures_of_empty_regions_are_not_defined() -> None:
    a, nothing = box((2, 4), (2, 4), (2, 4)), np.zeros((12, 16, 20), bool)
    assert math.isnan(hd95(a, nothing))
    assert math.isnan(hd95(nothing, a))
    assert nsd(a, nothing, 1.0) == nsd(nothing, a, 1.0) == 0
    assert math.isnan(nsd(nothing, nothing, 1.0))
    assert math.isnan(counts_of(nothing, nothing).dice)
    assert counts_of(a, nothing).dice == 0


def test_dice_and_pooled_figures_are_monais() -> None:
    pairs = [(blobs(seed), blobs(seed + 50)) for seed in range(4)]
    for a, b in pairs:
        expected = compute_dice(onehot(a), onehot(b), include_background=False).item()
        assert counts_of(a, b).dice == pytest.approx(expected, rel=1e-6)
    names = ["threat score", "f1 score", "accuracy", "sensitivity", "specificity"]
    metric = ConfusionMatrixMetric(include_background=False, metric_name=names, compute_sample=False, reduction="sum")
    for a, b in pairs:
        metric(onehot(a), onehot(b))
    total = pooled(counts_of(a, b) for a, b in pairs)
    found = (total.iou, total.dice, total.accuracy, total.sensitivity, total.specificity)
    assert found == pytest.approx([x.item() for x in metric.aggregate()], rel=1e-6)


def rows(*pairs: tuple[list[int], list[int]]) -> list[dict[str, Any]]:
    """Cases of four pixels each: predicted and true class numbers."""
    return [
        {
            "index": index,
            "predicted": np.array(predicted).reshape(2, 2),
            "truth": np.array(truth).reshape(2, 2),
            "pixels": np.zeros((1, 2, 2), np.float32),
            "spacing": (1.0, 1.0),
        }
        for index, (predicted, truth) in enumerate(pairs)
    ]


def evaluated(metric: MedicalMetric, cases: list[dict[str, Any]]) -> dict[str, float]:
    metric.dataset_meta = {"classes": ["background", "a", "b"]}
    metric.process(None, cases)
    return metric.compute_metrics(metric.results)


CASES = [([1, 1, 0, 2], [1, 0, 0, 0]), ([0, 0, 0, 0], [1, 1, 0, 0])]
"""Of class "a" Dice 2/3 and 0; of "b" predicted without truth, and neither."""


def test_means_are_over_cases_then_classes_without_what_is_not_defined() -> None:
    figures = evaluated(MedicalMetric(regions={"both": ["a", "b"]}, keep=0), rows(*CASES))
    assert figures == pytest.approx({"dice": 1 / 6, "dice_a": 1 / 3, "dice_b": 0.0, "dice_both": 0.25})


def test_empty_cases_count_as_in_the_authors_evaluation_when_asked() -> None:
    metric = MedicalMetric(hd95=True, voxels=True, empty="medpy", keep=0)
    figures = evaluated(metric, rows(*CASES))
    assert figures["dice_b"] == 0.5  # 1 where it was predicted without truth, 0 where neither
    assert figures["hd95_b"] == 0
    assert figures["dice_a"] == pytest.approx(1 / 3)
    assert figures["hd95_a"] == pytest.approx(
        by_definition(*(np.array([x], bool) for x in ([1, 1], [1, 0])), (1, 1)) / 2
    )


def test_pooled_figures_are_of_all_pixels_and_others_means_over_images() -> None:
    figures = evaluated(MedicalMetric(pooled=True, keep=0), rows(([1, 1, 0, 0], [1, 0, 0, 0]), ([0] * 4, [1, 1, 1, 0])))
    assert figures["pooled_iou"] == pytest.approx(1 / 5)
    assert figures["pooled_dice"] == pytest.approx(2 / 6)
    assert figures["iou_a"] == pytest.approx((1 / 2 + 0) / 2)
    assert figures["pooled_sensitivity"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("options", "told"),
    [({"empty": "zero"}, "empty='zero' is unknown"), ({"regions": {"x": ["c"]}}, "unknown classes")],
)
def test_unknown_options_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        evaluated(MedicalMetric(**options), rows(CASES[0]))


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="predicted has shape"):
        counts_of(np.zeros((2, 2), bool), np.zeros((2, 3), bool))
    assert Counts(1, 0, 0, 0).accuracy == 1
