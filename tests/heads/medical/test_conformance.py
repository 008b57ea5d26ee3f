"""What holds of every registered network for medical segmentation, on its small variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import visionssm
from visionssm.heads.medical import Segmenter
from visionssm.heads.medical.umamba import UMamba

SMALL = visionssm.list_segmenters("*_nano*")


def finest(y: Tensor | list[Tensor]) -> Tensor:
    return y if isinstance(y, Tensor) else y[0]


def small(name: str, num_classes: int | None = None, in_chans: int | None = None) -> Segmenter:
    torch.manual_seed(0)
    return visionssm.create_segmenter(name, num_classes=num_classes, in_chans=in_chans)


def odd_sides(model: Segmenter) -> tuple[int, ...]:
    """Sides that no stride divides, all different."""
    return (37, 50) if model.spatial_dims == 2 else (9, 18, 35)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_logits_have_the_sides_of_the_input(name: str, in_chans: int) -> None:
    model = small(name, num_classes=3, in_chans=in_chans).eval()
    assert (model.num_classes, model.in_chans) == (3, in_chans)
    sides = odd_sides(model)
    with torch.inference_mode():
        y = model(torch.randn(1, in_chans, *sides))
    assert isinstance(y, Tensor)
    assert y.shape == (1, 3, *sides)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name: str) -> None:
    model = small(name, num_classes=2)
    y = model(torch.randn(2, model.in_chans, *odd_sides(model)))
    levels = [y] if isinstance(y, Tensor) else y
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()  # type: ignore[union-attr]
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("name", SMALL)
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    model = small(name).eval()
    x = torch.randn(2, model.in_chans, *odd_sides(model))
    with torch.inference_mode():
        torch.testing.assert_close(finest(model(x))[1:], finest(model(x[1:])), rtol=1e-3, atol=1e-4)


def in_half(name: str, dtype: torch.dtype) -> Any:
    """Convolutions of volumes in float16 take a CPU half a minute."""
    of_volumes = name.startswith(("segmamba", "umamba_enc3d"))
    return pytest.param(name, dtype, marks=pytest.mark.slow if of_volumes and dtype == torch.float16 else ())


@pytest.mark.parametrize(
    ("name", "dtype"), [in_half(name, dtype) for name in SMALL for dtype in (torch.bfloat16, torch.float16)], ids=str
)
def test_half_precision_is_finite(name: str, dtype: torch.dtype) -> None:
    model = small(name)
    sides = odd_sides(model)
    if model.spatial_dims == 3:  # this PyTorch's bfloat16 Conv3d has undefined gradients of weights on 2×3×5 pixels
        sides = tuple(side + 3 * step for side, step in zip(sides, model.stride))
    with torch.autocast("cpu", dtype):
        y = finest(model(torch.randn(1, model.in_chans, *sides)))
        (2**-8 * y.float().square().mean()).backward()  # scaled, as float16 is trained: a stem's norm multiplies by 1e5
    assert y.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_wrong_channels_and_dimensions_are_told(name: str) -> None:
    model = small(name)
    sides = odd_sides(model)
    with pytest.raises(ValueError, match=f"in_chans={model.in_chans + 1}"):
        model(torch.randn(1, model.in_chans + 1, *sides))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        model(torch.randn(model.in_chans, *sides))


@pytest.mark.parametrize("name", SMALL)
def test_own_weights_load_strictly(name: str) -> None:
    model, other = small(name), small(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    visionssm.load_official(model, other.state_dict())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def published_width(name: str, **arguments: Any) -> Segmenter:
    """The published network; of U-Mamba with channel tokens, which take their patch alone, for a smaller patch."""
    torch.manual_seed(0)
    model = visionssm.create_segmenter(name, **arguments)
    if not isinstance(model, UMamba) or model.only_sides is None:
        return model
    patch = tuple(2 * step for step in model.stride)
    return visionssm.create_segmenter(name, plan=replace(model.plan, patch=patch), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("name", [name for name in visionssm.list_segmenters() if name not in SMALL])
def test_published_widths_take_odd_sides_reach_every_parameter_and_stay_finite_in_half(
    name: str, in_chans: int
) -> None:
    model = published_width(name, num_classes=2, in_chans=in_chans)
    sides = model.only_sides or tuple(step + 5 + axis for axis, step in enumerate(model.stride))
    x = torch.randn(1, in_chans, *sides)
    y = model(x)
    assert finest(y).shape == (1, 2, *sides)
    levels = [y] if isinstance(y, Tensor) else y
    sum((level * torch.randn_like(level)).sum() for level in levels).backward()  # type: ignore[union-attr]
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                assert finest(model(x)).isfinite().all(), dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_archive_with_open_sides_equals_eager(name: str, tmp_path: Path) -> None:
    model = small(name, num_classes=2).eval()
    image = torch.randn(2, model.in_chans, *(2 * step for step in model.stride))
    assert visionssm.export_archive(model, tmp_path / "model.pt2", image) <= 1e-4


@pytest.mark.slow  # MHS-VM's gate of an untrained network divides rounding by rounding: see test_mhsvm.py
@pytest.mark.parametrize("name", [name for name in SMALL if not name.startswith("mhsvm_")])
def test_onnx_with_open_sides_equals_eager(name: str, tmp_path: Path) -> None:
    model = small(name, num_classes=2).eval()
    image = torch.randn(2, model.in_chans, *(2 * step for step in model.stride))
    assert visionssm.export_onnx(model, tmp_path / "model.onnx", image) <= 1e-4
