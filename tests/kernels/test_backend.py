"""Choice of the backend."""

from __future__ import annotations

import threading

import pytest
import torch

from visionssm.kernels.backend import select_backend, use_backend


def test_inner_blocks_win_and_outer_ones_return() -> None:
    x = torch.zeros(1)
    with use_backend("reference"):
        with use_backend("cpu"):
            with use_backend("reference"):
                assert select_backend(x) == "reference"
            assert select_backend(x) == "cpu"
        with use_backend("auto"):
            assert select_backend(x) == "cpu"
        assert select_backend(x) == "reference"
    assert select_backend(x) == "cpu"
    assert select_backend(x.double()) == "reference"


def test_blocks_of_two_threads_that_overlap_leave_nothing_behind() -> None:
    entered, left = threading.Event(), threading.Event()

    def second() -> None:
        entered.wait(10)
        with use_backend("reference"):
            left.wait(10)

    thread = threading.Thread(target=second)
    thread.start()
    with use_backend("reference"):
        entered.set()
    left.set()
    thread.join()
    assert select_backend(torch.zeros(1)) == "cpu"


def test_unknown_backend_is_named_with_the_choices() -> None:
    with (
        pytest.raises(ValueError, match="backend='cuda' is not a backend; choose one of auto, reference"),
        use_backend("cuda"),
    ):
        pass
