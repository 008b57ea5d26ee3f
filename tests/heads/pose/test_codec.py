"""Key points to heat maps and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionssm.heads.pose.codec import decode, encode, flip_maps, flip_order

SIZE = (64, 96)
HALF = 2.0  # half a pixel of the heat maps, in pixels of the crop
PAIRS = [(0, 1), (2, 3)]

# The nearest pixel of the heat map is inside.
points_inside = st.lists(
    st.tuples(st.floats(-1.9, SIZE[1] - 2.1), st.floats(-1.9, SIZE[0] - 2.1)),
    min_size=5,
    max_size=5,
).map(np.array)


def _encode_slowly(points: np.ndarray, visibility: np.ndarray, size: tuple[int, int], sigma: float) -> tuple:
    """The definition, a pixel at a time."""
    rows, columns = size[0] // 4, size[1] // 4
    maps, weights = np.zeros((len(points), rows, columns)), np.zeros(len(points))
    for k, (x, y) in enumerate(points):
        if not visibility[k]:
            continue
        u, v = int(x / 4 + 0.5), int(y / 4 + 0.5)
        for i in range(rows):
            for j in range(columns):
                if abs(j - u) <= 3 * sigma and abs(i - v) <= 3 * sigma:
                    maps[k, i, j] = math.exp(-((j - u) ** 2 + (i - v) ** 2) / (2 * sigma**2))
                    weights[k] = 1
    return maps, weights


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.floats(-60, 160), st.floats(-60, 120)), min_size=1, max_size=3).map(np.array),
    st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    st.integers(0, 2),
)
def test_maps_are_the_definition(points: np.ndarray, sigma: float, seen: int) -> None:
    visibility = np.full(len(points), 2)
    visibility[0] = seen
    maps, weights = encode(points, visibility, SIZE, sigma)
    expected, expected_weights = _encode_slowly(points, visibility, SIZE, sigma)
    np.testing.assert_allclose(maps, expected, atol=1e-6)
    np.testing.assert_array_equal(weights, expected_weights)
    assert maps.dtype == weights.dtype == np.float32


@settings(deadline=None, max_examples=40)
@given(points_inside, st.sampled_from([1.0, 2.0, 3.0]))
def test_decoding_finds_encoded_points_within_half_a_pixel_of_the_map(points: np.ndarray, sigma: float) -> None:
    maps, weights = encode(points, np.full(5, 2), SIZE, sigma)
    found, scores = decode(maps[None])
    assert np.abs(found[0] - points).max() <= HALF + 1e-4
    np.testing.assert_array_equal(scores, np.ones((1, 5)))
    np.testing.assert_array_equal(weights, np.ones(5))


@settings(deadline=None, max_examples=40)
@given(points_inside)
def test_flip_test_finds_encoded_points_within_half_a_pixel_of_the_map(points: np.ndarray) -> None:
    points[:, 0] = points[:, 0].clip(2.1, SIZE[1] - 3.1)  # on the mirrored map too, which is shifted
    seen, order = np.full(5, 2), flip_order(PAIRS, 5)
    mirrored = (points * [-1, 1] + [SIZE[1] - 1, 0])[order]
    mirrored_maps, _ = encode(mirrored, seen, SIZE)
    found, _ = decode(mirrored_maps[None])
    assert np.abs((found[0] * [-1, 1] + [SIZE[1] - 1, 0])[order] - points).max() <= HALF + 1e-4
    both = (encode(points, seen, SIZE)[0] + flip_maps(mirrored_maps, PAIRS)) / 2
    found, _ = decode(both[None])
    assert np.abs(found[0] - points).max() <= HALF + 1e-4


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_flipping_twice_is_the_identity_and_the_shift_moves_one_pixel(kind: object) -> None:
    maps = np.random.default_rng(0).random((2, 5, 4, 6), dtype=np.float32)
    flipped = flip_maps(kind(maps), PAIRS, shift=False)  # type: ignore[operator]
    assert type(flipped) is type(kind(maps))  # type: ignore[operator]
    np.testing.assert_array_equal(flip_maps(flipped, PAIRS, shift=False), maps)
    np.testing.assert_array_equal(np.asarray(flipped)[:, 0], maps[:, 1, :, ::-1])
    np.testing.assert_array_equal(np.asarray(flipped)[:, 4], maps[:, 4, :, ::-1])
    shifted = np.asarray(flip_maps(kind(maps), PAIRS))  # type: ignore[operator]
    np.testing.assert_array_equal(shifted[..., 1:], np.asarray(flipped)[..., :-1])
    np.testing.assert_array_equal(shifted[..., 0], np.asarray(flipped)[..., 0])


@settings(deadline=None)
@given(st.permutations(range(9)), st.integers(0, 4))
def test_swapping_points_twice_is_the_identity(numbers: list[int], count: int) -> None:
    pairs = [(numbers[2 * i], numbers[2 * i + 1]) for i in range(count)]
    order = flip_order(pairs, 9)
    assert [order[i] for i in order] == list(range(9))
    assert all(order[a] == b and order[b] == a for a, b in pairs)
    assert sum(i != j for i, j in enumerate(order)) == 2 * count


@pytest.mark.parametrize("pairs", [[(0, 0)], [(0, 1), (1, 2)], [(0, 1), (0, 1)], [(0, 5)], [(-1, 2)], [(0, 1, 2)]])
def test_pairs_that_do_not_match_are_refused(pairs: list) -> None:
    with pytest.raises(ValueError, match="flip pairs"):
        flip_maps(np.zeros((5, 4, 4)), pairs)


def test_points_move_a_quarter_towards_the_higher_neighbour() -> None:
    maps = np.zeros((1, 4, 5, 6), dtype=np.float32)
    maps[0, :, 2, 3] = 1
    maps[0, 0, 2, 4] = 0.5
    maps[0, 1, 1, 3] = maps[0, 1, 2, 2] = 0.5
    maps[0, 2, :, :] = -1
    maps[0, 3, 0, 0] = 2  # in a corner: it has one neighbour on each axis, which says nothing
    maps[0, 3, 0, 1] = 1
    points, scores = decode(maps)
    assert points[0].tolist() == [[13.0, 8.0], [11.0, 7.0], [-4.0, -4.0], [0.0, 0.0]]
    assert scores[0].tolist() == [1.0, 1.0, -1.0, 2.0]


def test_no_visible_point_gives_maps_and_weights_of_zeros_that_decode_to_outside() -> None:
    maps, weights = encode(np.full((3, 2), np.nan), np.zeros(3), SIZE)
    assert not maps.any()
    assert not weights.any()
    points, scores = decode(maps[None])
    assert (points == -4).all()
    assert not scores.any()


def test_people_cut_off_by_the_border_learn_from_what_is_inside() -> None:
    # At sigma 2 a Gaussian reaches 6 pixels of the map.
    outside: Any = [[-4 * 7 - 2, 8], [-4 * 6, 8], [96 + 4 * 5, 8], [96 + 4 * 6, 8], [1e30, 8], [8, -1e300]]
    maps, weights = encode(outside, np.full(6, 2), SIZE, sigma=2.0)
    assert weights.tolist() == [0, 1, 1, 0, 0, 0]
    assert [x.any() for x in maps] == weights.tolist()
    assert maps.max() < 1


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        encode([[0, 0]], [1], (64, 90))
    with pytest.raises(ValueError, match="sigma=0"):
        encode([[0, 0]], [1], SIZE, sigma=0)
    with pytest.raises(ValueError, match=r"\(K, 2\) and \(K,\)"):
        encode([[0, 0]], [1, 1], SIZE)
    with pytest.raises(ValueError, match="finite"):
        encode([[0, math.inf]], [1], SIZE)
    with pytest.raises(ValueError, match=r"expected \(B, K, H/4, W/4\)"):
        decode(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="1 of 2 heat maps have no finite maximum"):
        decode(np.array([[[[0.0, 1.0]], [[0.0, math.nan]]]]))
