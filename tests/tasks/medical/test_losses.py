"""Losses against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from visionssm.tasks.medical.losses import loss_named, supervised, supervision_weights


@pytest.fixture
def case() -> tuple[Tensor, Tensor]:
    """Logits (2, 3, 4, 6) and labels (2, 4, 6)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 6, generator=generator), torch.randint(3, (2, 4, 6), generator=generator)


def test_bce_and_dice_are_the_formula_on_isic() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 1, 4, 5), torch.randint(2, (3, 4, 5))
    p, t = logits.double().sigmoid().flatten(1), labels.double().flatten(1)
    dice = 1 - ((2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()
    bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    assert loss_named("bce_dice")(logits, labels).item() == pytest.approx((bce + dice).item(), rel=1e-5)


def test_ce_is_the_mean_of_the_labels_negative_log_probabilities(case: tuple[Tensor, Tensor]) -> None:
    logits, labels = case
    expected = -logits.double().log_softmax(1).gather(1, labels[:, None]).mean()
    assert loss_named("ce")(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_ce_and_squared_dice_are_the_formula_on_synapse(case: tuple[Tensor, Tensor]) -> None:
    logits, labels = case
    p, t = logits.double().softmax(1), F.one_hot(labels, 3).permute(0, 3, 1, 2).double()
    axes = (0, 2, 3)
    dice = 1 - (2 * (p * t).sum(axes) + 1e-5) / ((p**2).sum(axes) + (t**2).sum(axes) + 1e-5)
    expected = F.cross_entropy(logits.double(), labels) + dice.mean()
    assert loss_named("ce_dice")(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("name", "axes"), [("ce_dice_foreground", (2, 3)), ("ce_batch_dice_foreground", (0, 2, 3))])
def test_ce_and_foreground_dice_are_nnunets_formula(
    name: str, axes: tuple[int, ...], case: tuple[Tensor, Tensor]
) -> None:
    logits, labels = case
    p, t = logits.double().softmax(1), F.one_hot(labels, 3).permute(0, 3, 1, 2).double()
    dice = (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    expected = F.cross_entropy(logits.double(), labels) - dice[..., 1:].mean()
    assert loss_named(name)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Two pixels, one of them of class 1, and p = 1/2 everywhere: Σpt = 1/2, Σp = Σt = 1, Σp² = 1/2.
        ("ce", math.log(2)),
        ("ce_dice", math.log(2) + 1 - (2 * 0.5) / (0.5 + 1)),
        ("ce_dice_foreground", math.log(2) - (2 * 0.5) / (1 + 1)),
        ("ce_batch_dice_foreground", math.log(2) - (2 * 0.5) / (1 + 1)),
        ("bce_dice", math.log(2) + 1 - (2 * 0.5 + 1) / (1 + 1 + 1)),
    ],
)
def test_undecided_network_has_the_loss_that_is_found_by_hand(name: str, expected: float) -> None:
    logits = torch.zeros(1, 1 if name == "bce_dice" else 2, 1, 2)
    assert loss_named(name)(logits, torch.tensor([[[0, 1]]])).item() == pytest.approx(expected, abs=2e-5)


def test_outputs_of_deep_supervision_weigh_half_of_the_finer_one_and_the_last_nothing() -> None:
    assert supervision_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    labels = torch.arange(16).view(1, 4, 4) % 2
    seen = []

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        seen.append(truth)
        return logits.mean()

    outputs = [torch.full((1, 2, n, n), value) for n, value in ((4, 7.0), (2, 70.0), (1, 1e9))]
    assert supervised(loss, outputs, labels).item() == pytest.approx((2 * 7 + 70) / 3)
    assert torch.equal(seen[0], labels)
    assert torch.equal(seen[1], labels[:, ::2, ::2])  # the nearest, as nnU-Net samples them
    assert len(seen) == 2


def test_half_precision_logits_give_a_float_loss(case: tuple[Tensor, Tensor]) -> None:
    logits, labels = case
    found = supervised(loss_named("ce_dice"), logits.half() * 1000, labels)
    assert found.dtype == torch.float32
    assert found.isfinite()
