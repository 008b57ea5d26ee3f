"""What a resumed run takes from its checkpoint against its configuration, and what cannot go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper

from visionssm.checkpoints import CheckpointError

_AS_IT_STANDS = {"params", "lr", "base_lr"}  # of a parameter group: what a schedule changes
_OF_SCHEDULES = ("begin", "end", "by_epoch", "total_iters", "T_max", "eta_min", "milestones", "gamma", "power")
_REMEDY = "resume with the configuration of that run, or start a new one from its weights: --cfg-options load_from="


def check_resumed(
    checkpoint: Mapping[str, Any], filename: str, wrapper: Any, schedulers: Any, hooks: Sequence[Hook]
) -> list[str]:
    """Compare a new run with the checkpoint that it is to go on from, before anything of it is restored.

    Returns:
        sentences: what the checkpoint overrides.
    Raises:
        CheckpointError: parameter groups, schedules or the moving average do not fit.
    """
    averages = any(isinstance(hook, EMAHook) for hook in hooks)
    if averages != ("ema_state_dict" in checkpoint):
        told = "has no moving average, and custom_hooks ask for one" if averages else "has one, without an EMAHook"
        raise CheckpointError(f"{filename!r} {told}: {_REMEDY}{filename}")
    overrides: list[str] = []
    if isinstance(wrapper, OptimWrapper):
        overrides += _groups(checkpoint["optimizer"]["param_groups"], wrapper.optimizer.param_groups, filename)
    if isinstance(schedulers, Sequence) and "param_schedulers" in checkpoint:
        overrides += _schedules(checkpoint["param_schedulers"], [x.state_dict() for x in schedulers], filename)
    return overrides


def _groups(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], filename: str) -> list[str]:
    if len(theirs) != len(ours) or any(len(a["params"]) != len(b["params"]) for a, b in zip(theirs, ours, strict=True)):
        raise CheckpointError(
            f"{filename!r} is of a run with other groups of parameters in its optimizer: {_REMEDY}{filename}"
        )
    changed: dict[str, tuple[Any, Any]] = {}
    for a, b in zip(theirs, ours, strict=True):
        for key in a.keys() & b.keys() - _AS_IT_STANDS:
            if not _same(a[key], b[key]):
                changed.setdefault(key, (a[key], b[key]))
    return [f"the optimizer's {key} {_override(*values)}" for key, values in sorted(changed.items())]


def _schedules(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]], filename: str) -> list[str]:
    if len(theirs) != len(ours):
        raise CheckpointError(
            f"{filename!r} is of a run with {len(theirs)} schedules in param_scheduler, this one has {len(ours)}: "
            f"{_REMEDY}{filename}"
        )
    told = []
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        if not {key for key in _OF_SCHEDULES if key in a} == {key for key in _OF_SCHEDULES if key in b}:
            raise CheckpointError(
                f"param_scheduler[{number}] is of another kind than in {filename!r}: {_REMEDY}{filename}"
            )
        told += [
            f"param_scheduler[{number}].{key} {_override(a[key], b[key])}"
            for key in _OF_SCHEDULES
            if key in a and not _same(a[key], b[key])
        ]
    return told


def _override(theirs: Any, ours: Any) -> str:
    return f"stays {theirs} as in the checkpoint, and does not become {ours}"


def _same(a: Any, b: Any) -> bool:
    """Equal as far as a file tells: it has lists where a configuration may have tuples."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
