"""What a resumed run is told of its checkpoint, before anything of it is restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper

from visionssm.checkpoints import CheckpointError
from visionssm.engine.resuming import check_resumed


class Schedule:
    """As much of a schedule as is looked at."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state


def wrapper(*sizes: int, **options: Any) -> OptimWrapper:
    """An optimizer with as many parameters in each group."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2)) for _ in range(size)]} for size in sizes]
    return OptimWrapper(torch.optim.SGD(groups, **{"lr": 0.1, **options}))


def told(theirs: OptimWrapper, ours: OptimWrapper, before: list[dict], now: list[dict]) -> list[str]:
    checkpoint = {"optimizer": theirs.optimizer.state_dict(), "param_schedulers": before}
    return check_resumed(checkpoint, "run/epoch_3.pth", ours, [Schedule(**state) for state in now], [])


def test_the_same_run_is_told_nothing() -> None:
    schedules = [{"T_max": 5, "begin": 0, "milestones": [1, 2]}, {"begin": 5, "last_step": 3}]
    again = [{"T_max": 5, "begin": 0, "milestones": (1, 2)}, {"begin": 5, "last_step": 0}]
    assert told(wrapper(2, 1), wrapper(2, 1), schedules, again) == []


def test_a_rate_is_a_matter_of_the_schedules() -> None:
    assert told(wrapper(1, lr=0.1), wrapper(1, lr=0.7), [], []) == []


def test_what_the_checkpoint_overrides_is_said_once_with_both_values() -> None:
    theirs, ours = wrapper(1, 1, momentum=0.9, weight_decay=0.1), wrapper(1, 1, momentum=0.8, weight_decay=0.2)
    before = [{"end": 5, "milestones": [1, 2]}, {"end": 9, "milestones": [1, 2]}]
    now = [{"end": 5, "milestones": [1, 2, 3]}, {"end": 8, "milestones": [1, 3]}]
    stays = "as in the checkpoint, and does not become"
    assert told(theirs, ours, before, now) == [
        f"the optimizer's momentum stays 0.9 {stays} 0.8",
        f"the optimizer's weight_decay stays 0.1 {stays} 0.2",
        f"param_scheduler[0].milestones stays [1, 2] {stays} [1, 2, 3]",
        f"param_scheduler[1].end stays 9 {stays} 8",
        f"param_scheduler[1].milestones stays [1, 2] {stays} [1, 3]",
    ]


@pytest.mark.parametrize(
    "before, now, message",
    [
        ([{"end": 5}], [], "with 1 schedules in param_scheduler, this one has 0"),
        ([{"end": 5}, {"T_max": 5}], [{"end": 5}, {"milestones": [5]}], r"param_scheduler\[1\] is of another kind"),
        ([{"end": 5}], [{"end": 5, "gamma": 0.1}], r"param_scheduler\[0\] is of another kind"),
    ],
)
def test_schedules_of_another_kind_or_number_are_refused(before: list[dict], now: list[dict], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"{message}.*--cfg-options load_from=run/epoch_3.pth"):
        told(wrapper(1), wrapper(1), before, now)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1,), (2, 1), (1, 2)])
def test_other_groups_of_parameters_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="other groups of parameters"):
        told(wrapper(1, 1), wrapper(*sizes), [], [])


def test_an_average_goes_with_its_hook_alone() -> None:
    hook = EMAHook()
    assert check_resumed({"ema_state_dict": {}}, "x.pth", None, None, [hook]) == []
    assert check_resumed({}, "x.pth", None, None, []) == []
    with pytest.raises(CheckpointError, match="has no moving average, and custom_hooks ask for one"):
        check_resumed({}, "x.pth", None, None, [hook])
    with pytest.raises(CheckpointError, match="has one, without an EMAHook"):
        check_resumed({"ema_state_dict": {}}, "x.pth", None, None, [])
