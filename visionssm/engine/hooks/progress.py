"""A live progress bar on a terminal; throughput in the logs everywhere."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from typing import Any

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show epoch, loss, learning rate, images per second and the time left.

    On a terminal as a bar below the log lines, and in a notebook that has ipywidgets; elsewhere MMEngine's log lines
    have it all. The throughput is also logged as `images_per_s`, over the last `window` seconds.
    """

    priority = "ABOVE_NORMAL"  # before the logger, which writes what this one measures

    def __init__(self, window: float = 10.0, console: Console | None = None) -> None:
        self.window = window
        self.console = console
        self.bar: Progress | None = None
        self._marks: list[tuple[float, int]] = []
        self._images = 0
        self._streams: list[tuple[Any, Any]] = []

    def before_train(self, runner: Any) -> None:
        """Start the bar."""
        self._marks, self._images = [(time.perf_counter(), 0)], 0
        console = self.console or Console()
        if not (is_main_process() and _is_live(console)):
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  lr {task.fields[lr]}  {task.fields[speed]} img/s  eta"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            expand=True,
        )
        self.task = self.bar.add_task("", total=runner.max_iters, completed=runner.iter, loss="–", lr="–", speed="–")
        self.bar.start()
        for handler in runner.logger.handlers:  # log lines must pass through the bar, which redraws itself below them
            if type(handler) is logging.StreamHandler:
                self._streams.append((handler, handler.setStream(sys.stdout)))

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Measure and show one step."""
        now = time.perf_counter()
        self._images += _batch_size(data_batch) * get_world_size()
        self._marks.append((now, self._images))
        while len(self._marks) > 2 and now - self._marks[0][0] > self.window:
            self._marks.pop(0)
        (start, before), elapsed = self._marks[0], now - self._marks[0][0]
        speed = (self._images - before) / max(elapsed, 1e-9) if start < now else 0.0
        runner.message_hub.update_scalar("train/images_per_s", speed)
        if self.bar is not None:
            rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
            loss = (outputs or {}).get("loss")
            self.bar.update(
                self.task,
                completed=runner.iter + 1,
                description=f"epoch {runner.epoch + 1}/{runner.max_epochs}",
                loss="–" if loss is None else f"{float(loss):.4f}",
                lr=f"{rate:.2e}",
                speed=f"{speed:.0f}",
            )

    def before_val(self, runner: Any) -> None:
        """Say that validation runs."""
        if self.bar is not None:
            self.bar.update(self.task, description="validating")

    def after_val(self, runner: Any) -> None:
        """Validation does not count for the throughput."""
        self._marks = [(time.perf_counter(), self._images)]

    def after_train(self, runner: Any) -> None:
        """Leave the finished bar on the screen."""
        if self.bar is not None:
            self.bar.update(self.task, description="trained")
        self.stop()

    def stop(self) -> None:
        """Take the bar down and give the logger its stream back; also called when training fails."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams = []


def _is_live(console: Console) -> bool:
    """Whether a bar can be redrawn there; in notebooks rich does that by ipywidgets."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal


def _batch_size(data_batch: Any) -> int:
    if isinstance(data_batch, dict) and "inputs" in data_batch:
        return len(data_batch["inputs"])
    return len(data_batch) if hasattr(data_batch, "__len__") else 0
