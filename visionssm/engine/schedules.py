"""Schedules of the learning rate and the length of a training belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from visionssm.engine.errors import ConfigError

_PLACES = ("begin", "end", "T_max")
_UNITS = {True: ("max_epochs", "epoch"), False: ("max_iters", "iteration")}


def lengths(cfg: Mapping[str, Any]) -> dict[str, int]:
    """`max_epochs` or `max_iters` of a configuration, as far as it says."""
    loop = cfg.get("train_cfg") or {}
    return {key: loop[key] for key in ("max_epochs", "max_iters") if isinstance(loop.get(key), int)}


def follow_length(cfg: Any, before: Mapping[str, int]) -> bool:
    """Scale the schedules in place to a length that was changed; returns whether anything changed.

    A warm-up of 20 epochs of 300 becomes one of 7 of 100. A schedule of which nothing is left is dropped.

    Args:
        cfg: the configuration with the new length.
        before: `lengths` of it before.
    """
    now = lengths(cfg)
    changed, kept = False, []
    for scheduler in _schedulers(cfg):
        key, _ = _UNITS[bool(scheduler.get("by_epoch", True))]
        if before.get(key, 0) < 1 or key not in now or now[key] == before[key]:
            kept.append(scheduler)
            continue
        ratio, changed = now[key] / before[key], True
        begin = round(scheduler.get("begin", 0) * ratio)
        for place in _PLACES:
            if isinstance(scheduler.get(place), int):
                scheduler[place] = round(scheduler[place] * ratio)
        if isinstance(scheduler.get("milestones"), (list, tuple)):
            scheduler["milestones"] = [round(x * ratio) for x in scheduler["milestones"]]
        if scheduler.get("end", begin + 1) > begin:
            kept.append(scheduler)
    if changed:
        cfg["param_scheduler"] = kept
    return changed


def check_schedules(cfg: Mapping[str, Any]) -> None:
    """Refuse schedules that cannot run, or that a training of this length cuts off.

    Raises:
        ConfigError: a schedule ends where it begins, or after the training.
    """
    now = lengths(cfg)
    for number, scheduler in enumerate(_schedulers(cfg)):
        begin, end = scheduler.get("begin", 0), scheduler.get("end")
        if not isinstance(begin, int) or not isinstance(end, int):
            continue
        key, unit = _UNITS[bool(scheduler.get("by_epoch", True))]
        where = f"param_scheduler[{number}] ({scheduler.get('type')})"
        if end <= begin:
            raise ConfigError(f"{where} ends at {unit} {end} but begins at {begin}: it must end later")
        if key in now and end > now[key]:
            raise ConfigError(
                f"{where} ends at {unit} {end}, the training at {now[key]} (train_cfg.{key}): the rate would never "
                "come down; give both the same end (--cfg-options train_cfg.… alone scales the schedules along)"
            )


def _schedulers(cfg: Mapping[str, Any]) -> Iterator[Any]:
    """The schedules of a configuration, of one optimizer."""
    given = cfg.get("param_scheduler")
    for scheduler in [given] if isinstance(given, Mapping) else given or ():
        if isinstance(scheduler, Mapping) and "type" in scheduler:
            yield scheduler
