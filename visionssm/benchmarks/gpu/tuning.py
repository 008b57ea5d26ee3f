"""The fastest tiles of the scan on this GPU: `visionssm benchmark gpu --tune` measures them and writes their table."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from visionssm.benchmarks.gpu.graphs import captured
from visionssm.benchmarks.gpu.scans import inputs_on, triton_scan
from visionssm.benchmarks.gpu.setting import Setting
from visionssm.benchmarks.kernels import Inputs, Shape, forward_backward
from visionssm.benchmarks.timing import progress
from visionssm.kernels.tiles import PASSES, Row, Tile, forget_tables, saved_apart, tile_for, write_table

GAIN = 0.97  # of the default's time that a tile has to need to be worth a row
CANDIDATES = tuple(
    Tile(steps, channels, warps, registers)
    for steps, channels, warps, registers in itertools.product((16, 32, 64), (32, 64), (1, 2), (None, 128, 168))
)


def tune(
    setting: Setting, path: Path, gpu: str, *, minutes: float, candidates: Sequence[Tile] = CANDIDATES
) -> list[Row]:
    """Measure tiles at the setting's shapes and its largest batch in bfloat16, and write a table of the better ones.

    Args:
        setting: shapes, batches, timer.
        path: of the table; written again after each shape, so that what was found is not lost.
        gpu: its name.
        minutes: in which to begin with shapes; tiles that are not compiled by then are left out.
        candidates: besides the default.

    Returns:
        The rows; none where no tile is faster than the default by more than 3 %.
    """
    rows: list[Row] = []
    end = time.perf_counter() + minutes * 60
    with _processes(setting) as pool:
        for shape, pass_ in itertools.product(setting.shapes, PASSES):
            if time.perf_counter() > end:
                break
            progress(f"tiles of {shape.name}, {pass_} …")
            tiles = [tile for tile in candidates if saved_apart(shape.d_state) % tile.steps == 0]
            if pool is not None:
                tiles = _compiled(pool, setting, shape, pass_, tiles, end)
            rows += _better(setting, shape, pass_, tiles)
            write_table(path, gpu, rows, torch=torch.__version__)
    forget_tables()
    return rows


def _processes(setting: Setting) -> Any:
    """Processes to compile in: a kernel takes seconds to compile, and there are hundreds."""
    if setting.device != "cuda":
        return nullcontext()
    return multiprocessing.get_context("spawn").Pool(min(12, os.cpu_count() or 1))


def _compiled(pool: Pool, setting: Setting, shape: Shape, pass_: str, tiles: Sequence[Tile], end: float) -> list[Tile]:
    """Tiles that ran before the end, each in another process: Triton's cache on disk has their kernels now."""
    once = replace(setting, timer=_called)
    pending = [(tile, pool.apply_async(_runs, (once, shape, pass_, tile))) for tile in tiles]
    ready = []
    for tile, result in pending:
        try:
            if result.get(max(0.0, end - time.perf_counter())):
                ready.append(tile)
        except multiprocessing.TimeoutError:
            progress(f"{tile}: not compiled in time")
    return ready


def _runs(setting: Setting, shape: Shape, pass_: str, tile: Tile) -> bool:
    x = inputs_on(replace(shape, batch=setting.batches[-1]), setting.device, torch.bfloat16)
    try:
        return _milliseconds(setting, x, pass_, tile) is not None
    finally:
        del x
        torch.cuda.empty_cache()


def _called(function: Callable[[], object]) -> float:
    function()
    torch.cuda.synchronize()
    return 0.0


def _better(setting: Setting, shape: Shape, pass_: str, candidates: Sequence[Tile]) -> list[Row]:
    x = inputs_on(replace(shape, batch=setting.batches[-1]), setting.device, torch.bfloat16)
    sizes = (shape.d_state, shape.dt_rank, torch.bfloat16.itemsize)
    default = tile_for(pass_, *sizes)
    usual = _milliseconds(setting, x, pass_, default)
    assert usual is not None
    best, fastest = default, usual * GAIN
    progress(f"{default}: {usual:.4g} ms")
    for tile in candidates:
        if tile == default:
            continue
        spent = _milliseconds(setting, x, pass_, tile)
        if spent is not None:
            progress(f"{tile}: {spent:.4g} ms")
        if spent is not None and spent < fastest:
            best, fastest = tile, spent
    if best == default:
        return []
    states, rank, itemsize = ((size, size) for size in sizes)
    return [Row(pass_, states, rank, itemsize, best)]


def _milliseconds(setting: Setting, x: Inputs, pass_: str, tile: Tile) -> float | None:
    """A forward pass, or both (of which the tile changes the backward one); None where the GPU cannot run the tile.

    As a CUDA graph: a small scan takes less time than Python takes to launch it.
    """
    call: Callable[[], object]
    with _tile_of_pass(pass_, tile):
        try:
            call = lambda: triton_scan(x)  # noqa: E731
            if pass_ == "backward":
                x.require_grad()
                call = forward_backward(triton_scan, x)
            with torch.set_grad_enabled(pass_ == "backward"):
                return setting.timer(captured(call) if setting.device == "cuda" else call)
        except Exception as error:  # compilers and drivers have many ways to say that a tile is too large
            progress(f"{tile}: {type(error).__name__}")
            return None


@contextmanager
def _tile_of_pass(pass_: str, tile: Tile) -> Iterator[None]:
    from visionssm.kernels.selective_scan import gpu
    from visionssm.kernels.selective_scan.gpu_arguments import forget_plans

    forget_plans()
    try:
        with patch.object(gpu, f"{pass_}_tile", lambda *_: tile):
            yield
    finally:
        forget_plans()
