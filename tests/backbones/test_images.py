"""What is no batch of images is refused by every family in a sentence that says what to give."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import nn

import visionssm

FAMILIES = [name for name in visionssm.list_models() if name.endswith("_nano_test")]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return timm.create_model(request.param, num_classes=3).eval()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 64, 64), r"x has shape \(3, 64, 64\); expected images of shape \(B, C=3, H, W\); x\[None\] makes a batch"),
        ((64, 64), r"x has shape \(64, 64\); expected images of shape \(B, C=3, H, W\)"),
        ((2, 4, 64, 64), r"images of 4 channels; expected \(B, C=3, H, W\), or a model made with in_chans=4"),
        ((1, 3, 0, 64), r"an image of 0x64 pixels is (too small|smaller than one patch); give at least"),
    ],
)
def test_other_shapes_are_refused_with_a_remedy(model: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        model.forward_intermediates(torch.zeros(shape))


def test_a_single_pixel_is_an_image_or_refused_with_the_least_size(model: nn.Module) -> None:
    side = 1
    try:
        model(torch.zeros(1, 3, 1, 1))
    except ValueError as refused:
        found = re.fullmatch(r"an image of 1x1 pixels is .*; give at least (\d+)x\1", str(refused))
        side = int(found[1]) if found else 0
    logits = model(torch.zeros(1, 3, side, side))
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()
