"""Losses of the published recipes, of MONAI's parts, and their sum over the outputs of deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from visionssm.extras import needs_extra

Loss = Callable[[Tensor, Tensor], Tensor]
NAMES = ("bce_dice", "ce", "ce_dice", "ce_dice_foreground", "ce_batch_dice_foreground")


def loss_named(name: str) -> Loss:
    """A function from logits (B, K, *sides) and class numbers (B, *sides) to a number.

    - "bce_dice", K = 1 (VM-UNet and MHS-VM on ISIC): binary cross-entropy + 1 − mean over images of
      (2·Σpt+1)/(Σp+Σt+1), p the sigmoid.
    - "ce" (SegMamba): cross-entropy alone.
    - "ce_dice" (VM-UNet on Synapse): cross-entropy + mean over all classes, the background too, of
      1 − (2·Σpt+1e-5)/(Σp²+Σt²+1e-5), sums over the batch, p the softmax.
    - "ce_dice_foreground" (nnU-Net, U-Mamba): cross-entropy − mean over images and foreground classes of
      (2·Σpt+1e-5)/(Σp+Σt+1e-5); it goes down to −1.
    - "ce_batch_dice_foreground": the same with sums over the batch (nnU-Net's "batch Dice").

    Raises:
        ValueError: there is no such loss.
        MissingExtraError: (an ImportError) MONAI is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"loss={name!r} is unknown; choose one of {', '.join(NAMES)}")
    if name == "ce":
        return F.cross_entropy
    with needs_extra("medical", f"the loss {name!r}"):
        from monai.losses import DiceCELoss, DiceLoss
    if name == "bce_dice":
        dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)

        def bce_dice(logits: Tensor, labels: Tensor) -> Tensor:
            truth = labels[:, None].to(logits.dtype)
            return F.binary_cross_entropy_with_logits(logits, truth) + dice(logits, truth)

        return bce_dice
    common: dict[str, Any] = {"softmax": True, "to_onehot_y": True, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    if name == "ce_dice":
        whole = DiceCELoss(squared_pred=True, batch=True, **common)
        return lambda logits, labels: whole(logits, labels[:, None])
    foreground = DiceCELoss(include_background=False, batch=name == "ce_batch_dice_foreground", **common)
    return lambda logits, labels: foreground(logits, labels[:, None]) - 1


def supervision_weights(count: int) -> list[float]:
    """Weights of outputs of falling resolution: 1, ½, ¼, …, the last one 0, divided by their sum (nnU-Net's).

    Examples:
        >>> supervision_weights(1), supervision_weights(3)
        ([1.0], [0.6666666666666666, 0.3333333333333333, 0.0])
    """
    weights = [0.5**level for level in range(count)]
    if count > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def supervised(loss: Loss, outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
    """The loss of logits; of a list of these, finest first, the weighted sum over labels sampled at their places.

    Args:
        loss: of one output.
        outputs: (B, K, *sides), or a list.
        labels: (B, *sides) class numbers.
    """
    listed = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    total = listed[0].new_zeros((), dtype=listed[0].float().dtype)
    for output, weight in zip(listed, supervision_weights(len(listed)), strict=True):
        if weight:
            total = total + weight * loss(output.float(), _sampled(labels, output))
    return total


def _sampled(labels: Tensor, output: Tensor) -> Tensor:
    if labels.shape[1:] == output.shape[2:]:
        return labels
    return F.interpolate(labels[:, None].float(), output.shape[2:], mode="nearest")[:, 0].long()
