"""What is said when a training has ended: the best figure, where it is, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from visionssm.cli.options import command


def ending(runner: Any, config: str | Path) -> list[str]:
    """The last lines of a training.

    Args:
        runner: the VisionRunner, trained.
        config: as the user named it.
    """
    from visionssm.engine.hooks.figures import UNITS  # which needs the extra train

    folder = Path(runner.work_dir)
    weights: Path | None = folder / "best.pth"
    score = runner.message_hub.get_info("best_score", None)
    metric = next((hook.save_best for hook in runner.hooks if getattr(hook, "save_best", None)), None)
    lines = []
    if weights is not None and weights.is_file() and score is not None and metric:
        unit = f" {UNITS[metric]}" if metric in UNITS else ""
        lines.append(f"best {metric}: {float(score):.4g}{unit}, of the weights in {shown(weights)}")
    else:
        saved = sorted(folder.glob("*.pth"), key=lambda path: path.stat().st_mtime)
        weights = saved[-1] if saved else None
        lines.append(
            f"the last weights are in {shown(weights)}" if weights else f"no weights were saved in {shown(folder)}"
        )
    if weights is not None:
        lines.append(f"next:  {command('test')} {shlex.quote(str(config))} {shlex.quote(shown(weights))}")
        lines.append(f"       {command('predict')} {shlex.quote(shown(weights))} FILE_OR_FOLDER…")
    return lines


def shown(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.resolve().relative_to(here)) if path.resolve().is_relative_to(here) else str(path)
