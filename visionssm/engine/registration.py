"""Importing this module puts this package's data sets, models, hooks, loops and metrics into MMEngine's registries."""

from __future__ import annotations

from mmengine.registry import DATASETS

from visionssm.data import arrow_pointing, classification, digits, moving_digits
from visionssm.engine import classifier, distillation, hooks, loops, metrics, next_frame, optim, runner

__all__ = ["classifier", "distillation", "hooks", "loops", "metrics", "next_frame", "optim", "runner"]

setattr(classification.timm_dataset, "check_available", classification.check_timm_dataset)  # noqa: B010  for mypy
DATASETS.register_module("TimmDataset", force=True, module=classification.timm_dataset)
DATASETS.register_module("DigitsDataset", force=True, module=digits.DigitsDataset)
DATASETS.register_module("ArrowPointingDataset", force=True, module=arrow_pointing.ArrowPointingDataset)
DATASETS.register_module("MovingDigits", force=True, module=moving_digits.MovingDigits)
