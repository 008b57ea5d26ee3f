"""What the compiler is told of arguments ahead of time is what Triton's launcher tells it."""

from __future__ import annotations

import pytest
import torch

from visionssm.kernels.aot import _type_of


@pytest.mark.parametrize(
    "value, kind",
    [
        (None, "constexpr"),
        (3, "i32"),
        (0, "i32:16"),
        (-48, "i32:16"),
        (2**31 - 1, "i32"),
        (2**31, "i64:16"),
        (-(2**31), "i32:16"),
        (-(2**31) - 1, "i64"),
        (torch.empty(2**29 - 1, device="meta", dtype=torch.float32), "*fp32:16:2g"),
        (torch.empty(2**29, device="meta", dtype=torch.float32), "*fp32:16"),
        (torch.empty(2**29, device="meta", dtype=torch.float16), "*fp16:16:2g"),
    ],
)
def test_integers_and_pointers_have_the_types_of_the_launcher(value: torch.Tensor | int | None, kind: str) -> None:
    assert _type_of(value) == kind
