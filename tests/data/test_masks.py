"""Masks in COCO's forms: decoded as pycocotools does, or refused before its C code reads past their end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coder

from visionssm.data.masks import check_mask, decode_mask, uncompressed_rle

HEIGHT, WIDTH = 20, 30


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), density=st.floats(0, 1), height=st.integers(1, 40), width=st.integers(1, 300))
def test_run_lengths_of_any_mask_are_accepted_and_decoded(seed: int, density: float, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    packed = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    for form in (uncompressed_rle(mask), packed, {**packed, "counts": packed["counts"].decode()}):
        check_mask(form, height, width)
        np.testing.assert_array_equal(decode_mask(form, height, width), mask)


def compressed() -> str:
    """Run lengths of a mask with a hole."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[3:17, 2:28] = 1
    mask[8:12, 10:20] = 0
    return coder.encode(np.asfortranarray(mask))["counts"].decode()


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        {},
        "text",
        5,
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, "6"]],
        [[1, 2, 3, 4, 5, None]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, 1e300]],
        [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, 2_000_000_000]],
        [5, 5, 5, 5, 5, 5],
        {"size": [HEIGHT, WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": None},
        {"size": [HEIGHT, WIDTH], "counts": [1, 2]},
        {"size": [HEIGHT, WIDTH], "counts": [-5, HEIGHT * WIDTH + 5]},
        {"size": [HEIGHT, WIDTH], "counts": ["a"]},
        {"size": [HEIGHT, WIDTH], "counts": [float(HEIGHT * WIDTH)]},
        {"size": [HEIGHT, WIDTH], "counts": ""},
        {"size": [HEIGHT, WIDTH], "counts": "\x00"},
        {"size": [HEIGHT, WIDTH], "counts": "ü"},
        {"size": [HEIGHT, WIDTH], "counts": compressed()[:-1]},
        {"size": [HEIGHT, WIDTH], "counts": compressed() + "o"},
        {"size": [HEIGHT, WIDTH], "counts": compressed() + "1"},
        {"size": [HEIGHT, WIDTH], "counts": "P" * 40},
        {"size": [HEIGHT, WIDTH], "counts": "oooooooooo0"},
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": "big", "counts": [HEIGHT * WIDTH]},
    ],
)
def test_what_cannot_be_decoded_is_refused_beforehand(segmentation: Any) -> None:
    with pytest.raises(ValueError):
        check_mask(segmentation, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="segmentation"):
        decode_mask(segmentation, HEIGHT, WIDTH)


def test_polygons_may_reach_out_of_their_image() -> None:
    inside = decode_mask([[5, 5, 30, 5, 30, 20, 5, 20]], HEIGHT, WIDTH)
    np.testing.assert_array_equal(decode_mask([[5, 5, 60, 5, 60, 50, 5, 50]], HEIGHT, WIDTH), inside)
