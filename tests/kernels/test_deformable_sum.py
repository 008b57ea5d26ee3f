"""The deformable sum: its definition, the compiled CPU kernels against it, torchvision's operator, properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import deform_conv2d

from visionssm.kernels import deformable_sum, use_backend
from visionssm.kernels.deformable_sum import cpu
from visionssm.kernels.deformable_sum.reference import POINTS, deformable_sum_by_corners, deformable_sum_reference

NAMES = ("y", "value", "offset", "mask")
ROUNDING = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
Shape = tuple[int, int, int, int, int]


def _random(shape: Shape, spread: float, seed: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """value, offset and mask; offsets are odd sixteenths, so that no position is at the centre of a pixel."""
    generator = torch.Generator().manual_seed(seed)
    value, offset, mask = (torch.randn(*shape[:4], *x, generator=generator) for x in ((shape[4],), (9, 2), (9,)))
    offset = ((8 * spread * offset).round() + 0.5) / 8
    return [x.to(dtype) for x in (value, offset, mask)]


def _with_gradients(inputs: list[Tensor], scale: float = 1.0) -> dict[str, Tensor]:
    """y and the gradients of a function of it."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = deformable_sum(*leaves, scale=scale)
    weights = ((torch.arange(y.numel()) % 7 - 3) / 4).view_as(y).to(y.dtype)  # which every dtype holds exactly
    return dict(zip(NAMES, (y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)), strict=True))


def _assert_equal_to_the_definition(inputs: list[Tensor], scale: float, limit: float = 1e-6) -> None:
    found, wanted = _with_gradients(inputs, scale), _with_gradients([x.double() for x in inputs], scale)
    for name, want in wanted.items():
        got = found[name]
        assert got.dtype == inputs[0].dtype
        assert got.shape == want.shape
        if want.numel():
            error = (got.double() - want).abs().max().item()
            assert error <= limit * max(want.abs().max().item(), 1.0), name


# ---------------------------------------------------------------------------------------------------- the definition


def _pixel(value: Tensor, y: int, x: int) -> Tensor:
    inside = 0 <= y < value.shape[0] and 0 <= x < value.shape[1]
    return value[y, x] if inside else torch.zeros_like(value[0, 0])


def _by_hand(value: Tensor, offset: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Pixel by pixel and corner by corner: (H, W, D) values, (H, W, 9, 2) offsets, (H, W, 9) masks of one group."""
    height, width, _ = value.shape
    rows = []
    for row in range(height):
        for column in range(width):
            total = torch.zeros_like(value[0, 0])
            for i in range(3):  # column by column
                for j in range(3):
                    point = 3 * i + j
                    x = column + scale * (i - 1 + offset[row, column, point, 0])
                    y = row + scale * (j - 1 + offset[row, column, point, 1])
                    left, top = int(torch.floor(x)), int(torch.floor(y))
                    sample = sum(
                        (x - left if right else 1 - (x - left))
                        * (y - top if below else 1 - (y - top))
                        * _pixel(value, top + below, left + right)
                        for right in (0, 1)
                        for below in (0, 1)
                    )
                    total = total + mask[row, column, point] * sample
            rows.append(total)
    return torch.stack(rows).view_as(value)


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 4),
    width=st.integers(1, 5),
    spread=st.sampled_from([0.0, 0.7, 20.0]),
    scale=st.sampled_from([1.0, 0.5]),
)
def test_definition_is_the_sum_of_bilinear_samples(
    seed: int, height: int, width: int, spread: float, scale: float
) -> None:
    inputs = _random((2, height, width, 2, 3), spread, seed, torch.float64)
    actual = deformable_sum(*inputs, scale=scale)
    for image in range(2):
        for group in range(2):
            expected = _by_hand(*(x[image, :, :, group] for x in inputs), scale)
            torch.testing.assert_close(actual[image, :, :, group], expected)


def test_gradients_of_the_definition_are_its_derivatives() -> None:
    inputs = [x.requires_grad_() for x in _random((2, 3, 4, 2, 3), 0.9, 3, torch.float64)]
    assert torch.autograd.gradcheck(deformable_sum, inputs)


@pytest.mark.parametrize("spread", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_sum_by_corners_has_the_values_and_gradients_of_the_definition(spread: float, scale: float) -> None:
    inputs = _random((2, 4, 5, 2, 3), spread, seed=4, dtype=torch.float64)  # many positions at and beyond the border
    results = []
    for function in (deformable_sum_by_corners, deformable_sum_reference):
        leaves = [x.detach().requires_grad_() for x in inputs]
        y = function(*leaves, scale)
        results.append((y, *torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), leaves)))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_equals_torchvisions_operator_after_reordering(dtype: torch.dtype) -> None:
    value, offset, mask = (x.requires_grad_() for x in _random((2, 6, 5, 2, 16), 1.5, 0, dtype))
    rows = torch.arange(9).view(3, 3).T.flatten()  # torchvision: row by row, and y before x
    offsets = offset[..., rows, :].flip(-1).flatten(3).permute(0, 3, 1, 2)
    masks = mask[..., rows].flatten(3).permute(0, 3, 1, 2)
    maps = value.flatten(3).permute(0, 3, 1, 2)
    weight = torch.ones(32, 1, 3, 3, dtype=dtype)
    expected = deform_conv2d(maps, offsets.contiguous(), weight, padding=1, mask=masks.contiguous())
    actual = deformable_sum(value, offset, mask).flatten(3).permute(0, 3, 1, 2)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(*(torch.autograd.grad(y.sin().sum(), (value, offset, mask)) for y in (actual, expected))):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------ the compiled kernels


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(0, 3),
    height=st.integers(0, 13),
    width=st.integers(0, 9),
    groups=st.integers(1, 3),
    channels=st.sampled_from([0, 1, 5, 16, 19, 32, 40]),
    spread=st.sampled_from([0.5, 2.0, 30.0]),
    scale=st.sampled_from([1.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_values_and_gradients_equal_the_float64_definition(
    batch: int, height: int, width: int, groups: int, channels: int, spread: float, scale: float, seed: int
) -> None:
    shape = (batch, height, width, groups, channels)
    inputs = _random(shape, spread, seed)
    if 0 in shape:  # which grid_sample does not take
        found = _with_gradients(inputs, scale)
        assert found["y"].shape == shape
        assert all(not x.any() for x in found.values())
    else:
        _assert_equal_to_the_definition(inputs, scale)


@pytest.mark.parametrize("shape", [(1, 56, 56, 1, 16), (2, 28, 28, 5, 32)], ids=["nano", "base"])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_maps_of_published_models_equal_the_float64_definition(shape: Shape, scale: float) -> None:
    inputs = _random(shape, 1.0, 0)
    if scale != 1.0:  # these positions are an eighth apart, so that a shift keeps all of them away from the centres
        inputs[1] = ((inputs[1] - 0.0625) / scale).float()
        base = torch.stack(torch.meshgrid(*[torch.arange(3.0) - 1] * 2, indexing="ij"), -1).flatten(0, 1)
        inputs[1] += (base / scale - base) + 0.0625 / scale
    _assert_equal_to_the_definition(inputs, scale)


def test_positions_far_from_the_corner_of_the_map_lose_no_digits() -> None:
    """Column 2000 plus an offset keeps a ten-thousandth of a pixel in float32; the offset alone keeps its digits."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, 2000, 1)
    inputs = [torch.rand(*shape, *x, generator=generator) for x in ((16,), (9, 2), (9,))]
    _assert_equal_to_the_definition(inputs, 1.0, 3e-7)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_half_precision_rounds_results_only(dtype: torch.dtype) -> None:
    _assert_equal_to_the_definition(_random((2, 6, 300, 1, 16), 0.5, 1, dtype), 1.0, ROUNDING[dtype])


def test_dtypes_may_differ() -> None:
    """Under autocast a projection gives half-precision offsets for float32 values."""
    value, offset, mask = _random((1, 4, 5, 2, 16), 1.0, 0)
    leaves = [value.requires_grad_(), offset.bfloat16().requires_grad_(), mask.half().requires_grad_()]
    y = deformable_sum(*leaves)
    grads = torch.autograd.grad(y.sum(), leaves)
    assert [x.dtype for x in (y, *grads)] == [torch.float32, torch.float32, torch.bfloat16, torch.float16]
    torch.testing.assert_close(y, deformable_sum(*(x.float() for x in leaves)))


def test_slope_at_the_centre_of_a_pixel_is_the_one_of_its_right_and_lower_side() -> None:
    value, _, mask = (x[0, :, :, 0] for x in _random((1, 4, 5, 1, 16), 0.0, 0))
    offset = torch.randint(-2, 3, (4, 5, 9, 2), generator=torch.Generator().manual_seed(0)).float()
    wide = [x.double().requires_grad_() for x in (value, offset, mask)]
    wanted = torch.autograd.grad(_by_hand(*wide, 1.0).sin().sum(), wide)
    leaves = [x[None, :, :, None].requires_grad_() for x in (value, offset, mask)]
    found = torch.autograd.grad(deformable_sum(*leaves).sin().sum(), leaves)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got[0, :, :, 0].double(), want, rtol=1e-4, atol=1e-4)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("shape", [(1, 23, 7, 1, 16), (3, 9, 8, 2, 20)])
def test_threads_and_bands_change_no_bit(shape: Shape, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _random(shape, spread, 0)
    with _threads(1):
        wanted = _with_gradients(inputs)
    with _threads(2):
        runs = [_with_gradients(inputs) for _ in range(3)]
    for bands in (2, shape[1]):
        monkeypatch.setattr(cpu, "_bands", lambda *_, bands=bands: bands)
        runs.append(_with_gradients(inputs))
    for found in runs:
        for name in NAMES:
            assert torch.equal(found[name], wanted[name]), name


def test_an_image_is_split_into_bands_only_where_threads_would_idle() -> None:
    with _threads(1):
        assert cpu._bands(1, 56) == 1
    with _threads(2):
        assert [cpu._bands(batch, 56) for batch in (0, 1, 3, 4, 40)] == [1, 4, 2, 1, 1]
        assert [cpu._bands(1, height) for height in (0, 1, 8, 9, 16)] == [1, 1, 2, 2, 4]


def test_views_need_no_copy_by_the_caller() -> None:
    value, offset, mask = _random((2, 5, 6, 3, 16), 1.0, 0)
    wanted = _with_gradients([value, offset, mask])
    projected = torch.cat([offset.flatten(-2), mask, torch.zeros(2, 5, 6, 3, 5)], -1)  # as one product makes them
    views = [projected[..., :18].unflatten(-1, (9, 2)), projected[..., 18:27]]
    strided = [x.movedim(0, 3).contiguous().movedim(3, 0) for x in (value, offset, mask)]
    apart = [torch.stack([x, x], -1)[..., 0] for x in (value, offset, mask)]
    for inputs in ([value, *views], strided, apart, [x.mT.contiguous().mT for x in (value, offset, mask)]):
        for name, got in _with_gradients(inputs).items():
            assert torch.equal(got, wanted[name]), name


def _largest_allocation(function: Callable[[], Any]) -> int:
    """Bytes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    return max(event.self_cpu_memory_usage for event in profile.events())


def test_no_sample_is_written() -> None:
    value, offset, mask = (x.requires_grad_() for x in _random((1, 20, 20, 2, 32), 1.0, 0))
    size = value.numel() * value.element_size()

    def step() -> None:
        deformable_sum(value, offset, mask).sum().backward()

    step()  # compiles
    assert _largest_allocation(step) <= size
    with use_backend("reference"):
        assert _largest_allocation(step) >= POINTS * size


# ---------------------------------------------------------------------------------------------------------- properties

problems = {
    "shape": st.tuples(st.integers(1, 3), *[st.integers(1, 7)] * 2, st.integers(1, 3), st.sampled_from([1, 16, 35])),
    "seed": st.integers(0, 1000),
}


@settings(deadline=None, max_examples=30)
@given(**problems)
def test_middle_point_without_offset_is_the_identity(shape: Shape, seed: int) -> None:
    value, offset, mask = _random(shape, 1.0, seed)
    offset[..., POINTS // 2, :] = 0
    mask = torch.zeros_like(mask)
    mask[..., POINTS // 2] = 1
    assert torch.equal(deformable_sum(value, offset, mask), value)


@settings(deadline=None, max_examples=30)
@given(**problems, distance=st.sampled_from([10.0, 1e5, 3e9, 1e20, 3e38]), sign=st.sampled_from([-1.0, 1.0]))
def test_positions_outside_the_map_give_and_get_nothing(shape: Shape, seed: int, distance: float, sign: float) -> None:
    value, offset, mask = _random(shape, 0.0, seed)
    axis = seed % 2
    offset[..., axis] = sign * distance
    found = _with_gradients([value, offset, mask])
    assert all(not x.any() for x in found.values())


@settings(deadline=None, max_examples=30)
@given(**problems)
def test_it_is_linear_in_values_and_in_masks(shape: Shape, seed: int) -> None:
    (value, offset, mask), (other, _, other_mask) = _random(shape, 1.0, seed), _random(shape, 1.0, seed + 1)
    y = deformable_sum(value, offset, mask)
    both = deformable_sum(value - 2 * other, offset, mask)
    torch.testing.assert_close(both, y - 2 * deformable_sum(other, offset, mask), rtol=1e-4, atol=1e-4)
    both = deformable_sum(value, offset, mask - 2 * other_mask)
    torch.testing.assert_close(both, y - 2 * deformable_sum(value, offset, other_mask), rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(**problems)
def test_images_and_groups_are_independent(shape: Shape, seed: int) -> None:
    inputs = _random(shape, 2.0, seed)
    y = deformable_sum(*inputs)
    for image in range(shape[0]):
        for group in range(shape[3]):
            alone = deformable_sum(*(x[image : image + 1, :, :, group : group + 1] for x in inputs))
            assert torch.equal(alone[0, :, :, 0], y[image, :, :, group])


@settings(deadline=None, max_examples=30)
@given(**problems, bad=st.sampled_from([float("nan"), float("inf"), float("-inf")]))
def test_position_that_is_not_finite_gives_nan_there_alone(shape: Shape, seed: int, bad: float) -> None:
    inputs = _random(shape, 2.0, seed)
    wanted = _with_gradients(inputs)
    place = (0, shape[1] // 2, shape[2] // 2, 0)
    inputs[1][(*place, seed % POINTS, seed % 2)] = bad
    found = _with_gradients(inputs)
    assert found["y"][place].isnan().all()
    found["y"][place] = wanted["y"][place]
    torch.testing.assert_close(found["y"], wanted["y"], rtol=0, atol=0)
    assert found["value"].isfinite().all()


# ---------------------------------------------------------------------------------------------- transforms and errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_registered_operator_passes_opcheck(dtype: torch.dtype) -> None:
    inputs = [x.requires_grad_() for x in _random((2, 4, 3, 2, 16), 1.0, 0, dtype)]
    torch.library.opcheck(torch.ops.visionssm.deformable_sum, (*inputs, 0.5))
    frozen = [x.detach() for x in inputs]
    torch.library.opcheck(torch.ops.visionssm.deformable_sum_backward, (frozen[0].cos(), *frozen, 0.5))


def test_compiled_form_has_one_graph_and_equals_the_eager_one() -> None:
    leaves = [x.requires_grad_() for x in _random((2, 4, 3, 2, 16), 1.0, 0)]

    def results(function: Any) -> list[Tensor]:
        y = function(*leaves, scale=0.5)
        return [y, *torch.autograd.grad(y.square().sum(), leaves)]

    compiled = torch.compile(deformable_sum, fullgraph=True, backend="aot_eager", dynamic=True)
    for got, want in zip(results(compiled), results(deformable_sum), strict=True):
        torch.testing.assert_close(got, want)


def test_backends_choose_the_form() -> None:
    inputs = _random((1, 3, 4, 1, 16), 1.0, 0)
    definition = deformable_sum_reference(*inputs, 1.0)
    for backend in ("reference", "export"):
        with use_backend(backend):
            assert torch.equal(deformable_sum(*inputs), definition)
    torch.testing.assert_close(deformable_sum(*inputs), definition, rtol=1e-5, atol=1e-5)
    on_meta = deformable_sum(*(x.to("meta") for x in inputs))
    assert (on_meta.shape, on_meta.dtype, on_meta.device.type) == (inputs[0].shape, torch.float32, "meta")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"value": (1, 3, 4, 16)}, r"value has shape \(1, 3, 4, 16\); expected \(B, H, W, G, D\)"),
        ({"offset": (1, 3, 4, 2, 18)}, r"offset has shape .*; expected \(B=1, H=3, W=4, G=2, points=9, x and y=2\)"),
        ({"offset": (1, 3, 4, 2, 8, 2)}, "points=9"),
        ({"offset": (1, 4, 3, 2, 9, 2)}, "offset has shape"),
        ({"mask": (1, 3, 4, 1, 9)}, r"mask has shape \(1, 3, 4, 1, 9\); expected \(B=1, H=3, W=4, G=2, points=9\)"),
        ({"mask": torch.int64}, "mask has dtype torch.int64; expected a floating-point dtype"),
        ({"offset": "meta"}, "offset is on meta and value on cpu; move them to one device"),
    ],
)
def test_bad_input_is_named(changed: dict[str, Any], message: str) -> None:
    value, offset, mask = _random((1, 3, 4, 2, 16), 1.0, 0)
    inputs = {"value": value, "offset": offset, "mask": mask}
    for name, how in changed.items():
        inputs[name] = torch.zeros(how) if isinstance(how, tuple) else inputs[name].to(how)
    with pytest.raises(ValueError, match=message):
        deformable_sum(**inputs)
