"""Training of a classifier with a second head that imitates a teacher."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import timm
from torch import Tensor
from torch.nn.functional import cross_entropy

from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError
from visionssm.tasks.classification.losses import (
    DistillationLoss,
    FrozenTeacher,
    LossTerm,
    hard_distillation,
    soft_distillation,
)
from visionssm.tasks.classification.model import ImageClassifier


class DistilledClassifier(ImageClassifier):
    """An `ImageClassifier` that also learns from a teacher, which sees the same mixed images.

    Args:
        teacher: any pretrained model of timm with the student's classes, for example "regnety_160.deit_in1k".
        distillation: "hard", the teacher's decisions, or "soft", its distribution.
        alpha: share of the teacher in the loss, from 0 to 1.
        temperature: softness of "soft".
        arguments: `ImageClassifier`'s. The model must have two heads (`set_distilled_training`), as GroupMamba and
            timm's distilled DeiT do.
    Raises:
        ConfigError: the teacher is unknown or has other classes, the model has one head, or a value is out of range.
    """

    def __init__(
        self,
        *arguments: Any,
        teacher: str,
        distillation: str = "hard",
        alpha: float = 0.5,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        terms: dict[str, LossTerm] = {
            "hard": hard_distillation,
            "soft": partial(soft_distillation, temperature=temperature),
        }
        if distillation not in terms:
            raise ConfigError(f"model.distillation={distillation!r} is unknown; choose one of {', '.join(terms)}")
        if not hasattr(self.model, "set_distilled_training"):
            raise ConfigError(
                f"model {self.about['name']!r} has one head and distillation needs two; use type='ImageClassifier', "
                "or a model with set_distilled_training, for example groupmamba_tiny"
            )
        if not timm.is_model(teacher.split(".")[0]):
            raise ConfigError(
                f"model.teacher={teacher!r} is not registered; closest: {closest(teacher, timm.list_models())}"
            )
        cast(Any, self.model).set_distilled_training()
        self.term, self.alpha = terms[distillation], alpha
        try:
            self.teacher = FrozenTeacher.pretrained(teacher, num_classes=self.num_classes)
            DistillationLoss(cross_entropy, self.teacher, alpha=alpha)  # refuses a wrong weight before the training
        except ValueError as error:
            raise ConfigError(f"model.teacher or model.alpha: {error}") from error

    def criterion(self, inputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Loss of images whose targets are (B,) class numbers or, after mixing, (B, classes) distributions."""
        outputs = self.model(inputs)
        base = partial(cross_entropy, label_smoothing=label_smoothing)
        if not self.model.training:  # a loss of evaluation: the model answers with one tensor, and nobody is taught
            return base(outputs, targets)
        return DistillationLoss(base, self.teacher, term=self.term, alpha=self.alpha)(outputs, targets, inputs)
