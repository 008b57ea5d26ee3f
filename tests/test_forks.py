"""Copies of the test's process."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tests.forks import run_forked, start_autograd


def test_copies_differentiate_also_after_tracing_with_fake_tensors(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        make_fx(lambda x: 2 * x, tracing_mode="symbolic")(torch.ones(2))
        start_autograd()
        (copy,) = run_forked(1, lambda rank: start_autograd(), tmp_path / "of_the_copy")
        print(copy.err)
        return copy.status

    (ended,) = run_forked(1, work, tmp_path / "copy")
    assert ended.status == 0, ended.out + ended.err
