"""Operators in threads, in processes at the same time, and in the workers of a DataLoader."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import tests.forks  # noqa: F401  after it, copies of this process can differentiate
from visionssm.kernels import deformable_sum, linear_recurrence, non_causal_ssd, routes, selective_scan

METHODS = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]
# A spawned process imports everything again; where there is no fork, as on Windows, it is not slow.
MARKED = [pytest.param(m, marks=[pytest.mark.slow] * (m == "spawn" and "fork" in METHODS)) for m in METHODS]
fork_warning = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def results(seed: int) -> Tensor:
    """Values and gradients of every operator, as one vector that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).requires_grad_()

    u, dt, b, c = normal(2, 12, 40), normal(2, 12, 4, 40), normal(2, 12, 4, 3), normal(2, 12, 4, 3)
    a = -torch.ones(4, 40, 3)
    y = selective_scan(u, dt, a, b, c, order=routes.ss2d(3, 4))
    assert isinstance(y, Tensor)
    x, m, b_ssd, c_ssd = normal(2, 12, 2, 4), normal(2, 12, 2), normal(2, 12, 3), normal(2, 12, 3)
    z = non_causal_ssd(x, m, b_ssd, c_ssd)
    decay, added = torch.full((1, 1), 0.5), normal(20, 3)
    h = linear_recurrence(decay, added, dim=0)
    value, offset, mask = normal(1, 9, 4, 2, 20), normal(1, 9, 4, 2, 9, 2), normal(1, 9, 4, 2, 9)
    s = deformable_sum(value, offset, mask)
    results = (y, z, h, s)
    leaves = [u, dt, b, c, x, m, b_ssd, added, value, offset, mask]
    grads = torch.autograd.grad(sum(t.sin().sum() for t in results), leaves)  # type: ignore[arg-type]
    return torch.cat([t.detach().flatten() for t in (*results, *grads)])


def results_in_spawned(seed: int) -> Tensor:
    torch.set_num_threads(2)
    return results(seed)


def results_in_forked(seed: int) -> Tensor:
    """On one thread, as in a DataLoader's workers: torch's own operators on several hang after a fork (OpenMP).

    Our kernels survive it, see test_threads.py.
    """
    torch.set_num_threads(1)
    return results(seed)


class Scans(Dataset):
    """Samples that are made by the operators."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        return results(index)


def close(got: Tensor, want: Tensor) -> bool:
    return torch.allclose(got, want, rtol=1e-5, atol=1e-5)


def test_two_threads_differentiate_at_the_same_time() -> None:
    wanted = [results(seed) for seed in range(2)]
    together = threading.Barrier(2)

    def work(seed: int) -> bool:
        together.wait(timeout=240)
        return all(close(results(seed), wanted[seed]) for _ in range(10))

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(work, range(2)))


@fork_warning
@pytest.mark.parametrize("method", MARKED)
def test_two_processes_compute_at_the_same_time(method: str) -> None:
    wanted = [results(seed) for seed in range(4)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        work = results_in_forked if method == "fork" else results_in_spawned
        found = list(pool.map(work, range(4), timeout=240))
    assert all(close(got, want) for got, want in zip(found, wanted, strict=True))


@fork_warning
@pytest.mark.parametrize("method", MARKED)
def test_workers_of_a_data_loader_compute_what_the_parent_computes(method: str) -> None:
    wanted = torch.stack([results(index) for index in range(len(Scans()))])
    loader = DataLoader(Scans(), batch_size=2, num_workers=2, multiprocessing_context=method, timeout=240)
    assert close(torch.cat(list(loader)), wanted)
    assert close(results(0), wanted[0]), "the parent still computes"
