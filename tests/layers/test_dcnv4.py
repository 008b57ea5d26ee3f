"""DCNv4 against the recorded cases; its operator is tested in tests/kernels/test_deformable_sum.py."""

from __future__ import annotations

import pytest
import torch

from tests.reference_cases import FOLDER, Case
from visionssm.layers.dcnv4 import CenterScaledDCNv4, DCNv4, ProjectedDCNv4

MODULES = {
    "plain": lambda: DCNv4(32, 2),
    "dw3": lambda: DCNv4(32, 2, offset_conv=True),
    "full": lambda: ProjectedDCNv4(32, 2, offset_conv=True, output_bias=False, offset_scale=0.5),
    "center": lambda: CenterScaledDCNv4(48, 3),
}


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
