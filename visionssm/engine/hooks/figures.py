"""Learning curves and the confusion matrix as PNG files."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from torch import Tensor

from visionssm.engine.checkpoint import write_atomically
from visionssm.engine.hooks.checkpoints import SafeCheckpointHook

_MOST_POINTS = 1000
_MOST_LABELS = 40
UNITS = {"top1": "%", "top5": "%", "psnr": "dB"}
"""Of validation metrics that are not shares between 0 and 1 or plain numbers."""


@HOOKS.register_module()
class FiguresHook(Hook):
    """Draw learning_curves.png, and confusion_matrix.png where a metric counts confusions, into the work folder.

    After a validation, unless drawing would take more than a tenth of the time since the last one; always at the end.
    Curves go on after resuming.

    Args:
        metrics: validation metrics to draw.
    """

    priority = "LOWEST"

    def __init__(self, metrics: Sequence[str] = ("top1",)) -> None:
        self.metrics = tuple(metrics)
        self.train: dict[str, list[float]] = {"epoch": [], "loss": [], "lr": []}
        self.val: dict[str, list[float]] = {"epoch": [], **{name: [] for name in metrics}}
        self._sum, self._count = 0.0, 0
        self._drawn_at, self._draw_seconds = -math.inf, 0.0

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Collect the loss, averaged so that a run gives at most a thousand points."""
        loss = (outputs or {}).get("loss")
        if loss is None:
            return
        self._sum += float(loss)
        self._count += 1
        if (runner.iter + 1) % max(1, runner.max_iters // _MOST_POINTS) == 0:
            self._add_point(runner, runner.iter + 1)

    def _add_point(self, runner: Any, steps: int) -> None:
        self.train["epoch"].append(_epochs(runner, steps))
        self.train["loss"].append(self._sum / self._count)
        self.train["lr"].append(float(next(iter(runner.optim_wrapper.get_lr().values()))[0]))
        self._sum, self._count = 0.0, 0

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Collect the metrics and draw."""
        if not isinstance(getattr(runner.train_loop, "iter", None), int) or runner.iter == 0:
            return
        epoch = _epochs(runner, runner.iter)
        if not self.val["epoch"] or self.val["epoch"][-1] != epoch:  # a resumed run may validate an epoch once more
            self.val["epoch"].append(epoch)
            for name in self.metrics:
                self.val[name].append(float((metrics or {}).get(name, math.nan)))
        if time.perf_counter() - self._drawn_at >= 10 * self._draw_seconds:
            self._draw(runner)

    def after_train(self, runner: Any) -> None:
        """Draw the final figures, the steps since the last point included."""
        if self._count:
            self._add_point(runner, runner.iter)
        self._draw(runner)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Let the curves survive a restart."""
        checkpoint["curves"] = {"train": self.train, "val": self.val, "partial": [self._sum, self._count]}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the curves of the checkpoint that is resumed."""
        curves = checkpoint.get("curves")
        if runner._resume and curves and set(curves["val"]) == set(self.val):
            self.train, self.val = curves["train"], curves["val"]
            self._sum, self._count = curves["partial"]

    def _draw(self, runner: Any) -> None:
        if not is_main_process():
            return
        start = time.perf_counter()
        folder = Path(runner.work_dir)
        if self.train["epoch"]:
            figure = draw_curves(
                self.train, self.val, self._shown(runner), best=_best(runner), averaged=_averaged(runner)
            )
            write_figure(figure, folder / "learning_curves.png")
        val_loop = runner._val_loop
        for metric in getattr(getattr(val_loop, "evaluator", None), "metrics", ()):
            if getattr(metric, "confusion", None) is not None:
                classes = (metric.dataset_meta or {}).get("classes")
                write_figure(draw_confusion(metric.confusion, classes), folder / "confusion_matrix.png")
        self._drawn_at = time.perf_counter()
        self._draw_seconds = self._drawn_at - start

    def _shown(self, runner: Any) -> list[str]:
        """The metrics to draw: of at most five classes, the best five are always right."""
        metrics = getattr(getattr(runner._val_loop, "evaluator", None), "metrics", ())
        classes = next((meta["classes"] for x in metrics if (meta := x.dataset_meta or {}).get("classes")), None)
        return [name for name in self.metrics if name != "top5" or classes is None or len(classes) > 5]


def _best(runner: Any) -> tuple[str, float] | None:
    """The metric of which best.pth keeps the best, and 1 where more is better, else −1."""
    hooks = (hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook) and hook.save_best)
    return next(((str(hook.save_best), hook.sign) for hook in hooks), None)


def _averaged(runner: Any) -> bool:
    return any(isinstance(hook, EMAHook) for hook in runner.hooks)


def _epochs(runner: Any, iterations: int) -> float:
    steps = len(runner.train_dataloader)
    return iterations / steps if runner.max_epochs > 1 or iterations <= steps else float(iterations)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG that is complete or absent."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def draw_curves(
    train: Mapping[str, Sequence[float]],
    val: Mapping[str, Sequence[float]],
    metrics: Sequence[str],
    *,
    best: tuple[str, float] | None = None,
    averaged: bool = False,
) -> Figure:
    """Training loss, validation metrics and learning rate over epochs, side by side.

    Args:
        train: `epoch`, `loss` and `lr`.
        val: `epoch` and the metrics.
        metrics: those to draw.
        best: metric whose best epoch is marked, and 1 where more is better, else −1.
        averaged: validation was of the moving average of the weights, which the title says.
    """
    figure = Figure(figsize=(11, 3.4), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(train["epoch"], train["loss"], color="tab:blue", linewidth=1.2)
    left.set(title="training loss", xlabel="epoch")
    for name in metrics:
        label = f"{name}, {UNITS[name]}" if name in UNITS else name
        (line,) = middle.plot(val["epoch"], val[name], marker="o", markersize=3, linewidth=1.2, label=label)
        finite = [(x, epoch) for x, epoch in zip(val[name], val["epoch"]) if math.isfinite(x)]
        if finite:
            last, epoch = finite[-1]
            place = dict(xytext=(5, 0), textcoords="offset points", va="center", annotation_clip=False)
            middle.annotate(f"{last:.4g}", (epoch, last), fontsize=8, **place)
        if finite and best is not None and best[0] == name:
            score, epoch = max(finite, key=lambda point: best[1] * point[0])
            told = f"best: {score:.4g}, epoch {epoch:g}"
            middle.plot(epoch, score, "*", markersize=11, color=line.get_color(), label=told, zorder=3)
    middle.set(title="validation (moving average)" if averaged else "validation", xlabel="epoch")
    middle.margins(x=0.12)
    if metrics and val["epoch"]:
        middle.legend(frameon=False)
    right.plot(train["epoch"], train["lr"], color="tab:gray", linewidth=1.2)
    right.set(title="learning rate", xlabel="epoch")
    for axes in (left, middle, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_confusion(confusion: Tensor, classes: Sequence[str] | None) -> Figure:
    """Share of each true class (row) that was predicted as each class (column), with counts where they are legible."""
    count = len(confusion)
    names = list(classes or [])[:count] or [str(number) for number in range(count)]
    names += [str(number) for number in range(len(names), count)]
    share = confusion.double() / confusion.sum(1, keepdim=True).clamp(min=1)
    side = min(10.0, 3.2 + 0.32 * count)
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted class", ylabel="true class", title="confusion matrix (validation)")
    if count <= _MOST_LABELS:
        rotated = max(map(len, names)) > 3
        axes.set_xticks(range(count), names, rotation=90 if rotated else 0, fontsize=8)
        axes.set_yticks(range(count), names, fontsize=8)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                if confusion[row, column]:
                    color = "white" if share[row, column] > 0.6 else "black"
                    text = str(int(confusion[row, column]))
                    axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    return figure
