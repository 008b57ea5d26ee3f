"""Repeated augmentation in MMEngine's data loader."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from tests.engine.tiny import assert_equal_weights, write_config
from visionssm.cli.launch import train
from visionssm.data.seeding import Repeat, resumable
from visionssm.engine import samplers
from visionssm.engine.samplers import RepeatedAugmentationSampler


class Noise(Dataset):
    def __init__(self, size: int = 600) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(torch.rand((), dtype=torch.float64))


def _sampler(monkeypatch: pytest.MonkeyPatch, rank: int = 0, world: int = 1, **options: Any) -> Any:
    monkeypatch.setattr(samplers, "get_dist_info", lambda: (rank, world))
    return RepeatedAugmentationSampler(Noise(), **{"seed": 3, **options})


def test_an_epoch_shows_a_third_of_the_images_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = _sampler(monkeypatch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 512  # 600 rounded down to a multiple of 256
    counts = Counter(map(int, drawn))
    assert sorted(counts.values()) == [2] + [3] * 170
    assert len({(int(index), index.view) for index in drawn}) == 512
    assert len(_sampler(monkeypatch, selected_round=0)) == 600


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_an_epoch_and_get_different_views(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    parts = [[(int(i), i.view) for i in _sampler(monkeypatch, rank, world)] for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    together = [key for step in zip(*parts, strict=True) for key in step]
    alone = [(int(i), i.view) for i in _sampler(monkeypatch)]
    assert together == alone[: len(together)]
    assert len(set(together)) == len(together)


def test_order_is_a_function_of_seed_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, other = (_sampler(monkeypatch, seed=seed) for seed in (3, 3, 4))
    assert list(first) == list(second) != list(other)
    first.set_epoch(5)
    assert list(first) != list(second)
    second.set_epoch(5)
    assert list(first) == list(second)


@pytest.mark.parametrize("workers", [0, 1])
def test_every_view_is_augmented_by_itself_and_again_alike(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    def epoch(skip: int) -> list[tuple[int, float]]:
        loader = resumable(DataLoader(Noise(), 6, sampler=_sampler(monkeypatch), num_workers=workers), seed=5)
        loader.batch_sampler.start_at(skip, skip)
        return [(int(i), float(x)) for indices, values in loader for i, x in zip(indices, values, strict=True)]

    drawn = epoch(0)
    assert len({index for index, _ in drawn[:6]}) == 2
    assert len({value for _, value in drawn}) == len(drawn)
    assert epoch(7) == drawn[7 * 6 :]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_view_survives_the_way_to_a_worker(copied: Any) -> None:
    index = copied(Repeat(4, 2))
    assert (index, index.view) == (4, 2)


def test_a_run_with_it_resumes_within_an_epoch_to_the_same_bits(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    options = {"train_dataloader.sampler": {"type": "RepeatedAugmentationSampler", "num_repeats": 2, "_delete_": True}}
    train(config, work_dir=tmp_path / "whole", options=options)
    often = {**options, "default_hooks.checkpoint": {"type": "SafeCheckpointHook", "interval": 3, "by_epoch": False}}
    train(config, work_dir=tmp_path / "often", options=often)
    train(config, work_dir=tmp_path / "rest", resume=str(tmp_path / "often/iter_6.pth"), options=options)
    assert_equal_weights(tmp_path / "whole/epoch_2.pth", tmp_path / "rest/epoch_2.pth")


def test_more_views_than_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="num_repeats=601"):
        _sampler(monkeypatch, num_repeats=601)
    with pytest.raises(ValueError, match="num_repeats=0"):
        _sampler(monkeypatch, num_repeats=0)
