"""Progress, figures and counts of damaged images."""

from __future__ import annotations

import io
import logging
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from rich.console import Console

from tests.engine.tiny import logged, write_config
from visionssm.cli.launch import prepare, train
from visionssm.engine.hooks import progress
from visionssm.engine.hooks.checkpoints import SafeCheckpointHook
from visionssm.engine.hooks.figures import FiguresHook, draw_confusion, draw_curves, write_figure
from visionssm.engine.hooks.pictures import PredictionPicturesHook
from visionssm.engine.hooks.progress import ProgressHook
from visionssm.engine.runner import VisionRunner
from visionssm.tasks.classification.metric import ClassificationMetric


def test_bar_on_a_terminal_shows_loss_rate_throughput_and_time_left(tmp_path: Path) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=140)
    runner = VisionRunner.from_cfg(prepare(write_config(tmp_path), work_dir=tmp_path))
    runner.register_hook(ProgressHook(console=console))
    runner.train()
    text = screen.getvalue()
    assert "trained" in text
    assert "epoch 2/2" in text
    assert "10/10" in text
    assert "loss " in text
    assert re.search(r"lr \d\.\d\de-0\d", text)
    assert "img/s" in text
    assert "eta" in text


def test_without_a_terminal_the_log_has_throughput_rate_and_loss(tmp_path: Path) -> None:
    options = {"custom_hooks": [{"type": "ProgressHook"}]}
    train(write_config(tmp_path), work_dir=tmp_path, options=options)
    (log,) = tmp_path.glob("*/*.log")
    line = next(line for line in log.read_text().splitlines() if "Epoch(train)" in line)
    assert all(f"{key}:" in line for key in ("loss", "lr", "eta", "images_per_s"))
    assert all(value > 0 for value in logged(tmp_path, "images_per_s"))


def test_nothing_is_drawn_without_a_terminal() -> None:
    hook = ProgressHook(console=Console(file=io.StringIO(), force_terminal=False))
    hook.before_train(SimpleNamespace())
    assert hook.bar is None


def test_log_lines_pass_through_the_bar_until_it_is_taken_down(tmp_path: Path) -> None:
    shown, written = logging.StreamHandler(io.StringIO()), logging.FileHandler(tmp_path / "log")
    before = shown.stream
    runner: Any = SimpleNamespace(max_iters=2, iter=0, logger=SimpleNamespace(handlers=[shown, written]))
    hook = ProgressHook(console=Console(file=io.StringIO(), force_terminal=True))
    hook.before_train(runner)
    file = written.stream
    assert shown.stream is sys.stdout
    hook.after_train(runner)
    assert hook.bar is None
    assert shown.stream is before
    assert written.stream is file
    written.close()


def test_pictures_that_metrics_keep_stand_below_one_another_in_a_file(tmp_path: Path) -> None:
    def kept(*colours: str) -> SimpleNamespace:
        return SimpleNamespace(pictures=[(number, Image.new("RGB", (8, 4), x)) for number, x in enumerate(colours)])

    evaluator = SimpleNamespace(metrics=[kept("red", "lime"), SimpleNamespace(), kept("blue")])
    runner: Any = SimpleNamespace(val_loop=SimpleNamespace(evaluator=evaluator), work_dir=str(tmp_path))
    PredictionPicturesHook().after_val_epoch(runner)
    with Image.open(tmp_path / "predictions.png") as picture:
        rows = np.asarray(picture.convert("RGB"))[:, 3].tolist()
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert [row for row in rows if row in colours] == [colour for colour in colours for _ in range(4)]


def test_nothing_is_written_without_pictures(tmp_path: Path) -> None:
    evaluator = SimpleNamespace(metrics=[SimpleNamespace(pictures=[])])
    PredictionPicturesHook().after_val_epoch(
        SimpleNamespace(val_loop=SimpleNamespace(evaluator=evaluator), work_dir=str(tmp_path))
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "rule, scores, kept",
    [("greater", [-2.0, -3.0, -2.0, 5.0, 4.0], [-2.0, 5.0]), ("less", [3.0, 4.0, 3.0, -1.0, 0.5], [3.0, -1.0])],
)
def test_best_weights_are_those_of_the_first_best_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, scores: list[float], kept: list[float]
) -> None:
    hook, saved, info = SafeCheckpointHook(save_best="score", rule=rule), [], {}
    monkeypatch.setattr(hook, "_save_weights", lambda folder: None)
    runner: Any = SimpleNamespace(
        train_loop=SimpleNamespace(iter=1), iter=1, epoch=1, work_dir=str(tmp_path), logger=logging.getLogger("best"),
        message_hub=SimpleNamespace(get_info=info.get, update_info=info.__setitem__),
        save_checkpoint=lambda *args, meta, **kwargs: saved.append(meta["metrics"]["score"]),
    )  # fmt: skip
    for score in scores:
        hook.after_val_epoch(runner, {"score": score})
    assert saved == kept


def test_throughput_is_that_of_the_last_seconds_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = [0.0], []
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    runner: Any = SimpleNamespace(message_hub=SimpleNamespace(update_scalar=lambda name, x: seen.append((name, x))))
    hook = ProgressHook(window=10, console=Console(file=io.StringIO(), force_terminal=False))
    hook.before_train(runner)
    for clock[0], images in [(2, 8), (4, 8), (12, 4), (14, 6)]:
        hook.after_train_iter(runner, 0, {"inputs": [None] * images})
    clock[0] = 100
    hook.after_val(runner)
    clock[0] = 101
    hook.after_train_iter(runner, 0, [None] * 5)
    assert seen == [("train/images_per_s", x) for x in (8 / 2, 16 / 4, 12 / 10, 10 / 10, 5 / 1)]


def test_figures_and_tensorboard_files_are_written_and_curves_survive_a_restart(tmp_path: Path) -> None:
    more = (
        "custom_hooks.append(dict(type='FiguresHook', metrics=('top1', 'top5')))\n"
        "visualizer = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])\n"
    )
    config = write_config(tmp_path, more)
    train(config, work_dir=tmp_path, options={"train_cfg.max_epochs": 1})
    for name in ("learning_curves.png", "confusion_matrix.png"):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 5  # not blank
    assert list(tmp_path.glob("*/vis_data/events.out.tfevents*"))
    runner = train(config, work_dir=tmp_path, resume=True)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == "FiguresHook")
    assert len(hook.train["loss"]) == 10
    assert hook.val["epoch"] == [1.0, 2.0]


def test_curves_of_a_checkpoint_go_on_only_when_it_is_resumed() -> None:
    curves = {"train": {"epoch": [1.0], "loss": [2.0], "lr": [0.1]}, "val": {"epoch": [1.0], "top1": [9.0]}}
    checkpoint = {"curves": {**curves, "partial": [3.0, 2]}}
    resumed, started, other = FiguresHook(), FiguresHook(), FiguresHook(("mIoU",))
    resumed.after_load_checkpoint(SimpleNamespace(_resume=True), checkpoint)
    assert (resumed.train, resumed.val) == (curves["train"], curves["val"])
    started.after_load_checkpoint(SimpleNamespace(_resume=False), checkpoint)
    other.after_load_checkpoint(SimpleNamespace(_resume=True), checkpoint)
    assert started.train["epoch"] == other.train["epoch"] == []


@pytest.mark.parametrize("most, steps, place", [(1, 4, 1.0), (1, 2, 0.5), (1, 6, 6.0), (3, 6, 1.5)])
def test_curves_count_epochs_or_the_steps_of_a_run_without_epochs(most: int, steps: int, place: float) -> None:
    parameters: Any = SimpleNamespace(get_lr=lambda: {"lr": [0.1]})
    runner = SimpleNamespace(
        iter=steps - 1, max_iters=1, max_epochs=most, train_dataloader=range(4), optim_wrapper=parameters
    )
    hook = FiguresHook()
    hook.after_train_iter(runner, 0, outputs={"loss": 2.0})
    assert hook.train["epoch"] == [place]


@pytest.mark.parametrize("count", [2, 10, 60])
def test_confusion_matrix_can_be_drawn_for_any_number_of_classes(tmp_path: Path, count: int) -> None:
    confusion = torch.randint(0, 9, (count, count), generator=torch.Generator().manual_seed(0))
    confusion[0] = 0  # a class that does not occur
    figure = draw_confusion(confusion, [f"class {x}" for x in range(count)])
    assert figure.axes[0].get_xlabel() == "predicted class"
    assert figure.axes[0].get_ylabel() == "true class"
    write_figure(figure, tmp_path / "x.png")


def test_curves_can_be_drawn_before_the_first_validation(tmp_path: Path) -> None:
    train_curves = {"epoch": [0.5], "loss": [2.0], "lr": [1e-3]}
    write_figure(draw_curves(train_curves, {"epoch": [], "top1": []}, ("top1",)), tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_curves_mark_the_best_epoch_the_unit_and_the_moving_average() -> None:
    train_curves = {"epoch": [1.0, 2.0, 3.0], "loss": [2.0, 1.0, 0.5], "lr": [1e-3] * 3}
    val = {"epoch": [1.0, 2.0, 3.0], "top1": [50.0, 90.0, math.nan], "nll": [2.0, 1.0, 1.5]}
    _, middle, _ = draw_curves(train_curves, val, ("top1", "nll"), best=("top1", 1.0), averaged=True).axes
    assert [text.get_text() for text in middle.get_legend().get_texts()] == ["top1, %", "best: 90, epoch 2", "nll"]
    assert "moving average" in middle.get_title()
    (star,) = [line for line in middle.lines if line.get_marker() == "*"]
    assert (list(star.get_xdata()), list(star.get_ydata())) == ([2.0], [90.0])
    _, middle, _ = draw_curves(train_curves, val, ("nll",), best=("nll", -1.0)).axes
    assert "best: 1, epoch 2" in [text.get_text() for text in middle.get_legend().get_texts()]
    assert middle.get_title() == "validation"


@pytest.mark.parametrize("count, shown", [(5, ["top1"]), (6, ["top1", "top5"])])
def test_top_5_is_drawn_of_six_classes_and_more(count: int, shown: list[str]) -> None:
    metric = SimpleNamespace(dataset_meta={"classes": [str(x) for x in range(count)]})
    runner = SimpleNamespace(_val_loop=SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric])))
    assert FiguresHook(("top1", "top5"))._shown(runner) == shown


@pytest.mark.parametrize("widgets, live", [(object(), True), (None, False)])
def test_a_notebook_has_a_bar_where_it_can_be_redrawn(
    monkeypatch: pytest.MonkeyPatch, widgets: object, live: bool
) -> None:
    monkeypatch.setattr(progress.importlib.util, "find_spec", lambda name: widgets)
    assert progress._is_live(SimpleNamespace(is_jupyter=True, is_terminal=False)) is live  # type: ignore[arg-type]
    assert progress._is_live(SimpleNamespace(is_jupyter=False, is_terminal=True))  # type: ignore[arg-type]


def test_metrics_agree_with_their_definition_and_leave_out_unreadable_images() -> None:
    metric = ClassificationMetric()
    rows = [
        {"label": 0, "classes": [0, 1, 2], "nll": 0.1},
        {"label": 1, "classes": [2, 0, 1], "nll": 1.5},
        {"label": -1, "classes": [2, 0, 1], "nll": 9.0},
        {"label": 2, "classes": [2, 1, 0], "nll": 0.2},
    ]
    metrics = metric.compute_metrics(rows)
    assert metrics["top1"] == pytest.approx(200 / 3)
    assert metrics["top5"] == 100
    assert metrics["corrupt"] == 1
    assert metrics["nll"] == pytest.approx(0.6)
    assert metric.confusion is not None
    assert metric.confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("count, measured", [(2, {"top1", "nll"}), (5, {"top1", "nll"}), (6, {"top1", "top5", "nll"})])
def test_top_5_is_measured_of_six_classes_and_more(count: int, measured: set[str]) -> None:
    metric = ClassificationMetric()
    metric.dataset_meta = {"classes": [str(x) for x in range(count)]}
    best = list(range(min(count, 5)))
    assert metric.compute_metrics([{"label": 1, "classes": best, "nll": 0.1}]).keys() == measured


@pytest.mark.parametrize("channels", [1, 3])
def test_first_images_are_kept_as_they_were_before_they_were_normalised(channels: int) -> None:
    levels = torch.randint(0, 256, (channels, 4, 5), generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    image = (levels / 255 - mean[:channels, None, None]) / std[:channels, None, None]
    metric = ClassificationMetric(keep=1)
    metric.dataset_meta = {"input": {"mean": mean.tolist(), "std": std.tolist()}}
    metric.process({"inputs": [image, image]}, [{"index": 0}, {"index": 1}])
    first, second = metric.results
    assert "image" not in second
    np.testing.assert_array_equal(first["image"], levels.expand(3, -1, -1).permute(1, 2, 0))


def test_predictions_are_written_with_a_class_and_a_score_for_each_rank(tmp_path: Path) -> None:
    metric = ClassificationMetric()
    rows = [
        {"index": 0, "label": 0, "classes": [0, 2], "scores": [0.75, 0.25], "nll": 0.1},
        {"index": 1, "label": -1, "classes": [2, 0], "scores": [0.5, 0.5], "nll": 9.0},
        {"index": 2, "label": 2, "classes": [1, 2], "scores": [0.625, 0.375], "nll": 1.5},
    ]
    metric.compute_metrics(rows)
    metric.write(tmp_path / "named.csv", SimpleNamespace(metainfo={"classes": "abc"}, sample_name=lambda i: f"{i}.png"))
    metric.write(tmp_path / "numbered.csv", None)
    header = "sample,label,predicted,correct,class_1,score_1,class_2,score_2"
    named = [header, "0.png,a,a,1,a,0.75,c,0.25", "1.png,,,,,,,", "2.png,c,b,0,b,0.625,c,0.375"]
    numbered = [header, "0,0,0,1,0,0.75,2,0.25", "1,,,,,,,", "2,2,1,0,1,0.625,2,0.375"]
    assert (tmp_path / "named.csv").read_text().splitlines() == named
    assert (tmp_path / "numbered.csv").read_text().splitlines() == numbered


class Collect(Hook):
    """Keeps the metrics of the last validation."""

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.metrics = metrics


def test_corrupt_images_are_counted_while_training_and_evaluating(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("L", (16, 16), 40 * number).save(folder / f"{number}.png")
        (tmp_path / "data" / split / "a" / "2.png").write_bytes(b"no image")
    transform = "dict(input_size=(1, 16, 16), mean=(0.5,), std=(0.5,))"
    more = "".join(
        f"{split}_dataloader['dataset'] = dict(type='TimmDataset', root={str(tmp_path / 'data')!r}, split='{split}', "
        f"transform={transform})\n"
        for split in ("train", "val")
    )
    options = {
        "model.num_classes": 2,
        "train_dataloader.batch_size": 4,
        "train_dataloader.num_batch_per_epoch": 2,
        "train_cfg.max_epochs": 1,
        "custom_hooks": [{"type": "CorruptImageHook"}],
    }
    runner = VisionRunner.from_cfg(prepare(write_config(tmp_path, more), work_dir=tmp_path, options=options))
    collect = Collect()
    runner.register_hook(collect)
    runner.train()
    assert collect.metrics["corrupt"] == 1
    (log,) = tmp_path.glob("*/*.log")
    assert "1 images could not be read in this train epoch" in log.read_text()
    assert "1 images could not be read in this val epoch" in log.read_text()
