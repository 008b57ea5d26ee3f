"""DCNv4 against its definition, against torchvision's operator and against the recorded cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from tests.reference_cases import FOLDER, Case
from visionssm.layers.dcnv4 import CenterScaledDCNv4, DCNv4, ProjectedDCNv4, deformable_sum

MODULES = {
    "plain": lambda: DCNv4(32, 2),
    "dw3": lambda: DCNv4(32, 2, offset_conv=True),
    "full": lambda: ProjectedDCNv4(32, 2, offset_conv=True, output_bias=False, offset_scale=0.5),
    "center": lambda: CenterScaledDCNv4(48, 3),
}


def _pixel(value: Tensor, y: int, x: int) -> Tensor:
    inside = 0 <= y < value.shape[0] and 0 <= x < value.shape[1]
    return value[y, x] if inside else torch.zeros_like(value[0, 0])


def _definition(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Pixel by pixel and corner by corner: (H, W, D) values, (H, W, 9, 2) offsets, (H, W, 9) masks of one group."""
    out = torch.zeros_like(value)
    height, width, _ = value.shape
    for row in range(height):
        for column in range(width):
            for i in range(3):  # column by column
                for j in range(3):
                    point = 3 * i + j
                    x = column + scale * (i - 1 + offset[row, column, point, 0])
                    y = row + scale * (j - 1 + offset[row, column, point, 1])
                    left, top = int(torch.floor(x)), int(torch.floor(y))
                    sample = sum(
                        (1 - abs(x - cx)) * (1 - abs(y - cy)) * _pixel(value, cy, cx)
                        for cx in (left, left + 1)
                        for cy in (top, top + 1)
                    )
                    out[row, column] += mask[row, column, point] * sample
    return out


def _random(seed: int, height: int, width: int, groups: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, height, width, groups)
    value, offset, mask = (
        torch.randn(*shape, *rest, generator=generator, dtype=torch.float64) for rest in ((3,), (9, 2), (9,))
    )
    return value, spread * offset, mask


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    spread=st.sampled_from([0.0, 0.7, 20.0]),
    scale=st.sampled_from([1.0, 0.5]),
)
def test_it_equals_the_definition(seed: int, height: int, width: int, spread: float, scale: float) -> None:
    value, offset, mask = _random(seed, height, width, 2, spread)
    actual = deformable_sum(value, offset, mask, scale=scale)
    for image in range(2):
        for group in range(2):
            expected = _definition(*(x[image, :, :, group] for x in (value, offset, mask)), scale)
            torch.testing.assert_close(actual[image, :, :, group], expected)


def test_it_equals_torchvisions_operator_after_reordering() -> None:
    value, offset, mask = _random(0, 6, 5, 2, 1.5)
    rows = torch.arange(9).view(3, 3).T.flatten()  # torchvision: row by row, and y before x
    offsets = offset[..., rows, :].flip(-1).flatten(3).permute(0, 3, 1, 2)
    masks = mask[..., rows].flatten(3).permute(0, 3, 1, 2)
    maps = value.flatten(3).permute(0, 3, 1, 2)
    weight = torch.ones(6, 1, 3, 3, dtype=torch.float64)
    expected = deform_conv2d(maps, offsets.contiguous(), weight, padding=1, mask=masks.contiguous())
    actual = deformable_sum(value, offset, mask).flatten(3).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected)


def test_gradients_are_those_of_the_definition() -> None:
    inputs = [x.requires_grad_() for x in _random(3, 3, 4, 2, 0.9)]
    assert torch.autograd.gradcheck(deformable_sum, inputs)


def test_reduced_precision_keeps_positions_exact() -> None:
    value, offset, mask = _random(1, 4, 300, 1, 0.0)  # bfloat16 cannot count to 300
    exact = deformable_sum(value.bfloat16().double(), offset, torch.ones_like(mask))
    actual = deformable_sum(value.bfloat16(), offset.bfloat16(), torch.ones_like(mask).bfloat16())
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), exact, rtol=1e-2, atol=1e-2)


def test_without_offsets_and_with_masks_of_one_it_sums_the_neighbourhood() -> None:
    layer = DCNv4(4, 2)
    torch.nn.init.zeros_(layer.offset_mask.weight)
    bias = torch.zeros(layer.offset_mask.out_features)
    bias[:54].view(2, 27)[:, 18:] = 1.0
    layer.offset_mask.bias.data.copy_(bias)
    x = torch.randn(1, 5, 6, 4)
    expected = 9 * torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_surplus_outputs_of_the_projection_are_not_used() -> None:
    layer = DCNv4(32, 2)
    layer(torch.randn(1, 3, 3, 32)).square().sum().backward()
    assert layer.offset_mask.weight.shape == (56, 32)
    assert layer.offset_mask.weight.grad[54:].abs().max() == 0
    assert layer.offset_mask.weight.grad[:54].abs().amin(1).gt(0).all()


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_operator_is_the_authors(name: str, dtype: torch.dtype) -> None:
    case = Case(FOLDER / "hrvmamba" / f"dcnv4_{name}.json")
    layer = MODULES[name]().to(dtype)
    layer.load_state_dict(case.state_dict())
    assert sum(p.numel() for p in layer.parameters()) == case.data["n_params"]
    output = layer(case.image().to(dtype))
    assert case.relative_error("output", output) <= 1e-5
    (output * case.cotangent(output)).sum().backward()
    for parameter, expected in case.data["grad_norms"].items():
        assert layer.get_parameter(parameter).grad.norm().item() == pytest.approx(expected, rel=1e-4), parameter


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="dim=10 channels"):
        DCNv4(10, 4)
