"""Types of tasks in MMEngine's registries, put there when a configuration names them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.evaluator.metric import _to_cpu
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, Registry

from visionssm.engine.task import Metric, Places, Task, all_tasks, located
from visionssm.processes import Group, channel


def use_tasks(cfg: Mapping[str, Any]) -> list[Task]:
    """Register the types of the tasks that a configuration names, and no others.

    Raises:
        MissingExtraError: (an ImportError) a task's packages are not installed.
    """
    named = set(_types(dict(cfg.items())))  # MMEngine's Config is no Mapping
    scope = cfg.get("default_scope")
    used = [task for task in all_tasks() if (task.types & named if task.scope is None else task.scope == scope)]
    for task in used:
        register_types(task)
    return used


def register_types(task: Task) -> None:
    """Register all types of a task.

    Raises:
        MissingExtraError: (an ImportError) its packages are not installed.
        ValueError: another type of that name is registered.
    """
    task.require()
    for module in task.prepares:
        located(f"{module}:__name__")
    for registry, places in _registries(task):
        for name, place in places.items():
            _register(registry, name, place)


def offered_names(registry: Registry) -> set[str]:
    """Names that known tasks would register there."""
    return {name for task in all_tasks() for own, places in _registries(task) if own is registry for name in places}


def _registries(task: Task) -> Iterator[tuple[Registry, Places]]:
    yield from ((MODELS, task.models), (DATASETS, task.datasets), (METRICS, task.metrics), (HOOKS, task.hooks))


_registered: dict[tuple[str, str], str] = {}


def _register(registry: Registry, name: str, place: str) -> None:
    key = (registry.name, name)
    if _registered.get(key) == place:
        return
    kind, there = located(place), registry.module_dict.get(name)  # importing it may have registered it
    if there is None:
        registry.register_module(name, module=_for_mmengine(kind))
    elif there is not kind:
        other = _registered.get(key, there)
        raise ValueError(f"{place} cannot be the {registry.name} {name!r}: that is {other} already")
    _registered[key] = place


def _for_mmengine(kind: Any) -> Any:
    """A task's metric as MMEngine's evaluators take it; anything else as it is."""
    if not isinstance(kind, type) or not issubclass(kind, Metric) or issubclass(kind, BaseMetric):
        return kind

    class Collected(kind, BaseMetric):  # type: ignore[misc,valid-type]
        """The metric over the results of all processes."""

        default_prefix = ""  # None would make MMEngine warn

        def __init__(self, collect_device: str = "cpu", prefix: str | None = None, **options: Any) -> None:
            BaseMetric.__init__(self, collect_device, prefix)
            kind.__init__(self, **options)

        def evaluate(self, size: int) -> dict[str, float]:
            """MMEngine's; results of several processes meet in the first one's memory, not in a folder that all share.

            A task's metric gets them in the order of the data set, without those that fill up the last batches.
            """
            if get_world_size() == 1:
                return super().evaluate(size)
            with channel() as group:
                parts = Group(get_rank(), get_world_size(), group).gather(_to_cpu(self.results))
            self.results.clear()
            figures: list[Any] = [None]
            if parts is not None:
                ordered = [result for turn in zip_longest(*parts) for result in turn if result is not None]
                figures = [self.compute_metrics(ordered[:size])]
                if self.prefix:
                    figures = [{f"{self.prefix}/{name}": value for name, value in figures[0].items()}]
            broadcast_object_list(figures)
            return figures[0]

    Collected.__name__, Collected.__qualname__, Collected.__doc__ = kind.__name__, kind.__qualname__, kind.__doc__
    return Collected


def _types(value: Any) -> Iterator[str]:
    """All names that sections of a configuration give as their `type`."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str):
            yield kind.rpartition(".")[2]  # without a scope
        for item in value.values():
            yield from _types(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)
