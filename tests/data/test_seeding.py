"""Samples are functions of (seed, iteration, index), wherever and whenever they are made."""

from __future__ import annotations

import random
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from visionssm.data.seeding import (
    IterationBatchSampler,
    isolated_randomness,
    mixed_seed,
    random_state,
    resumable,
    seed_all,
    set_random_state,
)


class Noise(Dataset):
    """Every sample draws from all three generators."""

    metainfo = MappingProxyType({"classes": ["a"]})

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        drawn = [index, random.random(), np.random.rand(), torch.rand(()).item()]  # noqa: NPY002
        return torch.tensor(drawn, dtype=torch.float64)


class EpochSampler(torch.utils.data.Sampler[int]):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter(torch.randperm(20, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    def __len__(self) -> int:
        return 20


def make_loader(workers: int = 0, batch_size: int = 3) -> DataLoader:
    loader = DataLoader(Noise(), batch_size, sampler=EpochSampler(), num_workers=workers, generator=torch.Generator())
    return resumable(loader, seed=5)


def epoch_of(loader: DataLoader, epoch: int, skip: int = 0) -> list[torch.Tensor]:
    loader.batch_sampler.sampler.set_epoch(epoch)
    loader.batch_sampler.start_at(epoch * len(loader) + skip, skip)
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_within_an_epoch_gives_the_rest_of_the_uninterrupted_epoch(workers: int) -> None:
    whole = epoch_of(make_loader(), epoch=2)
    rest = epoch_of(make_loader(workers), epoch=2, skip=4)
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_samples_differ_between_epochs_and_between_indices() -> None:
    loader = make_loader()
    first, second = torch.cat(epoch_of(loader, 0)), torch.cat(epoch_of(loader, 1))
    values = torch.cat([first[:, 1:], second[:, 1:]])
    assert all(len(values[:, column].unique()) == 40 for column in range(3))


def test_two_processes_together_see_what_one_with_the_doubled_batch_sees() -> None:
    one = torch.cat(epoch_of(make_loader(batch_size=4), 0)[:2])

    class Half(EpochSampler):
        def __init__(self, rank: int) -> None:
            self.rank = rank

        def __iter__(self):
            return iter(list(super().__iter__())[self.rank :: 2])

        def __len__(self) -> int:
            return 10

    two = []
    for rank in (0, 1):
        loader = resumable(DataLoader(Noise(), 2, sampler=Half(rank), generator=torch.Generator()), seed=5)
        two.append(torch.cat(epoch_of(loader, 0)[:2]))
    joined = torch.cat(two)
    assert torch.equal(one[one[:, 0].argsort()], joined[joined[:, 0].argsort()])


def test_making_samples_leaves_the_global_generators_alone() -> None:
    seed_all(3)
    expected = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
    seed_all(3)
    epoch_of(make_loader(), 0)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected  # noqa: NPY002


def test_random_state_survives_saving_with_weights_only(tmp_path) -> None:
    random.gauss(0, 1)  # leaves a cached second number
    np.random.randn()  # noqa: NPY002
    torch.save(random_state(), tmp_path / "state.pth")
    expected = random.gauss(0, 1), np.random.randn(), torch.randn(()).item()  # noqa: NPY002
    seed_all(0)
    set_random_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert (random.gauss(0, 1), np.random.randn(), torch.randn(()).item()) == expected  # noqa: NPY002


def test_wrapped_loader_shows_the_data_sets_attributes() -> None:
    loader = make_loader()
    assert loader.dataset.metainfo["classes"] == ["a"]
    assert len(loader) == 7
    assert isinstance(loader.batch_sampler, IterationBatchSampler)


def test_isolated_randomness_restores_after_an_error() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), isolated_randomness(1):
        torch.rand(3).view(2)
    assert torch.equal(torch.random.get_rng_state(), state)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=3))
def test_mixed_seed_is_a_32_bit_function_of_all_numbers(numbers: list[int]) -> None:
    seed = mixed_seed(*numbers)
    assert seed == mixed_seed(*numbers)
    assert 0 <= seed < 2**32
    assert seed != mixed_seed(*numbers[:-1], numbers[-1] + 1)
