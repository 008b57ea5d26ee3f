"""Sparse convolution and its table: against dense convolution, its definition, its properties, its errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.kernels import neighbour_table, sparse_conv, use_backend
from visionssm.kernels.sparse_conv import pairs

backends = pytest.mark.parametrize("backend", ["auto", "reference"])
few = settings(max_examples=25, deadline=None)
grids = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def voxels(shape: tuple[int, ...], count: int, *, samples: int = 2, seed: int = 0) -> Tensor:
    """Different cells (sample, …) of a grid, in no order."""
    cells = torch.cartesian_prod(*(torch.arange(size) for size in (samples, *shape)))
    generator = torch.Generator().manual_seed(seed)
    return cells[torch.randperm(len(cells), generator=generator)[:count]]


def problem(
    shape: tuple[int, ...] = (4, 5, 6),
    count: int = 70,
    kernel_size: int = 3,
    channels: tuple[int, int] = (3, 4),
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Coordinates; features, weight and bias; the table."""
    coordinates = voxels(shape, count)
    generator = torch.Generator().manual_seed(1)
    sizes = [(len(coordinates), channels[0]), (kernel_size ** len(shape), *channels), channels[1:]]
    tensors = [torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]
    return coordinates, tensors, neighbour_table(coordinates, shape, kernel_size)


def dense(coordinates: Tensor, features: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same by PyTorch's dense convolution over the whole grid, read where there are voxels."""
    index = coordinates.unbind(1)
    grid = features.new_zeros(int(coordinates[:, 0].max()) + 1, *shape, features.shape[1])
    grid = grid.index_put(index, features).movedim(-1, 1)
    width = round(len(weight) ** (1 / len(shape)))
    kernel = weight.unflatten(0, (width,) * len(shape)).movedim((-1, -2), (0, 1))
    convolve: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(shape)]
    return convolve(grid, kernel, bias, padding=width // 2).movedim(1, -1)[index]


# ---------------------------------------------------------------------------------------------- values and gradients


@backends
@pytest.mark.parametrize(
    ("shape", "kernel_size"), [((4, 5, 6), 3), ((7, 6), 3), ((7, 6), 5), ((9,), 3), ((3, 3, 3), 1), ((3, 2, 3), 5)]
)
def test_values_and_gradients_equal_those_of_the_dense_convolution(
    backend: str, shape: tuple[int, ...], kernel_size: int
) -> None:
    count = torch.Size(shape).numel()
    coordinates, tensors, table = problem(shape, count, kernel_size)
    leaves = [x.requires_grad_() for x in tensors]
    features, weight, bias = leaves
    with use_backend(backend):
        y = sparse_conv(features, weight, table, bias)
        found = torch.autograd.grad(y.sin().sum(), leaves)
    expected = dense(coordinates, features, weight, bias, shape)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sin().sum(), leaves))


@pytest.mark.parametrize("rows", [1, 7, 70, 4096])
def test_blocks_of_any_number_of_rows_give_the_definition(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "ROWS", rows)
    _, tensors, table = problem()
    features, weight, bias = leaves = [x.requires_grad_() for x in tensors]
    y = sparse_conv(features, weight, table, bias)
    found = torch.autograd.grad(y.sin().sum(), leaves)
    with use_backend("reference"):
        expected = sparse_conv(features, weight, table, bias)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sin().sum(), leaves))


def test_gradients_of_every_order_are_those_of_finite_differences() -> None:
    _, tensors, table = problem((3, 3), 7, channels=(2, 2))
    leaves = [x.requires_grad_() for x in tensors]

    def call(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return sparse_conv(features, weight, table, bias)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3), (torch.float16, 6e-4)], ids=str
)
@backends
def test_each_dtype_is_as_near_to_float64_as_its_rounding(backend: str, dtype: torch.dtype, tolerance: float) -> None:
    _, tensors, table = problem(channels=(20, 30))
    given_ = [x.to(dtype) for x in tensors]
    features, weight, bias = given_
    expected = sparse_conv(features.double(), weight.double(), table, bias.double())
    with use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        y = sparse_conv(features, weight, table, bias)
    assert y.dtype == dtype
    assert float((y - expected).abs().max() / expected.abs().max()) < tolerance


def test_results_have_the_same_bits_each_time() -> None:
    _, tensors, table = problem((8, 9, 9), 900, channels=(16, 16), dtype=torch.float32)
    leaves = [x.requires_grad_() for x in tensors]

    def run() -> list[Tensor]:
        y = sparse_conv(leaves[0], leaves[1], table, leaves[2])
        return [y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)]

    assert all(torch.equal(x, y) for x, y in zip(run(), run(), strict=True))


@pytest.mark.parametrize("name", ["sparse_conv", "sparse_conv_weight"])
def test_the_operators_pass_pytorchs_own_check(name: str) -> None:
    _, (features, weight, _), table = problem(dtype=torch.float32)
    second = weight if name == "sparse_conv" else features.new_ones(len(features), 4)
    inputs = (features.requires_grad_(), second.requires_grad_(), table)
    torch.library.opcheck(getattr(torch.ops.visionssm, name), inputs)


def test_a_program_of_an_open_number_of_voxels_gives_the_same_numbers() -> None:
    class Convolution(torch.nn.Module):
        def forward(self, coordinates: Tensor, features: Tensor, weight: Tensor) -> Tensor:
            return sparse_conv(features, weight, neighbour_table(coordinates, (4, 5, 6)))

    coordinates, (features, weight, _), table = problem(dtype=torch.float32)
    rows = torch.export.Dim("rows", min=2, max=1000)
    program = torch.export.export(
        Convolution(), (coordinates, features, weight), dynamic_shapes=({0: rows}, {0: rows}, None)
    )
    coordinates, (features, weight, _), table = problem(count=31, dtype=torch.float32)
    found = program.module()(coordinates, features, weight)
    torch.testing.assert_close(found, sparse_conv(features, weight, table))


@few
@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_the_order_of_the_voxels_does_not_matter(count: int, random: Any) -> None:
    shape = (3, 4, 3)
    coordinates, (features, weight, bias), table = problem(shape, count)
    order = torch.tensor(random.sample(range(count), count))
    shuffled = sparse_conv(features[order], weight, neighbour_table(coordinates[order], shape), bias)
    torch.testing.assert_close(shuffled, sparse_conv(features, weight, table, bias)[order])


def test_no_voxels_give_no_outputs_and_gradients_of_zero() -> None:
    table = neighbour_table(torch.zeros(0, 4, dtype=torch.long), (4, 4, 4))
    assert table.shape == (0, 27)
    features, weight, bias = torch.zeros(0, 3), torch.ones(27, 3, 5, requires_grad=True), torch.ones(5)
    y = sparse_conv(features, weight, table, bias)
    assert y.shape == (0, 5)
    (gradient,) = torch.autograd.grad(y.sum(), [weight])
    assert not gradient.any()


# ---------------------------------------------------------------------------------------------- the table


@few
@given(grids, st.sampled_from([1, 3, 5]), st.integers(0, 10**6))
def test_the_table_names_the_voxel_at_each_offset(shape: list[int], kernel_size: int, seed: int) -> None:
    cells = 2 * torch.Size(shape).numel()
    coordinates = voxels(tuple(shape), 1 + seed % cells, seed=seed)
    table = neighbour_table(coordinates, shape, kernel_size)
    assert table.dtype == torch.int32
    rows = {tuple(place): row for row, place in enumerate(coordinates.tolist())}
    reach = torch.arange(kernel_size) - kernel_size // 2
    offsets = torch.cartesian_prod(*[reach] * len(shape)).view(-1, len(shape)).tolist()
    expected = [
        [rows.get((sample, *(p + o for p, o in zip(place, offset, strict=True))), -1) for offset in offsets]
        for sample, *place in coordinates.tolist()
    ]
    assert table.tolist() == expected


@few
@given(grids, st.integers(0, 10**6))
def test_the_table_is_its_own_mirror_image(shape: list[int], seed: int) -> None:
    cells = 2 * torch.Size(shape).numel()
    table = neighbour_table(voxels(tuple(shape), 1 + seed % cells, seed=seed), shape)
    row, tap = (table >= 0).nonzero().unbind(1)
    assert torch.equal(table[table[row, tap].long(), -1 - tap].long(), row)


def test_neighbours_are_of_the_same_sample_and_do_not_wrap_at_the_border() -> None:
    coordinates = torch.tensor([[0, 0, 3], [0, 1, 0], [1, 0, 3], [0, 2, 3]])
    table = neighbour_table(coordinates, (3, 4))
    assert (table[:, 4] == torch.arange(4)).all()
    assert (table >= 0).sum() == 4


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("coordinates", "shape", "kernel_size", "message"),
    [
        (torch.zeros(2, 3).long(), (4, 4, 4), 3, r"coordinates has shape \(2, 3\); expected \(N, 4\)"),
        (torch.zeros(2, 3), (4, 4), 3, "coordinates has dtype torch.float32"),
        (torch.zeros(2, 3).long(), (4, 4), 3, "names 1 voxels that another row names too"),
        (
            torch.tensor([[0, 4, 0]]),
            (4, 4),
            3,
            r"\[4, 0\] to \[4, 0\] in samples 0 to 0, but the grid is \(4, 4\)",
        ),
        (torch.tensor([[0, 0, -1]]), (4, 4), 3, "leave out what lies outside"),
        (torch.tensor([[-1, 0, 0]]), (4, 4), 3, "samples -1 to -1"),
        (torch.zeros(1, 3).long(), (4, 4), 2, "kernel_size=2; .* give an odd number"),
        (torch.zeros(1, 3).long(), (4, 0), 3, r"spatial_shape=\(4, 0\); give a positive size"),
        (torch.tensor([[2**40, 0, 0]]), (2**12, 2**12), 3, "more cells than 64-bit numbers can count"),
    ],
)
def test_wrong_coordinates_are_named(coordinates: Tensor, shape: Any, kernel_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_table(coordinates, shape, kernel_size)


def test_as_many_cells_as_64_bit_numbers_can_count_are_taken() -> None:
    side = 2**31 - 3  # with a kernel of 3, 2⁶² cells
    last = torch.tensor([[0, side - 1, side - 1]])
    assert (neighbour_table(last, (side, side), 3) >= 0).sum() == 1  # itself
    with pytest.raises(ValueError, match="more cells than 64-bit numbers can count"):
        neighbour_table(last, (side + 1, side), 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", torch.zeros(6, 3), r"neighbours has shape \(70, 27\); expected \(N=6, taps=27\)"),
        ("features", torch.zeros(70, 2), r"weight has shape .*Cin=2"),
        ("weight", torch.zeros(9, 3, 4), r"neighbours has shape .*taps=9"),
        ("bias", torch.zeros(3), r"bias has shape .*Cout=4"),
        ("weight", torch.zeros(27, 3, 4).long(), "weight has dtype torch.int64"),
        ("neighbours", torch.zeros(70, 27), "neighbours has dtype torch.float32"),
        ("neighbours", torch.full((70, 27), 70), "names rows 70 to 70, but there are rows 0 to 69"),
        ("neighbours", torch.full((70, 27), -2), "names rows -2 to -2"),
        ("neighbours", torch.zeros(70, 27).long(), "no mirror image of itself: taps 0 and 26 disagree"),
        ("bias", torch.zeros(4, device="meta"), "bias is on meta and features on cpu"),
    ],
)
def test_wrong_inputs_are_named(name: str, value: Tensor, message: str) -> None:
    _, (features, weight, bias), table = problem()
    given_ = {"features": features, "weight": weight, "neighbours": table, "bias": bias} | {name: value}
    with pytest.raises(ValueError, match=message):
        sparse_conv(**given_)


def test_a_table_that_was_changed_is_checked_again() -> None:
    _, (features, weight, _), table = problem()
    sparse_conv(features, weight, table)
    table[0, 0] = 5
    with pytest.raises(ValueError, match="no mirror image of itself"):
        sparse_conv(features, weight, table)
