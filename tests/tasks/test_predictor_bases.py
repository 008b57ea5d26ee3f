"""Predictors of checkpoints and of exported files: what they share is written once."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest

import visionssm.tasks
from visionssm.engine.predictors import OfGraph
from visionssm.engine.task import Task, all_tasks

assert visionssm.tasks.MODULES

APPLIED = [x for x in all_tasks() if x.applies_exported.startswith(f"{visionssm.tasks.MODULES[x.name]}.exported:")]


def module_of(place: str) -> ModuleType:
    return importlib.import_module(place.partition(":")[0])


def predictors_in(module: ModuleType) -> list[Any]:
    found = [x for x in vars(module).values() if inspect.isclass(x) and x.__module__ == module.__name__]
    return [x for x in found if hasattr(x, "columns") and hasattr(x, "__dataclass_fields__")]


def test_exported_files_of_eight_tasks_are_applied() -> None:
    assert len(APPLIED) == 8


@pytest.mark.parametrize("task", APPLIED, ids=lambda task: task.name)
def test_both_predictors_of_a_task_read_files_and_name_their_results_by_the_same_code(task: Task) -> None:
    (exported,) = predictors_in(module_of(task.applies_exported))
    (eager,) = predictors_in(module_of(task.makes_predictor))
    assert issubclass(exported, OfGraph)
    assert exported.model is None
    assert exported.read is eager.read
    assert exported.columns is eager.columns
    assert getattr(exported, "image_mode", None) is getattr(eager, "image_mode", None)
    assert getattr(exported, "has_masks", False) == getattr(eager, "has_masks", False)
    (base,) = set(exported.__bases__) - {OfGraph}
    assert issubclass(eager, base)
    shared = [field.name for field in fields(base)]
    assert [field.name for field in fields(eager)][: len(shared)] == shared
    assert [field.name for field in fields(exported)][: len(shared)] == shared
