"""One cycle of learning rate and beta1 against its formula, and through a training that stops and goes on."""

from __future__ import annotations

import math

import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

import tests.engine.every_task  # noqa: F401  registers all types
from visionssm.engine.errors import ConfigError
from visionssm.engine.one_cycle import OneCycle
from visionssm.engine.resuming import check_resumed


def optimizer(lr: float = 3e-3) -> torch.optim.AdamW:
    weights = nn.Linear(2, 2)
    groups = [{"params": [weights.weight]}, {"params": [weights.bias], "lr": lr / 10}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.95, 0.99))


def walked(schedule: OneCycle, steps: int) -> list[tuple[float, float, float, float]]:
    """Rates of both groups and the two betas at every step."""
    told = []
    for _ in range(steps):
        first, second = schedule.optimizer.param_groups
        assert first["betas"] == second["betas"]
        told.append((first["lr"], second["lr"], *first["betas"]))
        schedule.optimizer.step()
        schedule.step()
    return told


@pytest.mark.parametrize(("steps", "pct", "div"), [(50, 0.4, 10.0), (37, 0.1, 100.0), (3, 0.4, 10.0), (2, 0.4, 10.0)])
def test_rates_and_momenta_follow_the_formula(steps: int, pct: float, div: float) -> None:
    schedule = OneCycle(optimizer(), pct_start=pct, div_factor=div, by_epoch=False, end=steps)
    turn = math.floor(pct * steps)
    for t, (rate, tenth, beta1, beta2) in enumerate(walked(schedule, steps)):
        low, last = 3e-3 / div, 3e-3 / div / 1e4
        if t < turn:
            wave = (1 - math.cos(math.pi * t / turn)) / 2  # 0 to 1
            expected, momentum = low + (3e-3 - low) * wave, 0.95 - 0.1 * wave
        else:
            wave = (1 - math.cos(math.pi * (t - turn) / (steps - turn))) / 2
            expected, momentum = 3e-3 + (last - 3e-3) * wave, 0.85 + 0.1 * wave
        assert rate == pytest.approx(expected, rel=1e-12)
        assert tenth == pytest.approx(expected / 10, rel=1e-12)
        assert beta1 == pytest.approx(momentum, rel=1e-12)
        assert beta2 == 0.99


def test_the_peak_is_the_optimizers_rate_and_the_start_a_tenth() -> None:
    told = walked(OneCycle(optimizer(), by_epoch=False, end=100), 100)
    assert told[0][0] == pytest.approx(3e-4)
    assert max(told)[0] == told[40][0] == pytest.approx(3e-3)
    assert min(x[2] for x in told) == told[40][2] == pytest.approx(0.85)


def test_epochs_become_steps() -> None:
    config = {"type": "OneCycle", "begin": 0, "end": 5, "by_epoch": True, "convert_to_iter_based": True}
    schedule = PARAM_SCHEDULERS.build(config, default_args={"optimizer": optimizer(), "epoch_length": 8})
    assert walked(schedule, 40) == walked(OneCycle(optimizer(), by_epoch=False, end=40), 40)


def test_a_schedule_goes_on_where_it_was_stopped() -> None:
    whole = walked(OneCycle(optimizer(), by_epoch=False, end=20), 20)
    first = OneCycle(optimizer(), by_epoch=False, end=20)
    walked(first, 7)
    state, groups = first.state_dict(), first.optimizer.state_dict()
    second = OneCycle(optimizer(), by_epoch=False, end=20)
    second.optimizer.load_state_dict(groups)
    second.load_state_dict(state)
    assert walked(second, 13) == whole[7:]


def test_resuming_does_not_tell_of_a_beta_that_the_cycle_changes() -> None:
    from mmengine.optim import OptimWrapper

    old, new = (OneCycle(optimizer(), by_epoch=False, end=20) for _ in range(2))
    walked(old, 7)
    checkpoint = {"optimizer": old.optimizer.state_dict(), "param_schedulers": [old.state_dict()]}
    assert check_resumed(checkpoint, "a.pth", OptimWrapper(new.optimizer), [new], []) == []
    for group in new.optimizer.param_groups:
        group["initial_betas"] = (0.9, 0.98)
    (told,) = check_resumed(checkpoint, "a.pth", OptimWrapper(new.optimizer), [new], [])
    assert "initial_betas stays (0.95, 0.99)" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pct_start": 0.0}, "pct_start=0"),
        ({"div_factor": 0.5}, "div_factor=0.5"),
        ({"momenta": (0.95, 1.0)}, "momenta="),
        ({"end": None}, "end is missing"),
    ],
)
def test_odd_cycles_are_refused(options: dict[str, object], words: str) -> None:
    arguments = {"end": 10, **options}
    with pytest.raises(ConfigError, match=words):
        OneCycle(optimizer(), **{key: x for key, x in arguments.items() if x is not None})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="choose an Adam"):
        OneCycle(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), end=10)
