"""Any shape, route, dtype and memory layout: the kernels agree with the definition, and bad arguments get one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.kernels import (
    LowRank,
    deformable_sum,
    linear_recurrence,
    non_causal_ssd,
    plstm2d,
    routes,
    selective_scan,
    use_backend,
)
from visionssm.kernels.plstm2d import Gates

Route = Callable[[int, int], Tensor]
ROUTES: dict[str, Route] = {
    **{name: table for name, table in routes.ROUTES.items() if not routes.takes_option(name)},
    **{
        f"{name}_{option}": lambda h, w, table=table, option=option: table(h, w, option)  # type: ignore[misc]
        for name, table in routes.ROUTES.items()
        if routes.takes_option(name)
        for option in (2, 3)
    },
    "windows_both_ways": lambda h, w: torch.cat([routes.window(h, w, 2), routes.backwards(routes.window(h, w, 2))]),
    "curves": lambda h, w: torch.cat([routes.hilbert(h, w), routes.zigzag(h, w), routes.diagonal(h, w)]),
}
# Rounding of the results, relative to the largest value; the state is float32 whatever the inputs are.
ROUNDING = {torch.float32: 3e-5, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}


def test_every_route_of_the_package_is_drawn() -> None:
    tables = {n for n, f in vars(routes).items() if callable(f) and hasattr(f, "__wrapped__")}
    assert {"raster", "ss2d", "atrous", "window"} < tables
    assert tables <= {name.rpartition("_")[0] if name[-1].isdigit() else name for name in ROUTES}


def _as_is(x: Tensor) -> Tensor:
    return x


def _every_second(x: Tensor) -> Tensor:
    """The same values with gaps between them in the last dimension."""
    return torch.stack([x, torch.full_like(x, float("nan"))], -1).flatten(-2)[..., ::2]


def _transposed(x: Tensor) -> Tensor:
    """The same values, the first two dimensions exchanged in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _inside(x: Tensor) -> Tensor:
    """A slice of a wider tensor, as a split gives it."""
    return torch.cat([torch.full_like(x, float("nan")), x], -1)[..., x.shape[-1] :]


LAYOUTS = {f.__name__.strip("_"): f for f in (_as_is, _every_second, _transposed, _inside)}


@st.composite
def problems(draw: Any) -> dict[str, Any]:
    """Arguments of one scan, what to do with the memory layout, and the dtype."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    name = draw(st.sampled_from(sorted(ROUTES)))
    order = ROUTES[name](height, width)
    n_routes, n_sequences, _ = order.shape
    batch, d_state, rank = draw(st.integers(0, 3)), draw(st.integers(1, 9)), draw(st.integers(0, 3))
    per_route = draw(st.integers(1, 20))
    groups = draw(st.booleans())
    dtype = draw(st.sampled_from(list(ROUNDING)))
    layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    pixels, channels = height * width, per_route * (n_routes if groups else 1)
    return {
        "maps": {
            "u": layout(normal(batch, pixels, channels).to(dtype)),
            "dt": layout(normal(batch, pixels, n_routes, rank or per_route).to(dtype)),
            "b": layout(normal(batch, pixels, n_routes, d_state).to(dtype)),
            "c": layout(normal(batch, pixels, n_routes, d_state).to(dtype)),
        },
        "weight": layout(normal(n_routes, rank, per_route)) if rank else None,
        "a": layout(-normal(n_routes, per_route, d_state).exp()),
        "optional": {
            "d": normal(n_routes, per_route) if draw(st.booleans()) else None,
            "dt_bias": normal(n_routes, per_route) if draw(st.booleans()) else None,
            "initial_state": normal(batch, n_routes, n_sequences, per_route, d_state) if draw(st.booleans()) else None,
        },
        "order": order,
        "merge": draw(st.booleans()),
        "dtype": dtype,
    }


def _exact_weights(x: Tensor) -> Tensor:
    """Gradients that half precision holds exactly."""
    return ((torch.arange(x.numel()) % 7 - 3) / 4).double().view_as(x)


def outputs(problem: dict[str, Any], backend: str, dtype: torch.dtype | None) -> list[Tensor]:
    """The map, the final state and the gradients of all inputs, which are converted to `dtype` if one is given."""

    def leaf(x: Tensor | None) -> Any:
        if x is None:
            return None
        return (x if dtype is None else x.to(dtype)).detach().requires_grad_()

    maps = {k: leaf(x) for k, x in problem["maps"].items()}
    weight, a = leaf(problem["weight"]), leaf(problem["a"])
    optional = {k: leaf(x) for k, x in problem["optional"].items()}
    dt = maps["dt"] if weight is None else LowRank(maps["dt"], weight)
    with use_backend(backend):
        y, state = selective_scan(
            maps["u"],
            dt,
            a,
            maps["b"],
            maps["c"],
            order=problem["order"],
            merge=problem["merge"],
            return_final_state=True,
            **optional,
        )
    leaves = [x for x in (*maps.values(), weight, a, *optional.values()) if x is not None]
    total = sum((x.double() * _exact_weights(x)).sum() for x in (y, state))
    grads = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return [y, state, *grads]


@given(problem=problems())
@settings(max_examples=60, deadline=None)
def test_compiled_scan_of_any_problem_agrees_with_the_definition(problem: dict[str, Any]) -> None:
    found = outputs(problem, "cpu", None)
    wanted = outputs(problem, "reference", torch.float64)
    for i, (got, want) in enumerate(zip(found, wanted, strict=True)):
        assert got.shape == want.shape
        assert got.isfinite().all()
        if want.numel():
            limit = ROUNDING[problem["dtype"]] * max(want.abs().max().item(), 1.0)
            assert (got.double() - want).abs().max() <= limit, i


@pytest.mark.slow
@given(problem=problems())
@settings(max_examples=600, deadline=None)
def test_compiled_scan_of_many_problems_agrees_with_the_definition(problem: dict[str, Any]) -> None:
    test_compiled_scan_of_any_problem_agrees_with_the_definition.hypothesis.inner_test(problem)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------------- errors


def _normal(*size: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def _gates() -> Gates:
    shapes = {"source": (1, 1, 1), "transition": (1, 1), "mark": (1, 1, 1)}
    return Gates(*(_normal(1, 2, 3, *shapes[name.split("_")[0]]) for name in Gates._fields))


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "selective_scan": (
        selective_scan,
        {
            "u": _normal(1, 6, 4),
            "dt": _normal(1, 6, 4, 4),
            "a": _normal(4, 4, 2),
            "b": _normal(1, 6, 4, 2),
            "c": _normal(1, 6, 4, 2),
            "d": _normal(4, 4),
            "dt_bias": _normal(4, 4),
            "initial_state": _normal(1, 4, 1, 4, 2),
            "order": routes.ss2d(2, 3),
        },
    ),
    "deformable_sum": (
        deformable_sum,
        {"value": _normal(1, 2, 3, 2, 4), "offset": _normal(1, 2, 3, 2, 9, 2), "mask": _normal(1, 2, 3, 2, 9)},
    ),
    "linear_recurrence": (
        linear_recurrence,
        {"a": _normal(5, 3), "b": _normal(5, 3), "initial_state": _normal(3), "dim": 0},
    ),
    "non_causal_ssd": (
        non_causal_ssd,
        {
            "x": _normal(1, 6, 2, 3),
            "m": _normal(1, 6, 2),
            "b": _normal(1, 6, 4),
            "c": _normal(1, 6, 4),
            "d": _normal(2),
        },
    ),
    "plstm2d": (
        plstm2d,
        {
            "q": _normal(1, 2, 3, 4, 1),
            "k": _normal(1, 2, 3, 4, 1),
            "v": _normal(1, 2, 3, 5, 1),
            "gates": _gates(),
            "direct": _normal(1, 2, 3, 1, 1, 1, 1),
        },
    ),
}


def wrong_arguments() -> list[Any]:
    """(operator, argument, what is wrong with it): every tensor of every operator, in four ways."""
    free = {  # sizes that may be any, so that there is nothing wrong with another
        ("selective_scan", "order", "size"),
        ("deformable_sum", "value", "size"),
        ("linear_recurrence", "b", "dimensions"),
        ("non_causal_ssd", "x", "size"),
    }
    cases = []
    for operator, (_, good) in CALLS.items():
        for name, value in good.items():
            if not isinstance(value, Tensor):
                continue
            for kind in ("dimensions", "size", "dtype", "device"):
                if (operator, name, kind) not in free:
                    cases.append(pytest.param(operator, name, kind, id=f"{operator}-{name}-{kind}"))
    return cases


def _spoil(x: Tensor, kind: str) -> Tensor:
    if kind == "dimensions":
        return x[None, None]
    if kind == "size":
        return torch.cat([x, x, x[..., :1]], -1)
    if kind == "device":
        return x.to("meta")
    return x.int() if x.is_floating_point() else x.float()


@pytest.mark.parametrize(("operator", "name", "kind"), wrong_arguments())
def test_wrong_argument_gives_one_error_of_one_line(operator: str, name: str, kind: str) -> None:
    function, good = CALLS[operator]
    function(**good)  # it is this one argument that is wrong
    with pytest.raises(ValueError) as caught:
        function(**{**good, name: _spoil(good[name], kind)})
    text = str(caught.value)
    assert caught.type is ValueError
    assert "\n" not in text
    assert "shape" in text or "dtype" in text or " on " in text or "channels" in text or "state" in text, text
    assert caught.value.__cause__ is None


@given(
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    step=st.integers(0, 15),
    bad=st.integers(-(2**31), 2**31 - 1),
    backend=st.sampled_from(["cpu", "reference"]),
)
@settings(max_examples=40, deadline=None)
def test_number_of_no_pixel_is_refused_and_minus_one_is_not(
    height: int, width: int, step: int, bad: int, backend: str
) -> None:
    pixels = height * width
    order = routes.raster(height, width).clone()
    order[0, 0, step % pixels] = bad
    u, dt, a, b = _normal(1, pixels, 3), _normal(1, pixels, 1, 3), -torch.ones(1, 3, 1), _normal(1, pixels, 1, 1)
    with use_backend(backend):
        if -1 <= bad < pixels:
            y = selective_scan(u, dt, a, b, b, order=order)
            assert isinstance(y, Tensor)
            assert y.isfinite().all()
        else:
            with pytest.raises(ValueError, match=r"order names pixels .* but the map has pixels 0 to"):
                selective_scan(u, dt, a, b, b, order=order)
