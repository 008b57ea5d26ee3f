"""Choice of the backend."""

from __future__ import annotations

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from visionssm.kernels.backend import implementation, select_backend, use_backend


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


def test_backend_that_cannot_read_the_tensors_is_refused_by_name() -> None:
    with (
        FakeTensorMode(),
        use_backend("cpu"),
        pytest.raises(ValueError, match=r"backend='cpu' computes on tensors in main memory, not on cuda:0: move"),
    ):
        implementation(torch.empty(1, device="cuda:0"), "visionssm.kernels.ssd")


@pytest.mark.parametrize("operator", ["selective_scan", "ssd", "deformable_sum", "plstm2d", "linear_recurrence"])
def test_kernels_follow_the_chosen_backend_else_the_device(operator: str) -> None:
    pytest.importorskip("triton", reason="Triton is only published for Linux")
    package = f"visionssm.kernels.{operator}"
    with FakeTensorMode():
        on_cpu, on_gpu = torch.empty(1), torch.empty(1, device="cuda")
    assert implementation(on_cpu, package).__name__ == f"{package}.cpu"
    assert implementation(on_gpu, package).__name__ == f"{package}.gpu"
    with use_backend("triton"):
        assert implementation(on_cpu, package).__name__ == f"{package}.gpu"
