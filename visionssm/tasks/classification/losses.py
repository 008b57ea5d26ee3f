"""Training losses that timm does not have: distillation, from a teacher or from the model's own moving average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

LossTerm = Callable[[Tensor, Tensor], Tensor]


def hard_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy of the student's logits against the teacher's decision (Touvron et al. 2021, arXiv 2012.12877).

    Args:
        student: (B, classes) logits of the head that imitates the teacher.
        teacher: (B, classes) logits.
    """
    return F.cross_entropy(student, teacher.argmax(dim=-1))


def soft_distillation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) of tempered distributions times temperature², a mean over images and classes.

    The division by the number of classes too is that of the published recipes (arXiv 2012.12877, 2407.13772).

    Args:
        student: (B, classes) logits of the head that imitates the teacher.
        teacher: (B, classes) logits.
        temperature: both sides' logits are divided by it.
    """
    student_log, teacher_log = (F.log_softmax(x / temperature, dim=-1) for x in (student, teacher))
    return F.kl_div(student_log, teacher_log, reduction="sum", log_target=True) * temperature**2 / student.numel()


def mesa(student: Tensor, average: Tensor) -> Tensor:
    """Cross entropy of a model's logits against the distribution that its own moving average predicts.

    A term that is added to the labels' loss and keeps training away from sharp minima (MESA, Du et al. 2022, arXiv
    2205.14083).
    No gradient reaches the moving average.

    Args:
        student: (B, classes) logits of the model in training.
        average: (B, classes) logits of its moving average for the same images.
    """
    return F.cross_entropy(student, average.detach().softmax(dim=-1))


class FrozenTeacher(nn.Module):
    """A classifier that only answers: always in evaluation mode, without gradients.

    Its weights move with the module to another device, but are no parameters of it: optimizers, checkpoints, moving
    averages and distributed wrappers do not see them.

    Args:
        model: any classifier. If it has timm's `pretrained_cfg`, images are normalised again as it expects and, where
            it has a fixed input size, resized.
        mean, std: how the images that it will be given are normalised.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
        std: Sequence[float] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__()
        self._unregistered = (model.eval().requires_grad_(False),)  # in a tuple, where nn.Module does not look
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
        ours = torch.tensor([mean, std], dtype=torch.float64)
        wanted = torch.tensor([cfg.get("mean", mean), cfg.get("std", std)], dtype=torch.float64)
        scale, shift = ours[1] / wanted[1], (ours[0] - wanted[0]) / wanted[1]  # (x·std + mean − mean')/std'
        self._normalisation = None if torch.equal(ours, wanted) else (scale.tolist(), shift.tolist())
        self._size = tuple(cfg["input_size"][1:]) if cfg.get("fixed_input_size") else None

    @classmethod
    def pretrained(cls, name: str, *, num_classes: int, **options: Any) -> FrozenTeacher:
        """The teacher with this name in timm, ours included, with its pretrained weights.

        Raises:
            ValueError: its pretrained classifier has another number of classes than the student.
        """
        model = timm.create_model(name, pretrained=True)
        classes = cast(int, model.num_classes)
        if classes != num_classes:
            raise ValueError(
                f"teacher {name!r} has {classes} classes and the student {num_classes}; choose a teacher that was "
                "trained for the student's classes, or pass a FrozenTeacher around your own model"
            )
        return cls(model, **options)

    @property
    def model(self) -> nn.Module:
        """The classifier."""
        return self._unregistered[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTeacher:
        self.model._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images normalised for the student to (B, classes) logits."""
        if self._normalisation is not None:
            scale, shift = (images.new_tensor(x).view(-1, 1, 1) for x in self._normalisation)
            images = images * scale + shift
        if self._size is not None and tuple(images.shape[2:]) != self._size:
            images = F.interpolate(images, self._size, mode="bicubic", antialias=True)
        return self.model(images)


class DistillationLoss(nn.Module):
    """(1 − α)·base(logits, target) + α·term(teacher logits of the student, logits of the teacher).

    The student returns a pair of logits in training, as after `model.set_distilled_training()`: the first is compared
    with the labels, the second with the teacher, which sees the same, already mixed images (arXiv 2407.13772).

    Args:
        base: loss of (logits, target), for example timm's `SoftTargetCrossEntropy`.
        teacher: `FrozenTeacher`, or any function from images to logits.
        term: `hard_distillation`, `soft_distillation` (bind the temperature with `functools.partial`), or another
            function of (student logits, teacher logits).
        alpha: weight of the teacher, from 0 to 1.

    Raises:
        ValueError: `alpha` is outside [0, 1].
    """

    def __init__(
        self,
        base: LossTerm,
        teacher: Callable[[Tensor], Tensor],
        *,
        term: LossTerm = hard_distillation,
        alpha: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} is not a weight from 0 to 1")
        self.base, self.teacher, self.term, self.alpha = base, teacher, term, alpha

    def forward(self, outputs: tuple[Tensor, Tensor], target: Tensor, images: Tensor) -> Tensor:
        """Loss of a batch.

        Args:
            outputs: the student's pair of (B, classes) logits.
            target: what `base` takes.
            images: (B, C, H, W), what the student was given.

        Raises:
            ValueError: the student returned a single tensor.
        """
        if isinstance(outputs, Tensor):
            raise ValueError(
                "the student returned one tensor instead of (logits, teacher logits); distillation needs a model with "
                "a second head, in training mode and after model.set_distilled_training()"
            )
        logits, teacher_logits = outputs
        taught = self.term(teacher_logits, self.teacher(images))
        return (1 - self.alpha) * self.base(logits, target) + self.alpha * taught
