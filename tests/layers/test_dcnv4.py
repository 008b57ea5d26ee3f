"""DCNv4 against the recorded cases; its operator is tested in tests/kernels/test_deformable_sum.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.reference_cases import Case, every_case
from visionssm.layers.dcnv4 import CenterScaledDCNv4, DCNv4, ProjectedDCNv4


def _layer(case: Case) -> torch.nn.Module:
    """The module whose constructor's arguments a case records by the authors' names."""
    init = dict(case.meta["init"])
    size = {"dim": init.pop("channels"), "groups": init.pop("group")}
    options: dict[str, Any] = {"offset_scale": init.pop("offset_scale", 1.0)}
    if (kernel := init.pop("dw_kernel_size", None)) is not None:
        assert kernel == 3
        options["offset_conv"] = True
    layer: Callable[..., torch.nn.Module] = DCNv4
    if init.pop("center_feature_scale", False):
        layer = CenterScaledDCNv4
    elif not init.pop("without_pointwise", True):
        layer, options["output_bias"] = ProjectedDCNv4, init.pop("output_bias", True)
    assert not init
    return layer(**size, **options)


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


@every_case("DCNv4")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recorded_operator_is_the_authors(case: Case, dtype: torch.dtype) -> None:
    layer = _layer(case).to(dtype)
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
