"""Boxes to crops and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionssm.heads.pose.affine import box_to_centre_scale, inverse, matrix, transform, warp

numbers = st.floats(-500, 500)
sides = st.floats(1, 800)
sizes = st.sampled_from([(256, 192), (384, 288), (64, 128)])


@settings(deadline=None)
@given(numbers, numbers, sides, sides, sizes, st.floats(0.5, 2))
def test_region_holds_the_enlarged_box_and_has_the_crops_shape(
    left: float, top: float, width: float, height: float, size: tuple[int, int], padding: float
) -> None:
    centre, scale = box_to_centre_scale([left, top, left + width, top + height], size, padding)
    np.testing.assert_allclose(centre, [left + width / 2, top + height / 2])
    np.testing.assert_allclose(scale[0] / scale[1], size[1] / size[0])
    larger = scale / (padding * np.array([width, height]))
    assert larger.min() == pytest.approx(1)
    assert larger.max() >= 1


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=1), numbers, numbers, sides, st.floats(-180, 180), sizes)
def test_affine_and_its_inverse_are_the_identity(
    points: list, x: float, y: float, width: float, rotation: float, size: tuple[int, int]
) -> None:
    there = matrix([x, y], [width, width], rotation, size)
    np.testing.assert_allclose(transform(transform(points, there), inverse(there)), points, atol=1e-6)
    np.testing.assert_allclose(transform([x, y], there), [size[1] / 2, size[0] / 2], atol=1e-6)
    enlarged = size[1] / width
    lengths = np.linalg.norm(np.diff(transform([[0, 0], [3, 4]], there), axis=0))
    assert lengths == pytest.approx(5 * enlarged)


def test_way_back_without_rotation_is_the_published_formula() -> None:
    size, centre, scale = (256, 192), np.array([70.0, 40.0]), np.array([90.0, 120.0])
    points = np.random.default_rng(0).random((17, 2)) * [192, 256]
    back = transform(points, inverse(matrix(centre, scale, 0, size)))
    np.testing.assert_allclose(back, points / [192, 256] * scale + centre - scale / 2)


def test_a_region_turned_clockwise_stands_upright_in_the_crop() -> None:
    # A person lies on the right side of the image: the head, 30 to the right of the centre, is above it in the crop.
    there = matrix([100, 100], [60, 80], 90, (80, 60))
    np.testing.assert_allclose(transform([130, 100], there), [30, 10], atol=1e-9)


def test_boxes_come_in_any_number() -> None:
    boxes = np.array([[[0, 0, 10, 20], [5, 5, 50, 9]]])
    centre, scale = box_to_centre_scale(boxes, (256, 192))
    assert centre.shape == scale.shape == (1, 2, 2)
    for i in range(2):
        np.testing.assert_array_equal(box_to_centre_scale(boxes[0, i], (256, 192)), (centre[0, i], scale[0, i]))


def _warp_slowly(image: np.ndarray, there: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear sampling, a pixel at a time; 0 where a neighbour is outside."""
    crop = np.zeros((*size, image.shape[2]))
    back = inverse(there)
    for v in range(size[0]):
        for u in range(size[1]):
            x, y = transform([u, v], back)
            j, i = math.floor(x), math.floor(y)
            for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):
                if 0 <= i + di < image.shape[0] and 0 <= j + dj < image.shape[1]:
                    crop[v, u] += image[i + di, j + dj] * abs(1 - di - (y - i)) * abs(1 - dj - (x - j))
    return crop


@pytest.mark.parametrize("rotation", [0, 35])
def test_crop_is_sampled_bilinearly(rotation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    there = matrix([19.3, 15.2], [15, 20], rotation, (32, 24))  # the whole region is in the image
    crop = warp(image, there, (32, 24))
    assert crop.shape == (32, 24, 3)
    assert crop.dtype == np.uint8
    assert np.abs(crop - _warp_slowly(image, there, (32, 24))).max() <= 1.0


def test_crop_is_black_outside_the_image() -> None:
    image = np.full((20, 20, 3), 200, dtype=np.uint8)
    crop = warp(image, matrix([0, 0], [20, 20], 0, (40, 40)), (40, 40))
    assert not crop[:18].any()
    assert not crop[:, :18].any()
    assert (crop[20:, 20:] == 200).all()
    assert not warp(image, matrix([1000, 0], [20, 20], 0, (40, 40)), (40, 40)).any()


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"1 of 2 boxes have no area, the first \[3.0, 4.0, 3.0, 9.0\]"):
        box_to_centre_scale([[0, 0, 1, 1], [3, 4, 3, 9]], (256, 192))
    with pytest.raises(ValueError, match="no area"):
        box_to_centre_scale([0, 0, math.nan, 1], (256, 192))
    with pytest.raises(ValueError, match="expected"):
        box_to_centre_scale([0, 0, 1], (256, 192))
    with pytest.raises(ValueError, match="padding"):
        box_to_centre_scale([0, 0, 1, 1], (256, 192), padding=0)
    with pytest.raises(ValueError, match="positive"):
        matrix([0, 0], [0, 1], 0, (256, 192))
    with pytest.raises(ValueError, match="shapes"):
        matrix([0, 0, 0], [1, 1], 0, (256, 192))
    with pytest.raises(ValueError, match="invertible"):
        inverse(np.zeros((2, 3)))
