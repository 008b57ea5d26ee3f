"""What this GPU can do at most: bytes of a copy, operations of a matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from visionssm.benchmarks.gpu.setting import Setting


def ceilings(setting: Setting) -> Iterator[dict[str, Any]]:
    """One row; the copy counts bytes read and bytes written."""
    dtype = torch.bfloat16
    source = torch.randn(setting.product << 17, device=setting.device, dtype=dtype)
    target = torch.empty_like(source)
    factor = torch.randn(setting.product, setting.product, device=setting.device, dtype=dtype)
    copy = setting.timer(lambda: target.copy_(source))
    product = setting.timer(lambda: factor @ factor)
    yield {
        "copy TB/s": 2 * source.numel() * source.element_size() / copy / 1e9,
        "bf16 product TFLOP/s": 2 * setting.product**3 / product / 1e9,
    }
