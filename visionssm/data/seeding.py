"""Sampling and augmentation as functions of (seed, iteration, sample), so that a run can stop and go on anywhere.

A batch sampler counts the iterations and gives `(iteration, index)` keys to a data set wrapper. The wrapper seeds every
random generator from the key before it makes the sample. So a sample depends neither on the worker that makes it, nor
on the number of processes, nor on what was drawn before: a resumed run needs only the number of the iteration.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

SampleKey = tuple[int, int]
"""(iteration of the whole run, index in the data set, a `Repeat` if the step has several views of the sample)."""


class Repeat(int):
    """An index in the data set, and which view of that sample it stands for: each view is augmented differently."""

    view: int

    def __new__(cls, index: int, view: int) -> Repeat:
        self = super().__new__(cls, index)
        self.view = view
        return self

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]  # pickling for the loader's workers
        return int(self), self.view


def mixed_seed(*numbers: int) -> int:
    """A 32-bit seed from several numbers; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence([number & 0xFFFFFFFF for number in numbers]).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's (all devices) global generators."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002  transforms of timm and torchvision draw from the global state
    torch.manual_seed(seed)


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed the CPU generators inside the block, and put them back as they were after it."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.random.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.random.set_rng_state(before[2])


class SeededDataset(Dataset):
    """A map-style data set whose samples are drawn with generators seeded by (seed, iteration, index).

    Everything else (`metainfo`, `get_data_info`, …) is that of the wrapped data set, and so is what is set: hooks
    change a pipeline like that.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key: SampleKey) -> Any:
        iteration, index = key
        view = (index.view,) if isinstance(index, Repeat) else ()
        with isolated_randomness(mixed_seed(self.seed, iteration, index, *view)):
            return self.dataset[int(index)]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not set yet, while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("dataset", "seed"):
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)


class IterationBatchSampler(Sampler[list[SampleKey]]):
    """Batches of another batch sampler with the iteration's number attached; can start in the middle of an epoch."""

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self._iteration = 0
        self._skip = 0

    @property
    def sampler(self) -> Any:
        """The sampler of single indices, whose `set_epoch` the loops call."""
        return self.batch_sampler.sampler

    @property
    def batch_size(self) -> int:
        return int(self.batch_sampler.batch_size)

    def start_at(self, iteration: int, skip: int) -> None:
        """Let the next pass begin at `iteration` of the run, leaving out the first `skip` batches of the pass."""
        self._iteration, self._skip = iteration, skip

    def __iter__(self) -> Iterator[list[SampleKey]]:
        iteration, skip = self._iteration, self._skip
        self._iteration += len(self) - skip
        self._skip = 0
        for number, batch in enumerate(islice(iter(self.batch_sampler), skip, None)):
            yield [(iteration + number, index) for index in batch]

    def __len__(self) -> int:
        return len(self.batch_sampler)


def resumable(loader: DataLoader, seed: int) -> DataLoader:
    """The same loader with seeded samples (`SeededDataset`) and a known position (`IterationBatchSampler`).

    Data sets that are streams (`IterableDataset`) have no indices; their loader is returned as it is.
    """
    if isinstance(loader.dataset, IterableDataset):
        return loader
    kwargs: dict[str, Any] = {}
    if loader.num_workers > 0:
        kwargs = {"persistent_workers": loader.persistent_workers, "prefetch_factor": loader.prefetch_factor}
    return DataLoader(
        SeededDataset(loader.dataset, seed),
        batch_sampler=IterationBatchSampler(loader.batch_sampler),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        **kwargs,
    )


def random_state() -> dict[str, Any]:
    """State of the Python, NumPy, PyTorch and accelerator generators of this process, in plain types."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned; accelerator states only where their number fits."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.random.set_rng_state(state["torch"].cpu())
    cuda: Sequence[torch.Tensor] = state["cuda"]
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([x.cpu() for x in cuda])
