"""Importing this module puts the engine's own parts into MMEngine's registries: Runner, loops, hooks, optimizers.

Types of tasks are registered when a configuration names them; see `visionssm.engine.types`.
"""

from __future__ import annotations

from mmengine.registry import OPTIMIZERS
from timm.optim import Lamb

from visionssm.engine import csv_backend, hooks, loops, one_cycle, optim, runner, samplers

__all__ = ["csv_backend", "hooks", "loops", "one_cycle", "optim", "runner", "samplers"]

OPTIMIZERS.register_module("Lamb", force=True, module=Lamb)
