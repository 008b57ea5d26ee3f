"""A classifier that its own moving average teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from torch import Tensor

import tests.engine.every_task  # noqa: F401  registers all types
from tests.engine.tiny import MIXUP, assert_equal_weights, write_config
from visionssm.cli.launch import train
from visionssm.engine.errors import ConfigError
from visionssm.tasks.classification.losses import mesa
from visionssm.tasks.classification.mesa import MesaClassifier
from visionssm.tasks.classification.model import ImageClassifier

OPTIONS: dict[str, Any] = {**MIXUP, "model.type": "MesaClassifier", "model.weight": 1.5, "model.begin": 1}
MORE = "custom_hooks.append(dict(type='MesaHook'))\n"


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 5, 0, 9])


def _classifier(kind: type[ImageClassifier] = MesaClassifier, **options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return kind("vmamba_nano_test", num_classes=10, in_chans=1, label_smoothing=0.1, **options)


def test_loss_is_that_of_the_labels_plus_the_weighted_term(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    model, plain = _classifier(weight=1.5).train(), _classifier(ImageClassifier).train()
    model.follow(None)
    torch.testing.assert_close(model.loss(images, labels), plain.loss(images, labels))
    answer = torch.randn(4, 10, requires_grad=True)
    model.follow(lambda _: answer)
    loss = model.loss(images, labels)
    torch.testing.assert_close(loss, plain.loss(images, labels) + 1.5 * mesa(plain.model(images), answer))
    loss.backward()
    assert answer.grad is None
    torch.testing.assert_close(model.eval().loss(images, labels), plain.eval().loss(images, labels))


def test_average_is_no_part_of_the_model(batch: tuple[Tensor, Tensor]) -> None:
    model, average = _classifier(), _classifier()
    before = list(model.state_dict())
    model.follow(average.forward)
    assert list(model.state_dict()) == before
    assert not {id(p) for p in model.parameters()} & {id(p) for p in average.parameters()}


@HOOKS.register_module(force=True)
class _WatchHook(Hook):
    """Compares, at every step, what the classifier learns from with what the EMA hook holds."""

    taught: list[bool] = []  # noqa: RUF012  read by the test after the run

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.taught.append(runner.model._average is not None)
        if self.taught[-1]:
            (ema,) = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
            average = ema.ema_model.module.model
            images = data_batch["inputs"]
            expected = [average(images) for _ in range(2)]
            assert torch.equal(*expected), "the average drops paths"
            assert torch.equal(runner.model._average(images), expected[0])
            assert not torch.equal(runner.model.model.eval()(images), expected[0])
            runner.model.model.train()


def test_term_begins_with_its_epoch_and_a_resumed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    _WatchHook.taught.clear()
    config = write_config(tmp_path, MORE + "custom_hooks.append(dict(type='_WatchHook'))\n")
    train(config, work_dir=whole, options=OPTIONS)
    assert _WatchHook.taught == [False] * 5 + [True] * 5
    config = write_config(tmp_path, MORE)
    train(config, work_dir=rest, resume=str(whole / "epoch_1.pth"), options=OPTIONS)
    assert_equal_weights(whole / "epoch_2.pth", rest / "epoch_2.pth")


@pytest.mark.parametrize(
    "more,options,message",
    [
        ("", OPTIONS, "MesaHook"),
        (MORE, {}, "MesaClassifier"),
        ("custom_hooks = [dict(type='MesaHook')]\n", OPTIONS, "EMAHook"),
        (MORE, {**OPTIONS, "model.weight": -1.0}, "weight=-1.0"),
    ],
)
def test_mistakes_in_a_config_are_explained(tmp_path: Path, more: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(write_config(tmp_path, more), work_dir=tmp_path, options=options)
