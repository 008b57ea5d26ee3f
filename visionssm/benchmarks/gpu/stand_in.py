"""A stand-in for a GPU under Triton: it takes launches and only notes them.

All of Python's part of a launch runs, Triton's own included, on tensors in main memory. So it can be seen without a GPU
what kernels are given, how long Python takes before them, and that nothing on the way waits for values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

from torch import Tensor

_devices = itertools.count(1000)  # Triton remembers kernels by the number of the device


class Start(NamedTuple):
    """One launch: the kernel, the grid, and the values of all parameters in their order; addresses for tensors."""

    kernel: str
    grid: tuple[int, ...]
    values: tuple[Any, ...]


class _Compiled:
    """What Triton takes for a compiled kernel."""

    function, packed_metadata = 0, ()

    def __init__(self, name: str, starts: list[Start] | None) -> None:
        self.name, self.starts = name, starts

    def launch_metadata(self, *_: Any) -> None:
        return None

    def run(self, x: int, y: int, z: int, *rest: Any) -> None:
        _, _, _, metadata, enter, leave, *values = rest
        if enter is not None:
            enter(metadata)
        if self.starts is not None:
            addresses = (v.data_ptr() if isinstance(v, Tensor) else v for v in values)
            self.starts.append(Start(self.name, (x, y, z), tuple(addresses)))
        if leave is not None:
            leave(metadata)


@contextmanager
def stand_in(*, noted: bool = True) -> Iterator[list[Start]]:
    """Take every launch inside the block; yields the list of launches.

    Args:
        noted: whether launches are put into the list.

    Examples:
        >>> import torch, visionssm
        >>> a, b = torch.rand(5, 3), torch.rand(5, 3)
        >>> with stand_in() as starts, visionssm.use_backend("triton"):
        ...     _ = visionssm.linear_recurrence(a, b, dim=0)
        >>> [start.kernel for start in starts]
        ['linear_recurrence_states']
    """
    from triton.backends.compiler import GPUTarget
    from triton.runtime import JITFunction, driver

    from visionssm.kernels.aot import forget_starters
    from visionssm.kernels.selective_scan.gpu_arguments import forget_plans

    starts: list[Start] = []
    number = next(_devices)

    def compile_nothing(kernel: Any, key: Any, signature: Any, device: int, *_: Any) -> _Compiled:
        compiled = _Compiled(kernel.__name__, starts if noted else None)
        kernel.device_caches[device][0][key] = compiled
        return compiled

    gpu = SimpleNamespace(
        get_current_device=lambda: number,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )

    def forget() -> None:
        forget_starters()
        forget_plans()

    forget()
    try:
        with patch.object(driver, "_active", gpu), patch.object(JITFunction, "_do_compile", compile_nothing):
            yield starts
    finally:
        forget()
