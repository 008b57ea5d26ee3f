"""Moving digits: bouncing clips that are functions of split, seed and index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visionssm.data.seeding import isolated_randomness
from visionssm.tasks.video.data import STEP, MovingDigits, bouncing_path


@pytest.fixture(scope="module")
def data() -> MovingDigits:
    return MovingDigits("train", clips=20, frames=12, size=32)


def test_clip_has_the_models_layout_and_8_bit_levels_in_the_full_range(data: MovingDigits) -> None:
    clip = data[3]["inputs"]
    assert clip.shape == (12, 32, 32, 1)
    assert clip.dtype == torch.float32
    assert data[3]["index"] == 3
    assert clip.min() == -1
    assert 0.8 < clip.max() <= 1
    levels = (clip + 1) / 2 * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)


def test_clip_depends_on_split_seed_and_index_alone(data: MovingDigits) -> None:
    with isolated_randomness(5):
        again = MovingDigits("train", clips=7, frames=12, size=32)[3]["inputs"]
    assert torch.equal(again, data[3]["inputs"])
    for other in (
        data[4],
        MovingDigits("train", clips=20, frames=12, size=32, seed=1)[3],
        MovingDigits("val", clips=20, frames=12, size=32)[3],
    ):
        assert not torch.equal(other["inputs"], data[3]["inputs"])


def test_longer_clip_of_one_digit_begins_like_the_shorter_one() -> None:
    short, long = (MovingDigits("val", clips=2, frames=frames, size=32, digits=1)[1]["inputs"] for frames in (5, 30))
    assert torch.equal(long[:5], short)


def test_one_digit_keeps_its_shape_wherever_it_is() -> None:
    clip = MovingDigits("train", clips=4, frames=10, size=64, digits=1)[2]["inputs"]
    brightness = (clip + 1).sum((1, 2, 3))
    torch.testing.assert_close(brightness, brightness[:1].expand(10))
    assert not torch.equal(clip[0], clip[1])


def test_overlapping_digits_show_the_brighter_one() -> None:
    clip = MovingDigits("train", clips=1, frames=40, size=16, digits=9)[0]["inputs"]
    assert clip.max() <= 1  # a sum would be beyond


def test_splits_are_of_different_handwriting() -> None:
    train, val = (MovingDigits(split, size=64).digits for split in ("train", "val"))
    assert len(train) + len(val) == 1797
    assert set(map(bytes, train)).isdisjoint(map(bytes, val))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_path_stays_inside_moves_steadily_and_turns_at_walls(seed: int, frames: int) -> None:
    path = bouncing_path(np.random.default_rng(seed), frames)
    assert path.shape == (frames, 2)
    assert path.min() >= 0
    assert path.max() <= 1
    moved = np.diff(path, axis=0)
    assert np.all(np.hypot(*moved.T) <= STEP + 1e-9)
    away = np.all((path[:-1] > STEP) & (path[:-1] < 1 - STEP), axis=1)  # a step that cannot meet a wall
    np.testing.assert_allclose(np.hypot(*moved[away].T), STEP, rtol=1e-9)
    turned = np.sign(moved[1:]) != np.sign(moved[:-1])
    at_wall = (path[1:-1] == 0) | (path[1:-1] == 1)
    assert np.all(at_wall[turned])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"split": "test"}, "split must be"),
        ({"split": "val", "size": 7}, "size must be at least 8, got 7"),
        ({"split": "val", "frames": 0}, "frames"),
        ({"split": "val", "digits": 0}, "digits"),
        ({"split": "val", "clips": 0}, "clips"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovingDigits(**arguments)


def test_index_outside_ends_the_data_set(data: MovingDigits) -> None:
    with pytest.raises(IndexError, match="20 is outside"):
        data[20]
    assert len(MovingDigits("val", clips=3, frames=2, size=8)) == 3


def test_least_values_are_allowed() -> None:
    clip = MovingDigits("val", clips=1, frames=1, size=8, digits=1)[0]["inputs"]
    assert clip.shape == (1, 8, 8, 1)
