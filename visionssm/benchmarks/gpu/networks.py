"""Whole models on a GPU: images per second in bfloat16 autocast and channels-last, eager and from CUDA graphs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.benchmarks.gpu.graphs import captured
from visionssm.benchmarks.gpu.setting import Setting, synchronize


def networks(setting: Setting) -> Iterator[dict[str, Any]]:
    """A row per model: inference at every batch, a training step with AdamW, both eager and replayed; peak memory."""
    import timm

    import visionssm.backbones  # noqa: F401

    if setting.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    for name in setting.models:
        model = timm.create_model(name, num_classes=1000).to(setting.device).to(memory_format=torch.channels_last)
        row: dict[str, Any] = {"model": name}
        model.eval()
        for batch in setting.batches:
            x = _images(setting, batch)
            row[f"inference b{batch} img/s"] = _rate(setting, _inference(setting, model, x), batch)
            row[f"graph b{batch} img/s"] = _graphed_rate(setting, _inference(setting, model, x), batch)
        batch = setting.batches[-1]
        step = _training(setting, model.train(), batch)
        row[f"training b{batch} img/s"] = _rate_or_error(setting, step, batch)
        if setting.device == "cuda":
            row["peak GB"] = torch.cuda.max_memory_allocated() / 1e9
            row[f"training graph b{batch} img/s"] = _graphed_rate(setting, step, batch)
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.empty_cache()
        yield row


def _images(setting: Setting, batch: int) -> Tensor:
    x = torch.randn(batch, 3, setting.size, setting.size, device=setting.device)
    return x.to(memory_format=torch.channels_last)


def _inference(setting: Setting, model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def infer() -> Tensor:
        # Autocast keeps casts of the weights, which a captured graph would not make again.
        with torch.no_grad(), torch.autocast(setting.device, torch.bfloat16, cache_enabled=False):
            result: Tensor = model(x)
            return result

    return infer


def _training(setting: Setting, model: nn.Module, batch: int) -> Callable[[], None]:
    x = _images(setting, batch)
    target = torch.randint(0, 1000, (batch,), device=setting.device)
    on_gpu = setting.device == "cuda"
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=on_gpu, capturable=on_gpu)

    def step() -> None:
        with torch.autocast(setting.device, torch.bfloat16, cache_enabled=False):
            loss = nn.functional.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _rate_or_error(setting: Setting, function: Callable[[], object], batch: int) -> float | str:
    try:
        return _rate(setting, function, batch)
    except torch.OutOfMemoryError:
        return "out of memory"


def _graphed_rate(setting: Setting, function: Callable[[], object], batch: int) -> float | str | None:
    """Images per second of a replayed graph; None without a GPU, the error where the model cannot be captured."""
    if setting.device != "cuda":
        return None
    try:
        replay = captured(function, calls_before=2)
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error)[:80]}"
    return _rate(setting, replay, batch)


def _rate(setting: Setting, function: Callable[[], object], batch: int) -> float:
    """Images per second over about `setting.seconds` of calls, after three that do not count."""
    for _ in range(3 if setting.device == "cuda" else 1):
        function()
    synchronize(setting)
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < setting.seconds:
        function()
        calls += 1
        synchronize(setting)
    return calls * batch / (time.perf_counter() - start)
