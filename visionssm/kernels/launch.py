"""Triton launches without Triton's bookkeeping: what it finds out about a launch is remembered for the next one.

For every launch Triton binds, types and hashes each argument, which takes longer than a small kernel runs. Of launches
that agree in all dtypes and numbers, only one thing can differ that code is compiled for: which addresses are multiples
of 16. So the first launch of each such combination goes through Triton, which returns the compiled kernel, and later
ones start that kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import driver

_ALIGNED_TO = 15  # the lower bits of an address that are zero where Triton counts on 16 bytes


class Starter:
    """Starts one kernel again and again, with tensors of the same dtypes and the same numbers.

    Args:
        kernel: decorated by `triton.jit`.
        arguments: those of the first launch, by name. Later ones have other tensors.
        constants: known when the kernel is compiled.
        options: of Triton's compiler: num_warps, num_stages, maxnreg.
    """

    def __init__(
        self, kernel: Any, arguments: Mapping[str, Any], constants: Mapping[str, Any], options: Mapping[str, int]
    ) -> None:
        self._kernel, self._constants, self._options = kernel, constants, options
        self._numbers = {name: x for name, x in arguments.items() if not isinstance(x, Tensor)}
        known = {**self._numbers, **constants}
        self._values = [known.get(name) for name in kernel.arg_names]
        self._places = [(i, name) for i, name in enumerate(kernel.arg_names) if isinstance(arguments.get(name), Tensor)]
        self._compiled: dict[tuple[int, int | None], Any] = {}

    def run(self, grid: tuple[int, ...], tensors: Mapping[str, Any]) -> None:
        """Launch on the device of the tensors; an empty grid launches nothing.

        Args:
            grid: of programs.
            tensors: by the names that had tensors in the first launch; others are passed over.
        """
        if 0 in grid:
            return
        values, shifted = self._values.copy(), 0
        for place, name in self._places:
            x = tensors[name]
            address = values[place] = x.data_ptr()
            if address & _ALIGNED_TO:
                shifted |= 1 << place
        device = x.device
        # Triton launches on the current device, which need not be the one that holds the tensors.
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self._start(grid, tensors, values, (shifted, device.index))
        else:
            self._start(grid, tensors, values, (shifted, device.index))

    def _start(
        self, grid: tuple[int, ...], tensors: Mapping[str, Any], values: list[Any], key: tuple[int, int | None]
    ) -> None:
        compiled = self._compiled.get(key)
        if compiled is None:
            given = {**self._numbers, **{name: tensors[name] for _, name in self._places}}
            compiled = self._kernel[grid](**given, **self._constants, **self._options)
            if _may_be_remembered(self._kernel) and hasattr(compiled, "packed_metadata"):
                self._compiled[key] = compiled
            return
        active, knobs = driver.active, triton.knobs.runtime
        stream = active.get_current_stream(active.get_current_device())
        enter, leave, metadata = knobs.launch_enter_hook, knobs.launch_exit_hook, None
        if _has_calls(enter) or _has_calls(leave):  # of profilers
            metadata = compiled.launch_metadata(grid, stream, *values)
        else:
            enter = leave = None
        x, y, z = (*grid, 1, 1)[:3]
        compiled.run(x, y, z, stream, compiled.function, compiled.packed_metadata, metadata, enter, leave, *values)


def _has_calls(hook: Any) -> bool:
    return hook is not None and bool(getattr(hook, "calls", True))


def _may_be_remembered(kernel: Any) -> bool:
    """Whether a launch depends on nothing but its arguments.

    In the interpreter there is no compiled kernel, and on AMD's GPUs the sizes of tensors count too.
    """
    knobs = triton.knobs
    return (
        isinstance(kernel, triton.JITFunction)
        and torch.version.hip is None
        and not kernel.pre_run_hooks
        and not knobs.runtime.debug
        and not getattr(knobs.compilation, "instrumentation_mode", "")
        and getattr(knobs.runtime, "add_stages_inspection_hook", None) is None
    )
