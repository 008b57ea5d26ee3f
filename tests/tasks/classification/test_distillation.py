"""Distillation as a training option of the engine."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from visionssm.engine.errors import ConfigError
from visionssm.tasks.classification.distillation import DistilledClassifier

MIXUP = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **kwargs: create(name, **kwargs))


def _classifier(**options: object) -> DistilledClassifier:
    torch.manual_seed(0)
    arguments = {"name": "groupmamba_nano_test", "teacher": "test_convnext", "num_classes": 1000, **options}
    return DistilledClassifier(**arguments)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 5])


@pytest.mark.parametrize("mixup", [None, MIXUP])
@pytest.mark.parametrize("distillation", ["hard", "soft"])
def test_both_heads_learn_and_the_teacher_does_not(
    batch: tuple[Tensor, Tensor], mixup: dict | None, distillation: str
) -> None:
    model = _classifier(mixup=mixup, distillation=distillation).train()
    model.loss(*batch).backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in model.model.get_classifier())
    assert not [name for name, _ in model.named_parameters() if "teacher" in name]
    assert not [name for name in model.state_dict() if "teacher" in name]
    assert not model.teacher.model.training


def test_without_weight_the_teacher_changes_nothing(batch: tuple[Tensor, Tensor]) -> None:
    model = _classifier(alpha=0.0).train()
    logits, _ = model.model(batch[0])
    torch.testing.assert_close(model.loss(*batch), nn.functional.cross_entropy(logits, batch[1]))


def test_evaluation_is_that_of_any_classifier(batch: tuple[Tensor, Tensor]) -> None:
    model = _classifier().eval()
    assert model(batch[0]).shape == (2, 1000)
    assert len(model(*batch, mode="predict")) == 2
    torch.testing.assert_close(model.loss(*batch), nn.functional.cross_entropy(model(batch[0]), batch[1]))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"teacher": "regnety_1600"}, "regnety_160"),
        ({"distillation": "medium"}, "hard, soft"),
        ({"name": "vmamba_nano_test"}, "one head"),
        ({"num_classes": 10}, "1000 classes and the student 10"),
        ({"alpha": 2.0}, "alpha=2.0"),
    ],
)
def test_mistakes_in_a_config_are_explained(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _classifier(**options)
