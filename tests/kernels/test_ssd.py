"""Non-causal state-space duality: its definition, its properties, its range in half precision, its errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.random_tensors import normals
from visionssm.kernels import non_causal_ssd, use_backend

backends = pytest.mark.parametrize("backend", ["auto", "reference"])
sizes = st.tuples(*[st.integers(1, high) for high in (3, 12, 4, 5, 6)])  # B, L, heads, P, N
few = settings(max_examples=25, deadline=None)


def make(
    batch: int, pixels: int, heads: int, width: int, d_state: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Arguments of `non_causal_ssd` with the optional one."""
    normal = normals(batch + 7 * pixels, dtype)
    return {
        "x": normal(batch, pixels, heads, width),
        "m": normal(batch, pixels, heads).exp(),
        "b": normal(batch, pixels, d_state),
        "c": normal(batch, pixels, d_state),
        "d": normal(heads),
    }


def definition(**arguments: Tensor) -> Tensor:
    with use_backend("reference"):
        return non_causal_ssd(**arguments)


@backends
def test_every_pixel_reads_the_sum_of_what_all_pixels_wrote(backend: str) -> None:
    given_ = make(2, 5, 3, 4, 2)
    x, m, b, c, d = (given_[name].numpy() for name in "xmbcd")
    with use_backend(backend):
        y = non_causal_ssd(**given_)
    for sample in range(2):
        for head in range(3):
            state = sum(m[sample, s, head] * b[sample, s, :, None] * x[sample, s, head] for s in range(5))
            for pixel in range(5):
                expected = c[sample, pixel] @ state + d[head] * x[sample, pixel, head]
                torch.testing.assert_close(y[sample, pixel, head], torch.from_numpy(expected))


@few
@given(sizes)
def test_two_products_equal_the_quadratic_form_in_float64(size: tuple[int, ...]) -> None:
    arguments = make(*size)
    torch.testing.assert_close(non_causal_ssd(**arguments), definition(**arguments), rtol=1e-11, atol=1e-11)
    without = {name: value for name, value in arguments.items() if name != "d"}
    torch.testing.assert_close(non_causal_ssd(**without), definition(**without), rtol=1e-11, atol=1e-11)


@backends
def test_float32_is_close_to_float64(backend: str) -> None:
    arguments = make(2, 300, 4, 8, 16)
    expected = non_causal_ssd(**arguments)
    with use_backend(backend):
        actual = non_causal_ssd(**{name: x.float() for name, x in arguments.items()})
    assert actual.dtype == torch.float32
    assert float((actual - expected).abs().max() / expected.abs().max()) < 2e-6


@backends
def test_gradients_are_those_of_finite_differences(backend: str) -> None:
    arguments = [x.requires_grad_() for x in make(2, 4, 2, 3, 2).values()]
    with use_backend(backend):
        assert torch.autograd.gradcheck(lambda x, m, b, c, d: non_causal_ssd(x, m, b, c, d=d), arguments)
        assert torch.autograd.gradgradcheck(lambda x, m, b, c, d: non_causal_ssd(x, m, b, c, d=d), arguments)


@few
@given(sizes, st.randoms(use_true_random=False))
def test_the_order_of_the_pixels_does_not_matter(size: tuple[int, ...], random: object) -> None:
    arguments = make(*size)
    order = torch.randperm(size[1], generator=torch.Generator().manual_seed(random.randrange(1000)))  # type: ignore[attr-defined]
    shuffled = {name: x if name == "d" else x[:, order] for name, x in arguments.items()}
    torch.testing.assert_close(non_causal_ssd(**shuffled), non_causal_ssd(**arguments)[:, order])


@few
@given(sizes)
def test_it_is_linear_in_the_map(size: tuple[int, ...]) -> None:
    arguments = make(*size)
    other = torch.randn_like(arguments["x"])
    together = non_causal_ssd(**{**arguments, "x": 2 * arguments["x"] - other})
    apart = 2 * non_causal_ssd(**arguments) - non_causal_ssd(**{**arguments, "x": other})
    torch.testing.assert_close(together, apart)


@few
@given(sizes)
def test_a_pixel_of_weight_zero_is_read_by_none(size: tuple[int, ...]) -> None:
    arguments = make(*size)
    arguments["m"][:, 0] = 0
    changed = {**arguments, "x": arguments["x"].clone()}
    changed["x"][:, 0] += 1
    torch.testing.assert_close(non_causal_ssd(**changed)[:, 1:], non_causal_ssd(**arguments)[:, 1:])


def test_slices_of_a_wider_tensor_need_no_copy_by_the_caller() -> None:
    arguments = make(2, 9, 2, 4, 3)
    wide = torch.cat([arguments["x"].flatten(2), arguments["b"], arguments["c"]], -1)
    x, b, c = wide.split([8, 3, 3], dim=-1)
    sliced = {**arguments, "x": x.unflatten(-1, (2, 4)), "b": b, "c": c}
    torch.testing.assert_close(non_causal_ssd(**sliced), non_causal_ssd(**arguments))


@pytest.mark.parametrize("autocast", [False, True])
def test_sums_beyond_the_range_of_float16_stay_exact(autocast: bool) -> None:
    pixels = 50_000
    arguments = {
        "x": torch.full((1, pixels, 1, 2), 2.0, dtype=torch.float16),
        "m": torch.full((1, pixels, 1), 2.0),
        "b": torch.ones(1, pixels, 2, dtype=torch.float16),
        "c": torch.ones(1, pixels, 2, dtype=torch.float16),
    }
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        y = non_causal_ssd(**arguments)
    assert y.dtype == torch.float32
    assert (y == 8 * pixels).all()


def test_float64_takes_memory_that_grows_linearly_with_the_pixels() -> None:
    pixels = 200_000  # scores of the quadratic form would be 320 GB
    arguments = make(1, pixels, 1, 1, 1)
    y = non_causal_ssd(**arguments)
    state = (arguments["m"][..., 0] * arguments["b"][..., 0] * arguments["x"][..., 0, 0]).sum()
    expected = arguments["c"][..., 0] * state + arguments["d"] * arguments["x"][..., 0, 0]
    torch.testing.assert_close(y[..., 0, 0], expected)


@pytest.mark.parametrize(
    "name,shape,message",
    [
        ("x", (2, 5, 12), r"x has shape \(2, 5, 12\); expected \(B, L, heads, P\)"),
        ("m", (2, 5, 4), r"m has shape .*heads=3"),
        ("m", (2, 4, 3), r"m has shape .*L=5"),
        ("b", (1, 5, 2), r"b has shape .*B=2"),
        ("c", (2, 5, 3), r"c has shape .*N=2"),
        ("d", (4,), r"d has shape .*heads=3"),
    ],
)
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        non_causal_ssd(**{**make(2, 5, 3, 4, 2), name: torch.zeros(shape)})


def test_integers_and_mixed_devices_are_refused() -> None:
    arguments = make(2, 5, 3, 4, 2)
    with pytest.raises(ValueError, match="b has dtype"):
        non_causal_ssd(**{**arguments, "b": arguments["b"].long()})
    with pytest.raises(ValueError, match="c is on meta and x on cpu"):
        non_causal_ssd(**{**arguments, "c": arguments["c"].to("meta")})
