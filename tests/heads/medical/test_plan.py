"""The planner gives the networks that nnU-Net plans for the data of U-Mamba, and plans that do not fit are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import visionssm
from visionssm.heads.medical import Plan, plan
from visionssm.heads.medical.plan import _numbers_in_maps
from visionssm.heads.medical.umamba import ABDOMEN_CT, ABDOMEN_MR, ABDOMEN_MR_SLICES, MICROSCOPY

CASES = 50


@pytest.mark.parametrize(
    ("spacing", "shape", "classes", "dims", "expected"),
    [
        ((2.5, 0.85, 0.85), (83, 418, 363), 14, 3, ABDOMEN_CT),
        ((3.0, 1.25, 1.25), (72, 200, 280), 14, 3, ABDOMEN_MR),
        ((3.0, 1.25, 1.25), (72, 320, 320), 14, 2, ABDOMEN_MR_SLICES),
        ((1.0, 1.0), (512, 512), 3, 2, MICROSCOPY),
    ],
    ids=["CT", "MR", "slices of MR", "microscopy"],
)
def test_data_like_the_authors_give_their_plans(
    spacing: tuple[float, ...], shape: tuple[int, ...], classes: int, dims: int, expected: Plan
) -> None:
    made = plan([spacing] * 2000, [shape] * 2000, num_classes=classes, spatial_dims=dims)
    assert (made.patch, made.widths, made.strides, made.kernels) == (
        expected.patch,
        expected.widths,
        expected.strides,
        expected.kernels,
    )
    assert made.spacing == spacing[-dims:]
    if expected.batch_size is not None:
        assert made.batch_size == expected.batch_size


def test_coarsest_axis_comes_first() -> None:
    made = plan([(0.8, 2.5, 0.9)] * CASES, [(300, 90, 330)] * CASES)
    assert made.axes == (1, 2, 0)
    assert made.spacing == (2.5, 0.9, 0.8)
    assert plan([(0.8, 2.5, 0.9)] * CASES, [(300, 90, 330)] * CASES, spatial_dims=2).axes == (2, 0)


def test_spacing_is_the_median_and_of_a_much_coarser_axis_a_tenth_percentile() -> None:
    slices = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0]
    made = plan([(s, 1.0, 1.0) for s in slices], [(30, 200, 200)] * 11)
    assert made.spacing == (4.0, 1.0, 1.0)
    made = plan([(s, 3.0, 3.0) for s in slices], [(30, 200, 200)] * 11)  # less than three times as coarse
    assert made.spacing == (8.0, 3.0, 3.0)


def test_kernels_are_flat_until_the_spacings_are_alike() -> None:
    made = plan([(6.0, 1.0, 1.0)] * CASES, [(20, 256, 256)] * CASES)
    assert made.strides[:4] == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert made.kernels[:3] == ((1, 3, 3), (1, 3, 3), (3, 3, 3))


def test_batch_is_at_most_a_twentieth_of_the_data_and_at_least_two() -> None:
    assert plan([(1.0, 1.0)] * 100, [(64, 64)] * 100).batch_size == 5
    assert plan([(1.0, 1.0)] * 3, [(64, 64)] * 3).batch_size == 2


def test_numbers_in_maps_are_those_of_a_plain_u_net() -> None:
    encoder = 2 * (32 * 64 + 64 * 16)  # two convolutions at 8x8 and at 4x4
    decoder = 32 * 64 + 2 * 32 * 64 + 5 * 64  # a transposed convolution, two others and the logits at 8x8
    assert _numbers_in_maps(np.array([8, 8]), [(1, 1), (2, 2)], num_classes=5) == encoder + decoder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": (1, 2)}, r"strides=\(1, 2\) is for 2 stages, but widths=\(8, 16, 32\) for 3"),
        ({"kernels": (3, 3, 3, 3)}, "kernels=.* is for 4 stages"),
        ({"blocks": (2, 2)}, "blocks=.* is for 2 stages"),
        ({"strides": (2, 2, 2)}, "begin with 1"),
        ({"strides": (1, 2, (2, 2, 2))}, "3 axes, but patch has 2"),
        ({"strides": (1, 2, 0)}, "positive whole numbers"),
        ({"kernels": (3, 3, 4)}, "must be odd"),
        ({"patch": (30, 32)}, r"reduce it by \(4, 4\); take \(32, 32\)"),
        ({"patch": (30,)}, r"1 axes; give \(H, W\) or \(D, H, W\)"),
        ({"widths": (8,), "strides": (1,)}, "at least two stages"),
        ({"patch": 32}, "patch=32 must be positive whole numbers, in a list"),
        ({"widths": "8"}, "widths='8' must be positive whole numbers"),
        ({"widths": (8, None, 32)}, r"widths=\(8, None, 32\) must be positive"),
        ({"widths": (8, float("nan"), 32)}, "widths=.*nan.* must be positive"),
        ({"strides": 2}, "strides=2 must be a list with one entry per stage"),
        ({"strides": (1, 2, "2")}, "strides='2' must be positive whole numbers"),
        ({"blocks": 2}, "blocks=2 must be positive whole numbers, in a list"),
        ({"spacing": (1.0,)}, r"spacing=\(1.0,\) must be 2 positive numbers"),
        ({"spacing": (1.0, -1.0)}, "spacing=.* must be 2 positive numbers"),
        ({"axes": (1, "x")}, "axes=.* must be 2 whole numbers"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
    ],
)
def test_plan_that_does_not_fit_together_is_refused(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"patch": (32, 32), "widths": (8, 16, 32), "strides": (1, 2, 2)}
    assert Plan(**fitting).reduction == (4, 4)
    with pytest.raises(ValueError, match=message):
        Plan(**{**fitting, **change})


@pytest.mark.parametrize(
    ("spacings", "shapes", "message"),
    [
        ([(1.0, 1.0)], [(8, 8), (8, 8)], r"\(1, 2\) and shapes of shape \(2, 2\)"),
        ([(1.0, 0.0)], [(8, 8)], "must be positive"),
        ([(1.0, float("nan"))], [(8, 8)], "must be positive"),
    ],
)
def test_data_that_cannot_be_planned_for_are_refused(spacings: Any, shapes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(spacings, shapes)
    with pytest.raises(ValueError, match="spatial_dims=3"):
        plan([(1.0, 1.0)], [(64, 64)], spatial_dims=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"patch": (32, 32), "width": (8, 16), "strides": (1, 2)},
            r"plan: unknown key 'width' with the value \(8, 16\); closest: 'widths'; known are patch, widths",
        ),
        ({"patch": (32, 32)}, "plan lacks widths, strides; it has patch"),
        ([32, 32], r"plan must be a dict, got \[32, 32\]"),
    ],
)
def test_entries_that_a_plan_does_not_have_or_lacks_are_told(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visionssm.create_segmenter("umamba_enc2d_nano", plan=given)
