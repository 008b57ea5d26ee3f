"""Training and evaluation from a configuration file."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionssm.engine.errors import ConfigError
from visionssm.extras import MissingExtraError
from visionssm.processes import LAUNCHERS, adopt, naming_lost_processes


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
    """Read and complete a configuration: its tasks' types and defaults, work folder, launcher.

    The work folder is work_dirs/CONFIG by default.

    Raises:
        ConfigError: the configuration is missing or wrong.
    """
    require_train_extra()
    import visionssm.engine.registration
    import visionssm.tasks  # noqa: F401
    from visionssm.engine.config import load_config
    from visionssm.engine.types import use_tasks

    if launcher not in LAUNCHERS:
        raise ConfigError(f"launcher must be one of {', '.join(LAUNCHERS)}, got {launcher!r}")
    try:
        adopt(launcher)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    cfg = load_config(config, options)
    cfg.launcher = launcher
    for task in use_tasks(cfg):
        for key, value in task.config.items():
            if key not in cfg:
                cfg[key] = copy.deepcopy(value)
    if work_dir is not None:
        cfg.work_dir = str(work_dir)
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(config).stem)
    return cfg


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
        with naming_lost_processes():
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
        out: file or folder of what was found in every sample, for other programs: .csv of classifiers; .json (COCO's
            results) or .csv of detectors; a folder of label images, or .csv, of segmentation; a folder of generated
            frames, or .csv, of video.
        pictures: folder that gets a PNG of every sample with what was found in it.
    Returns:
        metrics by name.
    """
    from visionssm.engine.checkpoint import load_checkpoint

    load_checkpoint(checkpoint)  # a missing or damaged file is told before anything is built
    cfg = prepare(config, work_dir=work_dir, launcher=launcher, options=options)
    from mmengine.dist import is_main_process

    from visionssm.engine.runner import VisionRunner
    from visionssm.engine.scopes import SCOPES

    if cfg.get("test_dataloader") is None:
        cfg.test_dataloader, cfg.test_cfg = cfg.val_dataloader, cfg.get("val_cfg", {})
        cfg.test_evaluator = cfg.val_evaluator
    for key in ("train_dataloader", "train_cfg", "optim_wrapper", "param_scheduler", "auto_scale_lr"):
        cfg[key] = None
    for key in ("val_dataloader", "val_cfg", "val_evaluator"):
        cfg[key] = None
    cfg.resume, cfg.load_from = False, str(checkpoint)
    scope = SCOPES.get(cfg.get("default_scope") or "")
    cfg.custom_hooks = [hook for hook in cfg.get("custom_hooks") or [] if hook.get("type") != "EMAHook"]
    runner = VisionRunner.from_cfg(cfg)
    pictures, out = (None if path is None else Path(path) for path in (pictures, out))
    if scope is not None:
        for hook in scope.test_hooks(pictures, out):
            runner.register_hook(hook)
        with naming_lost_processes():
            return runner.test()
    metric = _complete(runner, pictures, out)
    with naming_lost_processes():
        metrics = runner.test()
    if is_main_process():
        dataset = runner.test_dataloader.dataset
        if pictures is not None:
            write_pictures(pictures, runner.test_loop)
        if metric is not None and out is not None:
            (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
            metric.write(out, dataset)
    return metrics


def _complete(runner: Any, pictures: Path | None, out: Path | None) -> Any:
    """Let the metrics keep what pictures and results need; returns the one that writes the results.

    Raises:
        ConfigError: there is none, or it cannot write such a file.
    """
    metrics = runner.test_loop.evaluator.metrics
    if pictures is not None:
        drawing = [metric for metric in metrics if hasattr(metric, "pictures")]
        if not drawing:
            raise ConfigError("--pictures needs a metric that draws, as those of this package's tasks do")
        for metric in drawing:
            metric.keep = len(runner.test_dataloader.dataset)
    if out is None:
        return None
    writing = [metric for metric in metrics if getattr(metric, "formats", ())]
    if not writing:
        raise ConfigError("--out needs a metric that writes, as those of this package's tasks do")
    formats = writing[0].formats
    if out.suffix.lower() not in formats:
        told = " or ".join("a folder" if suffix == "" else f"a {suffix} file" for suffix in formats)
        raise ConfigError(f"--out must be {told} for a {type(writing[0]).__name__}, got {str(out)!r}")
    writing[0].complete = True
    return writing[0]


def write_pictures(folder: str | Path, loop: Any) -> None:
    """Write what the metrics of a test loop drew, named as the samples are."""
    from visionssm.engine.hooks.pictures import kept_pictures, write_picture

    sample_name = getattr(loop.dataloader.dataset, "sample_name", str)
    for index, picture in kept_pictures(loop.evaluator):
        path = Path(folder) / Path(sample_name(index)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(picture, path)
