"""The one count of operations against the figures that the models' authors publish."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visionssm.benchmarks.flops import count_multiply_adds, create_for_size, multiply_adds_of, scan_multiply_adds
from visionssm.kernels import LowRank, selective_scan
from visionssm.kernels import routes as route_tables

PUBLISHED = {  # GFLOPs of a 224×224 image
    "vmamba_tiny_s1l8": 4.9,
    "vmamba_tiny_s2l5": 4.9,
    "vmamba_v0_tiny": 5.6,
    "efficientvmamba_tiny": 0.788,
    "efficientvmamba_small": 1.318,
    "efficientvmamba_base": 3.951,
    "msvmamba_nano": 0.88,
    "msvmamba_micro": 1.532,
    "msvmamba_tiny": 4.613,
    "groupmamba_tiny": 4.5,
    "spatialmamba_tiny": 4.5,
    "vssd_micro": 2.3,
    "vssd_tiny": 4.5,
    "swin_tiny_patch4_window7_224": 4.5,
    "convnext_tiny": 4.47,
    "deit_small_patch16_224": 4.6,
    "mambaout_tiny": 4.5,
}
OTHER_COUNTERS = {"groupmamba_tiny", "vssd_micro", "vssd_tiny"}  # published counts are a few per cent below this one


@pytest.mark.parametrize("name", PUBLISHED)
def test_count_is_the_published_one(name: str) -> None:
    multiply_adds, _ = multiply_adds_of(name, 224)
    assert multiply_adds / 1e9 == pytest.approx(PUBLISHED[name], rel=0.04 if name in OTHER_COUNTERS else 0.03)


def test_scan_formula_is_nine_a_state_and_one_for_the_skip() -> None:
    u, dt, a, b, order = (2, 12, 8), (2, 12, 4, 8), (4, 8, 3), (2, 12, 4, 3), (4, 1, 12)
    steps = 2 * 4 * 12 * 8
    assert scan_multiply_adds(u, dt, None, a, b, b, None, order) == 9 * 3 * steps
    assert scan_multiply_adds(u, dt, None, a, b, b, (4, 8), order) == 9 * 3 * steps + steps


def test_low_rank_steps_count_as_the_matrix_product_that_they_are() -> None:
    u, low, weight, a, b, order = (2, 12, 8), (2, 12, 4, 5), (4, 5, 8), (4, 8, 3), (2, 12, 4, 3), (4, 1, 12)
    full = scan_multiply_adds(u, (2, 12, 4, 8), None, a, b, b, None, order)
    assert scan_multiply_adds(u, low, weight, a, b, b, None, order) - full == 2 * 12 * 4 * 5 * 8


class _ScanAlone(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = x.flatten(2).transpose(1, 2)
        projected = u.new_ones(1, u.shape[1], 4, 2)
        dt = LowRank(projected, u.new_ones(4, 2, u.shape[2]))
        a = u.new_ones(4, u.shape[2], 1)
        order = route_tables.ss2d(*x.shape[2:], device=x.device)
        y = selective_scan(u, dt, a, projected[..., :1], projected[..., :1], order=order)
        assert isinstance(y, torch.Tensor)
        return y


def test_scan_inside_a_model_counts_by_the_formula() -> None:
    steps = 4 * (6 * 5) * 3
    assert count_multiply_adds(_ScanAlone(), (3, 6, 5)) == 9 * steps + steps * 2


def test_convolution_counts_one_a_multiply_add() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1, device="meta")
    assert count_multiply_adds(conv, (3, 10, 10)) == 10 * 10 * 3 * 8 * 9


def test_count_on_meta_tensors_equals_count_on_memory() -> None:
    on_cpu = count_multiply_adds(create_for_size("vmamba_nano_test", 32), (3, 32, 32), device="cpu")
    assert multiply_adds_of("vmamba_nano_test", 32)[0] == on_cpu


def test_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match="no model 'vmamba_gigantic'"):
        create_for_size("vmamba_gigantic", 224)
