"""The published recipe of Mamba-YOLO: optimizer, schedule, average of the weights, and the configs for COCO."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_configs
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.heads.yolo import PUBLISHED, create_yolo
from visionssm.tasks.yolo.data import MosaicDetection
from visionssm.tasks.yolo.schedule import BiasConstructor, LinearWithWarmup, RampedAverage


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.dt_projs_bias = nn.Parameter(torch.zeros(2, 4))
        self.A_logs = nn.Parameter(torch.zeros(4, 16))


def test_biases_and_gains_do_not_decay_and_everything_else_does() -> None:
    model = Small()
    optimizer = BiasConstructor({"optimizer": {"type": "SGD", "lr": 0.1, "weight_decay": 0.5}})(model).optimizer
    names = {id(x): name for name, x in model.named_parameters()}
    groups = [({names[id(x)] for x in g["params"]}, g["weight_decay"], g["bias"]) for g in optimizer.param_groups]
    assert groups == [
        ({"conv.weight", "A_logs"}, 0.5, False),
        ({"norm.weight"}, 0.0, False),
        ({"conv.bias", "norm.bias", "dt_projs_bias"}, 0.0, True),
    ]


def test_rates_and_momentum_ramp_up_and_then_follow_the_line() -> None:
    wrapper = BiasConstructor({"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.937}})(Small())
    optimizer = wrapper.optimizer
    schedule = LinearWithWarmup.build_iter_from_epoch(
        optimizer, epoch_length=10, warmup=3, least_warmup=0, end=20, end_share=0.01
    )
    for step in range(200):
        line = 0.01 * (1 - 0.99 * step / 200)
        share = min(1, step / 30)
        weights, _, biases = optimizer.param_groups
        assert weights["lr"] == pytest.approx(share * line)
        assert biases["lr"] == pytest.approx(0.1 + share * (line - 0.1))
        assert weights["momentum"] == biases["momentum"] == pytest.approx(0.8 + share * 0.137)
        optimizer.step()
        schedule.step()
    assert LinearWithWarmup(optimizer, warmup=3, end=1000, by_epoch=False).warmup == 100, "at least 100 steps"


def test_a_schedule_goes_on_where_its_state_left_it() -> None:
    def made() -> tuple[Any, LinearWithWarmup]:
        optimizer = BiasConstructor({"optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}})(Small()).optimizer
        return optimizer, LinearWithWarmup(optimizer, warmup=5, least_warmup=0, end=20, by_epoch=False)

    first, schedule = made()
    for _ in range(4):
        first.step()
        schedule.step()
    second, resumed = made()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(6):
        for optimizer, own in ((first, schedule), (second, resumed)):
            optimizer.step()
            own.step()
        assert [g["lr"] for g in first.param_groups] == [g["lr"] for g in second.param_groups]
        assert [g["momentum"] for g in first.param_groups] == [g["momentum"] for g in second.param_groups]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"end_share": 0}, "end_share=0"),
        ({"bias_lr": -1}, "bias_lr=-1"),
        ({"start_momentum": 1.0}, "start_momentum=1.0"),
        ({"begin": 3}, "begin must be 0"),
        ({"end": 10**9}, "the step"),
    ],
)
def test_wrong_schedules_are_refused(options: dict[str, Any], message: str) -> None:
    optimizer = torch.optim.SGD(Small().parameters(), 0.1, momentum=0.9)
    with pytest.raises(ConfigError, match=message):
        LinearWithWarmup(optimizer, **{"end": 50, **options})


def test_decay_of_the_average_is_the_published_one() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = RampedAverage(model, momentum=1e-4, ramp=2000)
    expected = None
    for step in range(1, 30):
        nn.init.constant_(model.weight, float(step))
        average.update_parameters(model)
        decay = 0.9999 * (1 - math.exp(-step / 2000))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("mmdet") is None, reason="needs the openmmlab extra")
def test_average_is_mmdets() -> None:
    from mmdet.models.layers import ExpMomentumEMA

    model = nn.Linear(2, 2)
    ours, theirs = RampedAverage(model), ExpMomentumEMA(model, momentum=1e-4, gamma=2000)
    for _ in range(5):
        nn.init.normal_(model.weight)
        ours.update_parameters(model)
        theirs.update_parameters(model)
        torch.testing.assert_close(ours.module.weight, theirs.module.weight)


@pytest.mark.parametrize("path", shipped_configs("mambayolo_*_coco.py"), ids=lambda path: path.stem)
def test_coco_config_is_the_published_recipe(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    with torch.device("meta"):
        model = create_yolo(cfg.model.name, cfg.model.num_classes)
    published = PUBLISHED[cfg.model.name]
    assert sum(x.numel() for x in model.parameters()) / 1e6 == pytest.approx(published.shipped[0], abs=0.01)
    told = [float(x) for x in re.findall(r"AP\d* (\d\d\.\d)", path.read_text())]
    assert told == [published.ap, published.ap50, published.ap75]
    batch = 8 * cfg.train_dataloader.batch_size
    assert cfg.optim_wrapper.optimizer.weight_decay == pytest.approx(5e-4 * batch / 64)
    assert cfg.param_scheduler["end"] == cfg.train_cfg.max_epochs == 300
    data = cfg.train_dataloader.dataset
    defaults = {name: x.default for name, x in inspect.signature(MosaicDetection).parameters.items()}
    changes = {name: data.get(name, defaults[name]) for name in ("mosaic", "scale", "translate", "flip", "hsv")}
    assert changes == {"mosaic": 1.0, "scale": 0.5, "translate": 0.1, "flip": 0.5, "hsv": (0.015, 0.7, 0.4)}
