"""Evaluation of the best weights on further data when training ends, for example on a test split."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from visionssm.engine.checkpoint import load_checkpoint, write_atomically
from visionssm.engine.errors import ConfigError
from visionssm.engine.loops import tell_evaluation

REPORT = "final_test.json"


@HOOKS.register_module()
class FinalTestHook(Hook):
    """Evaluate best.pth (the last weights if there is none) once training has ended: in the log and final_test.json.

    Args:
        datasets: name in the report → values that replace those of `test_dataloader.dataset`, such as another split.
    """

    priority = "LOWEST"

    def __init__(self, datasets: Mapping[str, Mapping[str, Any]]) -> None:
        if not datasets:
            raise ConfigError("the final test's datasets are empty: name one at least")
        self.datasets = {name: dict(options) for name, options in datasets.items()}

    def before_train(self, runner: Any) -> None:
        """Report a missing part of the configuration before training begins, not after it."""
        missing = [key for key in ("test_dataloader", "test_evaluator") if runner.cfg.get(key) is None]
        if missing:
            raise ConfigError(f"the final test needs {' and '.join(missing)} in the configuration")

    @torch.no_grad()
    def after_train(self, runner: Any) -> None:
        """Evaluate and report; the model has its own weights again afterwards."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        barrier()  # the first process may still be writing
        best = Path(runner.work_dir) / "best.pth"
        before = copy.deepcopy(model.state_dict())
        if best.exists():
            model.load_state_dict(load_checkpoint(best)["state_dict"])
        try:
            report = {name: self._evaluate(runner, model, options) for name, options in self.datasets.items()}
        finally:
            model.load_state_dict(before)
        for name, metrics in report.items():
            figures = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
            runner.logger.info(f"final test of the best weights, {name}: {figures}")
        if is_main_process():
            text = json.dumps(report, indent=1) + "\n"
            write_atomically(Path(runner.work_dir) / REPORT, lambda file: file.write(text.encode()))

    @staticmethod
    def _evaluate(runner: Any, model: Any, options: Mapping[str, Any]) -> dict[str, float]:
        cfg = copy.deepcopy(runner.cfg.test_dataloader)
        cfg.dataset.update(options)
        loader = runner.build_dataloader(cfg, seed=runner.seed)
        evaluator = runner.build_evaluator(copy.deepcopy(runner.cfg.test_evaluator))
        tell_evaluation(loader, evaluator, model)
        evaluator.dataset_meta = getattr(loader.dataset, "metainfo", None)
        model.eval()
        for batch in loader:
            evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
        return {name: float(value) for name, value in evaluator.evaluate(len(loader.dataset)).items()}
