"""What a resumed run takes from its checkpoint against its configuration, and what cannot go together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper

from visionssm.checkpoints import CheckpointError
from visionssm.engine.checkpoint import find_last_checkpoint, load_checkpoint
from visionssm.engine.errors import ConfigError

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
            if f"initial_{key}" in a:  # a schedule changes it, and starts from what stands there
                continue
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


@contextlib.contextmanager
def saying_what_is_wrong(filename: str) -> Iterator[None]:
    """One error of ours for whatever the state of a training ends in that is damaged, or of another kind."""
    try:
        yield
    except (ConfigError, CheckpointError):
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{filename!r} cannot be used: what it holds of the training is damaged, or of another program or config "
            f"({type(error).__name__}: {error}). Start a new run from its weights: --cfg-options load_from=CHECKPOINT"
        ) from error


def adopt_seed(cfg: Any) -> None:
    """A run without a fixed seed that is resumed goes on with the seed it drew."""
    if not cfg.get("resume") or cfg.get("randomness", {}).get("seed") is not None:
        return
    path = cfg.get("load_from") or find_last_checkpoint(cfg["work_dir"])
    if path is not None:
        seed = load_checkpoint(path)["meta"].get("seed")
        if isinstance(seed, int) and 0 <= seed < 1 << 32:
            cfg["randomness"] = {**cfg.get("randomness", {}), "seed": seed}


def scheduler_states(schedulers: Any) -> Any:
    """What a checkpoint keeps of the schedules, which may be those of several optimizers by name."""
    if isinstance(schedulers, Mapping):
        return {name: scheduler_states(items) for name, items in schedulers.items()}
    return [scheduler.state_dict() for scheduler in schedulers]


def load_schedulers(schedulers: Any, states: Any) -> None:
    """Set schedules to what `scheduler_states` gave."""
    if isinstance(schedulers, Mapping):
        for name, items in schedulers.items():
            load_schedulers(items, states[name])
        return
    for scheduler, state in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(state)
