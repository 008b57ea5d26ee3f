"""Runs of tests start faster: describing the machine takes MMEngine a second or two."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No description of the machine in the log, and the number of threads as it was afterwards."""
    runner = sys.modules.get("mmengine.runner.runner")  # tests that use it have imported it; others need not
    if runner is not None:
        monkeypatch.setattr(runner, "collect_env", dict)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
