"""What no backbone can look at is told before its first layer."""

from __future__ import annotations

import pytest
import timm
import torch

import visionssm
from visionssm.heads.yolo import create_yolo


@pytest.mark.parametrize("name", ["plainmamba_nano_test", "localvim_nano_test", "localvmamba_nano_test"])
def test_whole_numbers_are_refused_by_their_type(name: str) -> None:
    with pytest.raises(ValueError, match=r"x is torch.uint8, expected floating-point pixels"):
        timm.create_model(name)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_so_they_are_where_a_backbone_is_part_of_a_network() -> None:
    for model in (visionssm.create_pose("hrvmamba_nano_pose"), create_yolo("mambayolo_nano")):
        with pytest.raises(ValueError, match=r"x is torch.uint8, expected floating-point pixels"):
            model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
