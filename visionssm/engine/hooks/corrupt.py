"""How many images could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class CorruptImageHook(Hook):
    """Sum the `skipped` counts of batches and warn once per epoch, if there were any."""

    def __init__(self) -> None:
        self.count = 0

    def _before_epoch(self, runner: Any, mode: str = "train") -> None:
        self.count = 0

    def _after_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = "train"
    ) -> None:
        if isinstance(data_batch, Mapping) and "skipped" in data_batch:
            self.count += int(torch.as_tensor(data_batch["skipped"]).sum())

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        total = torch.tensor(float(self.count))
        all_reduce(total)
        if total > 0:
            runner.logger.warning(f"{int(total)} images could not be read in this {mode} epoch and were skipped")
