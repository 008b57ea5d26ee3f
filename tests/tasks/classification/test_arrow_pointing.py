"""Arrow pointing: the published samples, pixel by pixel, and labels that follow from the geometry."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference_cases import find_cases
from visionssm.tasks.classification.arrow_pointing import SPLITS, ArrowPointingDataset, draw, draw_parameters

SPLITS_OF_CASES = [split for case in find_cases("arrow pointing") for split in case.data["splits"].items()]
SAMPLES = [
    pytest.param(split["seed"], split["size"], sample, id=f"{name}-{sample['index']}")
    for name, split in SPLITS_OF_CASES
    for sample in split["samples"]
]


@pytest.mark.parametrize("seed,size,sample", SAMPLES)
def test_samples_are_the_published_ones_to_the_pixel(seed: int, size: int, sample: dict) -> None:
    arrow = draw_parameters(seed, sample["index"], (size, size))
    for name, value in dataclasses.asdict(arrow).items():
        assert value == pytest.approx(sample[name], rel=1e-7), name
    image = np.asarray(draw(arrow, (size, size)))
    assert (image == image[..., :1]).all()
    assert sorted(np.unique(image).tolist()) == sample["values"]
    assert (image[..., 0] == 0).sum() == sample["dark_pixels"]
    if "dark_runs" in sample:  # the first of every split
        expected = np.full((size, size), 255, dtype=np.uint8)
        for row, first, end in sample["dark_runs"]:
            expected[row, first:end] = 0
        np.testing.assert_array_equal(image[..., 0], expected)


@pytest.mark.parametrize("name,split", SPLITS_OF_CASES)
def test_splits_of_the_case_have_the_published_seeds(name: str, split: dict) -> None:
    assert SPLITS[name].size == split["size"]
    assert name == "train" or SPLITS[name].seed == split["seed"]  # published runs train on seeds 42 to 47


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**31), index=st.integers(0, 10**6), size=st.sampled_from([192, 200, 384]))
def test_label_says_whether_the_ray_meets_the_disc(seed: int, index: int, size: int) -> None:
    arrow = draw_parameters(seed, index, (size, size))
    to_disc = np.array([arrow.circle_x - arrow.arrow_x, arrow.circle_y - arrow.arrow_y])
    ray = np.array([math.cos(arrow.angle), math.sin(arrow.angle)])
    ahead = to_disc @ ray
    missed_by = abs(to_disc[0] * ray[1] - to_disc[1] * ray[0]) / arrow.radius
    if arrow.label:
        assert ahead > 0
        assert missed_by <= 1 / 1.2 + 1e-9
    else:
        assert ahead < 0 or missed_by >= 1.2 - 1e-9
    assert (np.abs(to_disc) >= 2 * arrow.radius - 1e-9).all()


def test_dataset_is_balanced_and_independent_of_the_order_of_access() -> None:
    data = ArrowPointingDataset("val", samples=300, shrink=4)
    share = np.mean([draw_parameters(data.seed, i, (192, 192)).label for i in range(len(data))])
    assert 0.42 < share < 0.58
    last, first = data[299], data[0]
    assert first["inputs"].shape == (3, 48, 48)
    assert (data[0]["inputs"] == first["inputs"]).all()
    assert not (first["inputs"] == last["inputs"]).all()
    assert data.metainfo["input"]["size"] == (3, 48, 48)
    assert (data.seed, data.sample_name(7)) == (100_042, "arrow_100042_000007")


def test_extrapolation_split_has_the_same_objects_on_a_larger_canvas() -> None:
    small, large = ArrowPointingDataset("test"), ArrowPointingDataset("test_ext")
    assert small[0]["inputs"].shape == (3, 192, 192)
    assert large[0]["inputs"].shape == (3, 384, 384)
    assert len(small) == len(large) == 10_240
    distances = [
        np.mean([math.hypot(a.circle_x - a.arrow_x, a.circle_y - a.arrow_y) for a in arrows])
        for arrows in (
            [draw_parameters(data.seed, i, (data.size, data.size)) for i in range(200)] for data in (small, large)
        )
    ]
    assert distances[1] > 1.5 * distances[0]


def test_other_arrows_leave_the_rest_of_a_sample_as_it_is() -> None:
    for index in range(20):
        usual = draw_parameters(42, index, (192, 192))
        large = draw_parameters(42, index, (192, 192), arrow_length=(40, 60), arrow_width=(5, 8))
        assert 40 <= large.arrow_length < 60
        assert 5 <= large.arrow_width < 8
        same = {"arrow_length": usual.arrow_length, "arrow_width": usual.arrow_width}
        assert dataclasses.replace(large, **same) == usual


def test_background_is_zero_where_the_mean_is_white() -> None:
    data = ArrowPointingDataset("train", shrink=4, mean=(1.0,) * 3, std=(0.25,) * 3)
    image = data[0]["inputs"]
    assert image.median() == image.max() == 0
    assert image.min() == -4
    assert data.metainfo["input"]["mean"] == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"samples": 1},
        {"size": 180},
        {"shrink": 2},
        {"arrow_length": (1, 1)},
        {"arrow_length": (60, 60)},
        {"arrow_width": (1, 1)},
        {"std": (1e-6, 1e-6, 1e-6)},
    ],
)
def test_values_at_the_limits_are_allowed(arguments: dict) -> None:
    data = ArrowPointingDataset("train", **arguments)
    assert {name: getattr(data, name) for name in arguments} == arguments


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"split": "train", "size": 179}, "size=179 leaves no room"),
        ({"split": "train", "shrink": 0}, "does not divide"),
        ({"split": "train", "arrow_length": (0, 5)}, "must rise, from 1"),
        ({"split": "train", "arrow_length": (60, 61)}, "must rise, from 1 to 60"),
        ({"split": "train", "arrow_width": (0, 2)}, "must rise, from 1"),
        ({"split": "train", "std": (1.0, 0.0, 1.0)}, "above 0"),
        ({"split": "tset"}, "closest: 'test'"),
        ({"split": "train", "samples": 0}, "at least 1"),
        ({"split": "train", "size": 100}, "180"),
        ({"split": "train", "shrink": 5}, "does not divide"),
        ({"split": "train", "arrow_length": (50, 70)}, "leave the canvas"),
        ({"split": "train", "arrow_width": (3, 2)}, "must rise"),
        ({"split": "train", "mean": (1.0,)}, "three numbers"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrowPointingDataset(**arguments)


def test_numbers_outside_the_split_are_refused() -> None:
    with pytest.raises(IndexError, match="outside the 10 samples"):
        ArrowPointingDataset("val", samples=10)[10]
