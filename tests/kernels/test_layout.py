"""Which views compiled kernels read as they are, and where they find them."""

from __future__ import annotations

import itertools

import pytest
import torch

from visionssm.kernels.layout import address, addresses, packed, placed, rows, with_packed_pairs, with_unit_stride

SHAPES = list(itertools.product((1, 2, 3), repeat=3))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("shape", SHAPES)
def test_last_dimension_has_neighbours_and_a_view_that_has_them_stays(
    shape: tuple[int, ...], order: tuple[int, ...]
) -> None:
    x = torch.arange(27.0).view(3, 3, 3)[: shape[0], : shape[1], : shape[2]].permute(order)
    found = with_unit_stride(x)
    assert torch.equal(found, x)
    assert found.stride(-1) == 1 or found.shape[-1] == 1
    assert (found is x) == (x.stride(-1) == 1 or x.shape[-1] == 1)
    assert torch.equal(rows(x.double()), x)
    assert rows(x.half()).dtype == torch.float32


def test_pairs_are_neighbours_and_a_view_that_has_them_stays() -> None:
    x = torch.arange(24.0).view(2, 2, 3, 2)
    for view in (x, x.transpose(0, 1), x[1:]):
        assert with_packed_pairs(view) is view
    for view in (x.transpose(1, 2), x[:, :, ::2], x.view(2, 2, 2, 3).transpose(-1, -2)):
        assert with_packed_pairs(view).stride()[-2:] == (2, 1)
        assert torch.equal(with_packed_pairs(view), view)


def test_addresses_are_those_of_the_first_value_and_nothing_is_at_0() -> None:
    x = torch.arange(12.0).view(3, 4)
    assert placed("u", x[1:, 2:], "batch", "pixel") == {"u": x.data_ptr() + 24, "u_batch": 4, "u_pixel": 1}
    assert placed("u", x, "batch") == {"u": x.data_ptr(), "u_batch": 4}
    assert addresses(a=x, b=None, c=x[:0]) == {"a": x.data_ptr(), "b": 0, "c": 0}
    assert address(x[2]) == x.data_ptr() + 32
    assert packed(None) is None
    assert packed(x.T).is_contiguous()
    assert packed(x.double()).dtype == torch.float32
