"""Intensities and grids of medical images, and the way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom

from visionssm.data.errors import DatasetError
from visionssm.tasks.medical.preparation import INTENSITIES, Preparation, preparation_of
from visionssm.tasks.medical.transforms import build_transforms

NOISE = np.random.default_rng(0).normal(50, 30, (2, 6, 7, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"intensity": "none"}, NOISE),
        ({"intensity": "unit"}, NOISE / 255),
        ({"intensity": "minmax"}, (NOISE - NOISE.min()) / (NOISE.max() - NOISE.min()) * 255),
        ({"intensity": "window", "window": (20, 60)}, np.clip((NOISE - 20) / 40, 0, 1)),
        ({"intensity": "fixed", "window": (20, 60), "mean": 3, "std": 2}, (np.clip(NOISE, 20, 60) - 3) / 2),
        (
            {"intensity": "zscore"},
            (NOISE - NOISE.mean((1, 2, 3), keepdims=True)) / NOISE.std((1, 2, 3), keepdims=True),
        ),
    ],
)
def test_intensities_are_their_formulas(options: dict[str, Any], expected: np.ndarray) -> None:
    found = Preparation(channels=2, **options).image(NOISE, (1, 1, 1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_percentiles_cut_off_every_channels_extremes() -> None:
    found = Preparation(channels=2, intensity="none", percentiles=(5, 95)).image(NOISE, (1, 1, 1)).numpy()
    low, high = np.percentile(NOISE, [5, 95], axis=(1, 2, 3))
    for channel in range(2):
        np.testing.assert_allclose(found[channel], np.clip(NOISE[channel], low[channel], high[channel]), rtol=1e-4)


@pytest.mark.parametrize("intensity", INTENSITIES)
def test_the_pixels_that_are_given_stay_as_they_are(intensity: str) -> None:
    given = NOISE.astype(np.float32)
    kept = given.copy()
    window = (20.0, 60.0) if intensity == "window" else None
    Preparation(channels=2, intensity=intensity, window=window).image(given, (1, 1, 1))
    np.testing.assert_array_equal(given, kept)


def test_constant_images_become_zeros() -> None:
    for intensity in ("minmax", "zscore", "nonzero"):
        found = Preparation(intensity=intensity).image(np.full((1, 4, 4), 7.0), (1, 1))
        assert found.eq(0).all(), intensity


@pytest.mark.parametrize("order", [1, 3])
def test_labels_of_a_box_come_back_from_another_spacing_and_size(order: int) -> None:
    labels = np.zeros((12, 30, 28), int)
    labels[3:9, 6:21, 8:20] = 2
    shape = Preparation(spacing=(1.0, 1.5, 1.5), size=(24, 24), order=order)
    prepared = shape.labels(labels, (2.0, 1.0, 1.0))
    image = shape.image(labels[None].astype(np.float32), (2.0, 1.0, 1.0))
    assert prepared.shape == image.shape[1:] == (24, 24, 24)
    scores = torch.nn.functional.one_hot(prepared, 3).permute(3, 0, 1, 2).float()
    found = shape.restored(scores, labels.shape).numpy()
    assert found.shape == labels.shape
    both = 2 * ((found == 2) & (labels == 2)).sum()
    assert both / ((found == 2).sum() + (labels == 2).sum()) > 0.85
    assert set(np.unique(found)) == {0, 2}


def test_splines_in_the_plane_are_scipys_zoom() -> None:
    volume = NOISE[:1]
    found = Preparation(intensity="none", size=(14, 12), order=3).image(volume, (1, 1, 1))[0].numpy()
    for z in range(6):
        np.testing.assert_allclose(found[z], zoom(volume[0, z], (14 / 7, 12 / 8), order=3), rtol=1e-5, atol=1e-4)
    numbers = torch.randint(3, (1, 14, 12))
    scores = torch.nn.functional.one_hot(numbers, 3).permute(3, 0, 1, 2).float()
    back = Preparation(size=(14, 12), order=3).restored(scores, (1, 7, 8))
    np.testing.assert_array_equal(back[0], zoom(numbers[0].numpy(), (7 / 14, 8 / 12), order=0))


def test_a_single_class_is_compared_with_the_threshold() -> None:
    scores = torch.tensor([[[0.2, 0.5], [0.6, 0.9]]])
    assert Preparation().restored(scores, (2, 2)).tolist() == [[0, 1], [1, 1]]
    assert Preparation().restored(scores, (2, 2), threshold=0.6).tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"intensity": "z"}, "intensity='z' is unknown"),
        ({"intensity": "window"}, "needs window"),
        ({"window": (3, 2)}, "must rise"),
        ({"percentiles": (5, 105)}, "within 0 to 100"),
        ({"spacing": (1, 0, 1)}, "must be positive"),
        ({"size": (10**6, 4)}, "must be 1 to 4096"),
        ({"size": 256}, "size must be 2 numbers, got 256"),
        ({"size": (256.5, 256)}, r"size must be 2 numbers, got \(256.5, 256\); give whole pixels"),
        ({"order": 2}, "order must be 1 or 3"),
        ({"order": "1"}, "order must be a whole number, got '1'"),
        ({"channels": 1.5}, "channels must be a whole number, got 1.5"),
        ({"mean": float("nan")}, "mean must be a number, got nan"),
        ({"window": (0, "x")}, "window must be 2 numbers"),
        ({"std": 0}, "std must be positive"),
    ],
)
def test_wrong_arguments_are_told(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        Preparation(**options)


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        ({"sise": (8, 8)}, r"prepare: unknown key 'sise' with the value \(8, 8\); closest: 'size'"),
        ({"channels": 3}, r"prepare has channels=3, which the data set itself says \(1\)"),
        ([("size", 3)], "prepare must be a dict, got"),
    ],
)
def test_keys_that_a_config_must_not_say_are_told(prepare: Any, told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        preparation_of(prepare, channels=1)


def test_unreasonably_fine_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="are too many"):
        Preparation(spacing=(1e-3, 1e-3, 1e-3)).image(np.zeros((1, 4, 4, 4)), (1, 1, 1))


def test_labels_move_with_the_image_and_keep_their_numbers() -> None:
    steps = [
        dict(type="RandFlipd", prob=1.0, spatial_axis=1),
        dict(type="RandRotated", prob=1.0, range_x=0.5, padding_mode="zeros"),
        dict(type="RandGaussianNoised", prob=1.0, std=1e-3),
    ]
    change = build_transforms(steps)
    assert change is not None
    labels = torch.zeros(32, 32, dtype=torch.int64)
    labels[4:12, 6:20] = 3
    torch.manual_seed(0)
    image, moved = change(labels[None].float(), labels)
    assert set(moved.unique().tolist()) == {0, 3}
    assert not torch.equal(moved, labels)
    assert ((image[0] > 1.5) == (moved == 3)).float().mean() > 0.97
    torch.manual_seed(0)
    again = change(labels[None].float(), labels)
    assert torch.equal(again[0], image)
    assert not torch.equal(change(labels[None].float(), labels)[0], image)  # the angle is not frozen


def test_patches_are_centred_on_foreground() -> None:
    change = build_transforms([dict(type="RandCropByPosNegLabeld", spatial_size=(4, 4, 4), pos=1, neg=0)])
    assert change is not None
    labels = torch.zeros(20, 20, 20, dtype=torch.int64)
    labels[10, 10, 10] = 1
    for _ in range(5):
        image, patch = change(labels[None].float(), labels)
        assert patch.shape == (4, 4, 4)
        assert patch.sum() == 1
        assert torch.equal(image[0].long(), patch)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (dict(type="RandFlip"), "closest: 'RandFlipd'"),
        (dict(type="RandFlipd", p=1), "RandFlipd does not take these arguments"),
    ],
)
def test_unknown_transforms_are_told(step: dict[str, Any], told: str) -> None:
    with pytest.raises(DatasetError, match=told):
        build_transforms([step])
