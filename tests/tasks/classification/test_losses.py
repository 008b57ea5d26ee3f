"""Distillation: the recorded losses of the authors, and what a teacher may and may not do."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from torch import Tensor, nn

from tests.reference.fill import uniform
from tests.reference_cases import Case, find_cases
from visionssm.tasks.classification.losses import (
    DistillationLoss,
    FrozenTeacher,
    hard_distillation,
    mesa,
    soft_distillation,
)

SETTINGS = [
    pytest.param(case, name, *(float(x.lstrip("alphtu")) for x in name.split("_")[1:]), id=name)
    for case in find_cases("distillation loss")
    for name in case.data["outputs"]
]
TERMS = {"hard": lambda tau: hard_distillation, "soft": lambda tau: partial(soft_distillation, temperature=tau)}


def _values(case: Case, name: str) -> Tensor:
    return torch.from_numpy(uniform(case.seed, name, tuple(case.data["shape"]))).float()


@pytest.mark.parametrize("case,name,alpha,tau", SETTINGS)
def test_losses_and_gradients_are_the_authors(case: Case, name: str, alpha: float, tau: float) -> None:
    student, distilled, teacher = (
        6 * _values(case, x) - 3 for x in ("student_logits", "distill_logits", "teacher_logits")
    )
    target = _values(case, "target")
    target = target / target.sum(-1, keepdim=True)
    student.requires_grad_()
    distilled.requires_grad_()
    kind = name.split("_")[0]
    base = SoftTargetCrossEntropy()
    if kind == "none":
        loss = base(student, target) + 0 * distilled.sum()
    else:
        term = TERMS[kind](tau)
        criterion = DistillationLoss(base, lambda images: teacher, term=term, alpha=alpha)
        loss = criterion((student, distilled), target, torch.zeros(4, 3, 8, 8))
    loss.backward()
    expected = case.data["outputs"][name]
    assert teacher.argmax(-1).tolist() == case.data["teacher_argmax"]
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-6)
    assert student.grad.norm().item() == pytest.approx(expected["grad_norm_student"], rel=1e-5)
    assert distilled.grad.norm().item() == pytest.approx(expected["grad_norm_distill"], rel=1e-5)


def test_a_student_that_repeats_its_teacher_has_no_soft_loss() -> None:
    logits = torch.randn(3, 7)
    assert float(soft_distillation(logits, logits + 5.0, temperature=3.0)) == pytest.approx(0, abs=1e-6)
    assert float(soft_distillation(logits, torch.randn(3, 7))) > 0


def test_mesa_pulls_the_student_alone_to_the_distribution_of_its_average() -> None:
    student, average = (torch.randn(4, 7, requires_grad=True) for _ in range(2))
    mesa(student, average).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.softmax(-1) - average.softmax(-1)) / 4)
    assert average.grad is None


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_convnext", num_classes=5)


def test_a_teacher_never_learns_and_never_leaves_evaluation_mode(teacher: nn.Module) -> None:
    holder = nn.Sequential(FrozenTeacher(teacher)).train()
    assert not teacher.training
    assert not list(holder.parameters())
    assert not holder.state_dict()
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    assert not holder(images).requires_grad


def test_a_teacher_follows_its_holder_to_another_dtype(teacher: nn.Module) -> None:
    holder = nn.Sequential(FrozenTeacher(teacher)).to(torch.float64)
    assert holder(torch.randn(1, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert copy.deepcopy(holder)[0].model is not teacher


def test_images_are_normalised_again_for_a_teacher_with_other_statistics(teacher: nn.Module) -> None:
    teacher.pretrained_cfg.update(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = torch.rand(2, 3, 32, 32)
    student_images = (pixels - 0.5) / 0.25
    expected = teacher(
        (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    )
    answers = FrozenTeacher(teacher, mean=(0.5,) * 3, std=(0.25,) * 3)(student_images)
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-4)


def test_images_are_resized_for_a_teacher_of_fixed_size() -> None:
    vit = timm.create_model("test_vit", num_classes=5)
    size = vit.pretrained_cfg["input_size"][1]
    assert vit.pretrained_cfg["fixed_input_size"]
    assert FrozenTeacher(vit)(torch.randn(2, 3, size // 2, size // 2 + 4)).shape == (2, 5)


def test_every_teacher_of_timm_teaches_a_student_with_two_heads(teacher: nn.Module) -> None:
    student = timm.create_model("groupmamba_nano_test", num_classes=5).train()
    student.set_distilled_training()
    criterion = DistillationLoss(nn.CrossEntropyLoss(), FrozenTeacher(teacher))
    images = torch.randn(2, 3, 32, 32)
    criterion(student(images), torch.tensor([0, 3]), images).backward()
    assert all(float(head.weight.grad.abs().sum()) > 0 for head in student.get_classifier())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_mistakes_are_explained(teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    criterion = DistillationLoss(nn.CrossEntropyLoss(), FrozenTeacher(teacher))
    with pytest.raises(ValueError, match="set_distilled_training"):
        criterion(torch.zeros(2, 5), torch.tensor([0, 3]), torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"alpha=1\.5"):
        DistillationLoss(nn.CrossEntropyLoss(), FrozenTeacher(teacher), alpha=1.5)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: teacher)
    with pytest.raises(ValueError, match="5 classes and the student 10"):
        FrozenTeacher.pretrained("test_convnext", num_classes=10)
