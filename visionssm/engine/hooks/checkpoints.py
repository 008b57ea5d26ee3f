"""When checkpoints are saved, and which of them stay."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from visionssm.checkpoints.load import TRAINING_PREFIX
from visionssm.engine.checkpoint import LAST, load_checkpoint, save_weights, write_atomically
from visionssm.engine.errors import ConfigError


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Save every `interval` epochs or iterations and at the end; an old one goes only when a new one is complete.

    Args:
        interval: epochs, or iterations with `by_epoch=False`, between checkpoints.
        by_epoch: names them epoch_N.pth, else iter_N.pth.
        max_keep_ckpts: how many of them to keep; −1 for all.
        save_best: a validation metric whose best weights are kept as best.pth, and of tasks of this package also as
            best.safetensors, the network alone; None for none.
        rule: "greater" or "less" is better.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_keep_ckpts: int = 3,
        save_best: str | None = None,
        rule: str = "greater",
    ) -> None:
        if rule not in ("greater", "less"):
            raise ConfigError(f"the checkpoint hook's rule must be 'greater' or 'less', got {rule!r}")
        if interval < 1 or max_keep_ckpts == 0:
            raise ConfigError(
                f"the checkpoint hook needs interval ≥ 1 and max_keep_ckpts ≠ 0, got {interval}, {max_keep_ckpts}"
            )
        self.interval = interval
        self.by_epoch = by_epoch
        self.max_keep_ckpts = max_keep_ckpts
        self.save_best = save_best
        self.sign = 1.0 if rule == "greater" else -1.0

    def after_train_epoch(self, runner: Any) -> None:
        """Save at the end of an epoch."""
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._save(runner, "epoch", runner.epoch + 1)

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save within an epoch."""
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._save(runner, "iter", runner.iter + 1)

    def _save(self, runner: Any, unit: str, number: int) -> None:
        name = f"{unit}_{number}.pth"
        runner.save_checkpoint(runner.work_dir, name, by_epoch=self.by_epoch)
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        write_atomically(folder / LAST, lambda file: file.write(name.encode()))
        runner.logger.info(f"saved {folder / name}")
        if self.max_keep_ckpts > 0:
            saved = sorted(folder.glob(f"{unit}_*.pth"), key=lambda path: _number(path))
            for path in [x for x in saved if _number(x) <= number][: -self.max_keep_ckpts]:
                with contextlib.suppress(OSError):
                    path.unlink()

    def after_val_epoch(self, runner: Any, metrics: Mapping[str, float] | None = None) -> None:
        """Keep the weights with the best metric as best.pth."""
        if self.save_best is None or not hasattr(runner.train_loop, "iter") or runner.iter == 0:
            return
        if not metrics:  # so do some metrics while a detector finds nothing at all
            runner.logger.warning("validation gave no metric: best.pth stays as it is")
            return
        if self.save_best not in metrics:
            raise ConfigError(
                f"the checkpoint hook's save_best={self.save_best!r} is not a validation metric; there are "
                f"{', '.join(sorted(metrics))}"
            )
        score = float(metrics[self.save_best])
        best = runner.message_hub.get_info("best_score", -self.sign * math.inf)
        if self.sign * score <= self.sign * best:
            return
        runner.message_hub.update_info("best_score", score)
        meta = {"epoch": runner.epoch, "iter": runner.iter, "metrics": {k: float(v) for k, v in metrics.items()}}
        runner.save_checkpoint(runner.work_dir, "best.pth", save_optimizer=False, save_param_scheduler=False, meta=meta)
        if is_main_process():
            self._save_weights(Path(runner.work_dir))
        runner.logger.info(f"best {self.save_best} so far: {score:.4f}, saved best.pth")

    def _save_weights(self, folder: Path) -> None:
        """The network of best.pth as a file of its own, for timm and for `load_official`."""
        checkpoint = load_checkpoint(folder / "best.pth")
        about = checkpoint["meta"].get("visionssm") or {}
        if about.get("model") and all(key.startswith(TRAINING_PREFIX) for key in checkpoint["state_dict"]):
            save_weights(checkpoint, folder / "best.safetensors")


def _number(path: Path) -> int:
    digits = path.stem.rsplit("_", 1)[-1]
    return int(digits) if digits.isdigit() else 1 << 60
