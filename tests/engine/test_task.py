"""The contract of tasks: found by name, imported when used, and in MMEngine's registries when a config names them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn

import visionssm.tasks
from visionssm.checkpoints import CheckpointError
from visionssm.cli.launch import prepare
from visionssm.engine import task as contract
from visionssm.engine.task import Metric, Task, all_tasks, find_task, located, register_task
from visionssm.engine.types import offered_names, register_types, use_tasks
from visionssm.extras import MissingExtraError
from visionssm.prediction import load_predictor


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task in a module of its own, forgotten after the test."""
    monkeypatch.setattr(contract, "_MODULES", dict(contract._MODULES))
    module = type(sys)("toy_task")
    module.TASK = Task(  # type: ignore[attr-defined]
        name="toy",
        makes_predictor="toy_task:made",
        models={"ToyModel": "torch.nn:Linear"},
    )
    monkeypatch.setitem(sys.modules, "toy_task", module)
    return module.TASK


def test_every_task_of_the_table_is_there_under_its_name() -> None:
    for name, module in visionssm.tasks.MODULES.items():
        assert find_task(name).name == name
        assert located(f"{module}:TASK") is find_task(name)


def test_types_of_all_tasks_differ_in_name() -> None:
    names = [name for task in all_tasks() for name in (*task.models, *task.datasets, *task.metrics)]
    assert sorted(names) == sorted(set(names))


def test_two_tasks_of_one_name_are_refused(toy: Task) -> None:
    register_task("toy", "toy_task")
    register_task("toy", "toy_task")
    with pytest.raises(ValueError, match=r"task 'toy' of other has the name of that of toy_task; choose another"):
        register_task("toy", "other")
    register_task("another", "toy_task")
    with pytest.raises(ValueError, match=r"toy_task.TASK is named 'toy', but registered as 'another'"):
        find_task("another")


def test_configs_register_the_types_of_the_tasks_that_they_name_alone(toy: Task) -> None:
    register_task("toy", "toy_task")
    assert "ToyModel" in offered_names(MODELS)
    assert toy not in use_tasks({"model": {"type": "ImageClassifier"}})
    assert MODELS.get("ToyModel") is None
    used = use_tasks({"val_dataloader": [{"dataset": {"type": "X"}}], "model": {"part": {"type": "ToyModel"}}})
    registered = MODELS._module_dict.pop("ToyModel")
    assert used == [toy]
    assert registered is nn.Linear


def test_configs_get_settings_of_their_tasks_where_they_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(name="set", makes_predictor="x:y", config={"given": [1], "kept": 2})
    monkeypatch.setattr("visionssm.engine.types.use_tasks", lambda cfg: [task])
    (tmp_path / "config.py").write_text("kept = 3\n")
    cfg = prepare(tmp_path / "config.py", work_dir=tmp_path / "run")
    assert (cfg.given, cfg.kept, cfg.work_dir) == ([1], 3, str(tmp_path / "run"))
    cfg.given.append(2)
    assert task.config["given"] == [1]


def test_metrics_of_tasks_become_mmengines() -> None:
    task = Task(name="counting", makes_predictor="x:y", metrics={"CountingMetric": f"{__name__}:CountingMetric"})
    register_types(task)
    metric = METRICS.build({"type": "CountingMetric", "start": 3, "prefix": "all"})
    metric.process(None, [{"a": 1}, {"a": 2}])
    assert metric.evaluate(2) == {"all/count": 5.0}


class CountingMetric(Metric):
    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {"count": float(self.start + len(results))}


def test_a_name_that_means_something_else_already_is_refused() -> None:
    task = Task(name="thief", makes_predictor="x:y", datasets={"ConcatDataset": "torch.utils.data:ChainDataset"})
    assert DATASETS.get("ConcatDataset") is not None
    with pytest.raises(ValueError, match="ConcatDataset"):
        register_types(task)


def test_missing_packages_are_named_with_their_extra() -> None:
    task = Task(name="far", makes_predictor="x:y", packages=("no_such_package",), extra="openmmlab")
    with pytest.raises(
        MissingExtraError, match=r"no_such_package is not installed: pip install visionssm\[openmmlab\]"
    ):
        register_types(task)


@pytest.mark.parametrize(
    "about, message",
    [
        ({"model": {"name": "convs5_nano"}}, "names no task"),
        ({"task": "flying", "model": {}}, "is of the task 'flying'"),
        ({"task": ["video"], "model": {}}, r"is of the task \['video'\]"),
    ],
)
def test_checkpoint_without_a_task_or_of_an_unknown_one_is_refused(
    about: dict[str, Any], message: str, tmp_path: Path
) -> None:
    torch.save({"meta": {"visionssm": about}, "state_dict": nn.Linear(1, 1).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message + ".*classification, detection"):
        load_predictor(tmp_path / "x.pth")


def test_knowing_the_tasks_imports_none_of_their_parts() -> None:
    code = """
import sys, visionssm.tasks
from visionssm.engine.task import all_tasks
assert len(list(all_tasks())) == 12
parts = ("model", "data", "metric", "predictor", "pictures")
loaded = [x for x in sys.modules if x.startswith("visionssm.tasks.")]
print(*[x for x in loaded if x.rpartition(".")[2] in parts], "mmengine" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False"]
