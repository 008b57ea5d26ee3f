"""What tools/train.py and tools/test.py do."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionssm.engine.errors import ConfigError
from visionssm.extras import OPENMMLAB_SCOPES, MissingExtraError

LAUNCHERS = ("none", "pytorch", "slurm")


def require_train_extra() -> None:
    """Say which command installs what training needs, if something is missing.

    Raises:
        MissingExtraError: (an ImportError) naming the missing packages.
    """
    needed = {"mmengine": "onedl-mmengine", "cv2": "opencv-python-headless", "sklearn": "scikit-learn"}
    needed |= {name: name for name in ("matplotlib", "tensorboard", "rich")}
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingExtraError(f"training needs {', '.join(missing)}: pip install visionssm[train]")


def prepare(
    config: str | Path,
    *,
    work_dir: str | Path | None = None,
    launcher: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Read and complete a configuration: work folder (work_dirs/CONFIG by default) and launcher.

    Raises:
        ConfigError: the configuration is missing or wrong.
    """
    require_train_extra()
    import visionssm.engine.registration  # noqa: F401
    from visionssm.engine.config import load_config

    if launcher not in LAUNCHERS:
        raise ConfigError(f"launcher must be one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    if launcher == "pytorch" and "LOCAL_RANK" not in os.environ:
        raise ConfigError(
            "--launcher pytorch needs torchrun: torchrun --nproc-per-node=GPUS tools/train.py CONFIG --launcher pytorch"
        )
    cfg = load_config(config, options)
    cfg.launcher = launcher
    if cfg.get("default_scope") in OPENMMLAB_SCOPES:
        _require_openmmlab(cfg.default_scope)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(config).stem)
    return cfg


def _require_openmmlab(scope: str) -> None:
    """Give mmcv its operators before mmdet or mmseg is imported."""
    if any(importlib.util.find_spec(name) is None for name in ("mmcv", scope)):
        raise MissingExtraError(f"{scope} or mmcv is not installed: pip install visionssm[openmmlab]")
    import visionssm.integrations.openmmlab  # noqa: F401


def train(
    config: str | Path,
    *,
    work_dir: str | Path | None = None,
    resume: str | bool = False,
    amp: bool = False,
    launcher: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Train from a configuration file.

    Args:
        config: path of the configuration.
        work_dir: where checkpoints, logs and figures go.
        resume: True for the newest checkpoint in `work_dir` (a new run if there is none), or a checkpoint's path.
        amp: mixed precision, if the configuration does not already ask for it.
        launcher: "none", "pytorch" (torchrun) or "slurm".
        options: values by dotted key that replace the configuration's.
    Returns:
        the VisionRunner, trained.
    """
    cfg = prepare(config, work_dir=work_dir, launcher=launcher, options=options)
    from visionssm.engine.hooks import ProgressHook
    from visionssm.engine.runner import VisionRunner

    if cfg.get("train_dataloader") is None:
        raise ConfigError(f"{str(config)!r} has no train_dataloader: nothing to train on")
    if amp:
        cfg.optim_wrapper.type = "MixedPrecision"
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume is True else str(resume)
    runner = VisionRunner.from_cfg(cfg)
    try:
        runner.train()
    finally:
        for hook in runner.hooks:
            if isinstance(hook, ProgressHook):
                hook.stop()
    return runner


def evaluate(
    config: str | Path,
    checkpoint: str | Path,
    *,
    out: str | Path | None = None,
    pictures: str | Path | None = None,
    work_dir: str | Path | None = None,
    launcher: str = "none",
    options: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Evaluate a checkpoint on the test data (the validation data if the configuration has no other).

    Args:
        out: CSV file of the predictions of a classifier.
        pictures: folder that gets a PNG of every image with what was found in it, of mmdet's and mmseg's models and
            of metrics that can draw (`DetectionMetric`, `SegmentationMetric`).
    Returns:
        metrics by name.
    """
    from visionssm.engine.checkpoint import load_checkpoint

    load_checkpoint(checkpoint)  # a missing or damaged file is told before anything is built
    cfg = prepare(config, work_dir=work_dir, launcher=launcher, options=options)
    from mmengine.dist import is_main_process

    from visionssm.engine.runner import VisionRunner

    if cfg.get("test_dataloader") is None:
        cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, cfg.get("val_cfg", {})
        cfg.test_evaluator = cfg.val_evaluator
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
        cfg[key] = None
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        cfg[key] = None
    cfg.resume, cfg.load_from = False, str(checkpoint)
    backbone = cfg.model.get("backbone")
    if isinstance(backbone, Mapping) and backbone.get("type") == "VisionSSM":
        cfg.model.backbone.pretrained = False  # nothing to download: the checkpoint has all weights
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != "EMAHook"]
    runner = VisionRunner.from_cfg(cfg)
    draws_itself = cfg.get("default_scope") in OPENMMLAB_SCOPES
    if pictures is not None and draws_itself:
        from visionssm.tasks.openmmlab.pictures import SamplePicturesHook

        runner.register_hook(SamplePicturesHook(test_folder=pictures))
    elif pictures is not None:
        _keep_everything(runner)
    metrics = runner.test()
    if pictures is not None and not draws_itself and is_main_process():
        write_pictures(pictures, runner.test_loop)
    if out is not None and is_main_process():
        rows = [row for metric in runner.test_loop.evaluator.metrics for row in getattr(metric, "rows", ())]
        if not rows:
            raise ConfigError("--out writes the predictions of a ClassificationMetric, which the config does not have")
        write_predictions(out, rows, runner.test_dataloader.dataset)
    return metrics


def _keep_everything(runner: Any) -> None:
    """Let metrics that can draw keep all images."""
    drawing = [metric for metric in runner.test_loop.evaluator.metrics if hasattr(metric, "pictures")]
    if not drawing:
        raise ConfigError("--pictures needs a metric that draws, a DetectionMetric or a SegmentationMetric")
    for metric in drawing:
        metric.keep = len(runner.test_dataloader.dataset)


def write_pictures(folder: str | Path, loop: Any) -> None:
    """Write what the metrics of a test loop drew, named as the samples are."""
    from visionssm.engine.hooks.pictures import kept_pictures, write_picture

    sample_name = getattr(loop.dataloader.dataset, "sample_name", str)
    for index, picture in kept_pictures(loop.evaluator):
        path = Path(folder) / Path(sample_name(index)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, path)


def write_predictions(path: str | Path, rows: list[dict[str, Any]], dataset: Any) -> None:
    """Write predictions as CSV, a line per sample: name, label, predicted, correct, the best classes and scores."""
    from visionssm.engine.checkpoint import write_atomically

    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    sample_name = getattr(dataset, "sample_name", str)

    def class_name(number: int) -> str:
        return classes[number] if classes and number >= 0 else str(number)

    width = len(rows[0]["classes"])
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    ranks = [f"{what}_{rank}" for rank in range(1, width + 1) for what in ("class", "score")]
    lines.writerow(["sample", "label", "predicted", "correct", *ranks])
    for row in rows:
        if row["label"] < 0:
            lines.writerow([sample_name(row["index"]), "", "", "", *[""] * len(ranks)])
            continue
        best = [x for number, score in zip(row["classes"], row["scores"]) for x in (class_name(number), f"{score:.6g}")]
        correct = int(row["classes"][0] == row["label"])
        name = sample_name(row["index"])
        lines.writerow([name, class_name(row["label"]), class_name(row["classes"][0]), correct, *best])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))
