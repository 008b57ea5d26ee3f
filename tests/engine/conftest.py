"""Runs of tests start faster: describing the machine takes MMEngine a second or two."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No description of the machine in the log, and the number of threads as it was afterwards."""
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
