"""The digits data set: a fixed, stratified split of real images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from visionssm.data.digits import MEAN, STD, DigitsDataset
from visionssm.data.seeding import isolated_randomness


def test_splits_are_disjoint_complete_and_stratified() -> None:
    train, val = DigitsDataset("train"), DigitsDataset("val")
    assert set(train.numbers).isdisjoint(val.numbers)
    assert sorted([*train.numbers, *val.numbers]) == list(range(1797))
    shares = val.labels.bincount() / (val.labels.bincount() + train.labels.bincount())
    assert torch.all((shares - 0.25).abs() < 0.005)


def test_split_is_the_same_every_time() -> None:
    assert np.array_equal(DigitsDataset("val").numbers, DigitsDataset("val").numbers)


def test_unaugmented_image_is_the_resized_original() -> None:
    dataset = DigitsDataset("val", size=8)
    sample = dataset[3]
    original = load_digits().images[dataset.numbers[3]] / 16
    assert sample["inputs"].shape == (1, 8, 8)
    torch.testing.assert_close(sample["inputs"][0] * STD + MEAN, torch.tensor(original, dtype=torch.float32))
    assert sample["labels"] == load_digits().target[dataset.numbers[3]]


def test_augmentation_of_zero_extent_changes_nothing() -> None:
    still = DigitsDataset("train", size=24, augment={"degrees": 0.0, "translate": 0.0, "scale": 0.0})
    plain = DigitsDataset("train", size=24)
    inside = slice(3, -3)  # outside the image the two pad differently
    for index in range(5):
        torch.testing.assert_close(
            still[index]["inputs"][:, inside, inside], plain[index]["inputs"][:, inside, inside], atol=1e-5, rtol=0
        )


def test_augmentation_is_a_function_of_the_seed() -> None:
    dataset = DigitsDataset("train", augment={"degrees": 10.0, "translate": 0.1, "scale": 0.1})
    images = []
    for seed in (1, 1, 2):
        with isolated_randomness(seed):
            images.append(dataset[0]["inputs"])
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"split": "test"}, "split must be"),
        ({"split": "val", "size": 4}, "size must be"),
        ({"split": "val", "val_fraction": 1.5}, "val_fraction"),
        ({"split": "train", "augment": {"rotate": 3}}, "rotate"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataset(**arguments)
