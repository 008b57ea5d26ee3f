"""What the compiler is told of arguments ahead of time is what Triton's launcher tells it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from visionssm.kernels.aot import _type_of, compile_for


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


@pytest.mark.parametrize(
    "target, known",
    [("gfx942", [["tt.divisibility", 16], ["tt.pointer_range", 32]]), ("sm90", [["tt.divisibility", 16]])],
)
def test_only_amd_is_told_which_tensors_end_within_two_gibibytes(
    target: str, known: list[list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = pytest.importorskip("triton")
    sources = []

    def compiled(source: Any, **_: Any) -> None:
        sources.append(source)
        raise InterruptedError

    monkeypatch.setattr(triton, "compile", compiled)
    with pytest.raises(InterruptedError):
        compile_for(triton.jit(_kernel), {"x": "*fp32:16:2g", "n": "i32"}, {}, target, 4)
    assert sources[0].attrs == {(0,): known}


def _kernel(x, n):
    pass
