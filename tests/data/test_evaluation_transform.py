"""Images are prepared for exported classifiers as timm prepares them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from visionssm.data.evaluation_transform import CROP_MODES, INTERPOLATIONS, EvaluationTransform

GREY = {"mean": (0.4,), "std": (0.3,)}
RGB = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(37, 90), (90, 37), (64, 64), (5, 8)])
@pytest.mark.parametrize("input_size", [(3, 32, 32), (3, 24, 40), (1, 33, 32)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_pixels_are_those_of_timms_transform(
    crop_mode: str, interpolation: str, shape: tuple[int, int], input_size: tuple[int, int, int], crop_pct: float
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, input_size[0]), dtype=np.uint8)
    image = Image.fromarray(pixels if input_size[0] == 3 else pixels[..., 0])
    facts: dict[str, Any] = {"input_size": input_size, "interpolation": interpolation, "crop_pct": crop_pct}
    facts |= {"crop_mode": crop_mode, **(RGB if input_size[0] == 3 else GREY)}
    transform = create_transform(**facts, is_training=False)
    if str(getattr(transform.transforms[0], "interpolation", interpolation)).lower().endswith("bilinear") and (
        interpolation != "bilinear"
    ):
        pytest.skip("this timm resizes for inputs that are no squares bilinearly, whatever it is asked for")
    theirs = transform(image)
    np.testing.assert_allclose(EvaluationTransform(**facts)(image), theirs.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input_size", (3, 32)),
        ("input_size", (2, 32, 32)),
        ("input_size", (3, 10**9, 32)),
        ("input_size", (3, 32.0, 32)),
        ("mean", (0.5,)),
        ("std", (0.5, 0.0, 0.5)),
        ("std", (0.5, float("nan"), 0.5)),
        ("mean", 0.5),
        ("interpolation", "random"),
        ("crop_mode", "middle"),
        ("crop_pct", 1e-9),
        ("crop_pct", True),
    ],
)
def test_what_a_file_may_not_ask_for_is_named(name: str, value: Any) -> None:
    facts: dict[str, Any] = {"input_size": (3, 32, 32), **RGB, name: value}
    with pytest.raises(ValueError, match=name):
        EvaluationTransform(**facts)


def test_a_thin_image_is_refused_before_it_fills_the_memory() -> None:
    transform = EvaluationTransform((3, 224, 224), *RGB.values())
    with pytest.raises(ValueError, match="200000×1"):
        transform(Image.new("RGB", (200_000, 1)))
