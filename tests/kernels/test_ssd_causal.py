"""Causal state-space duality: its definition, its properties on every backend, its errors, and PyTorch's transforms."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.loops import scan_in_a_loop
from tests.kernels.random_tensors import normals
from visionssm.kernels import routes, selective_scan, ssd, use_backend

backends = pytest.mark.parametrize("backend", ["reference", "cpu"])
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
some = settings(max_examples=15, deadline=None)


def make(
    *,
    batch: int = 2,
    steps: int = 21,
    heads: int = 4,
    width: int = 5,
    groups: int = 2,
    d_state: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments of `ssd` with every optional one."""
    normal = normals(seed, dtype)
    return {
        "x": normal(batch, steps, heads, width),
        "dt": normal(batch, steps, heads),
        "a": -normal(heads).exp(),
        "b": normal(batch, steps, groups, d_state),
        "c": normal(batch, steps, groups, d_state),
        "d": normal(heads),
        "dt_bias": normal(heads),
        "initial_state": normal(batch, heads, width, d_state),
    }


def run(backend: str, arguments: dict[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    with use_backend(backend):
        return ssd(**arguments, softplus=True, return_final_state=True, chunk_size=16, **options)  # type: ignore[return-value]


def values_and_gradients(function: Any, arguments: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    y, state = function(leaves)
    return [y, state, *torch.autograd.grad(y.sin().sum() + state.cos().sum(), list(leaves.values()))]


# ---------------------------------------------------------------------------------------------- the definition


@backends
def test_two_steps_by_hand(backend: str) -> None:
    """With dt = 1 and a = −ln 2 the state halves at each step: h = 3·7, then 21/2 + 5·7."""
    x = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    arguments = {
        "x": x,
        "dt": torch.ones(1, 2, 1),
        "a": -torch.tensor([2.0]).log(),
        "b": torch.full((1, 2, 1, 1), 7.0),
        "c": torch.tensor([2.0, 10.0]).view(1, 2, 1, 1),
        "d": torch.tensor([100.0]),
    }
    with use_backend(backend):
        y, state = ssd(**arguments, return_final_state=True)
    torch.testing.assert_close(y.flatten(), torch.tensor([342.0, 955.0]))
    torch.testing.assert_close(state.flatten(), torch.tensor([45.5]))


@pytest.fixture
def steps_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exportable form without the compiler that PyTorch's `scan` starts for each shape, and for gradients again."""
    monkeypatch.setattr(importlib.import_module("visionssm.kernels.ssd.export"), "scan", scan_in_a_loop)


@pytest.mark.usefixtures("steps_in_a_loop")
@pytest.mark.parametrize("steps", [1, 15, 16, 17, 31, 32, 33])
def test_exportable_form_takes_any_number_of_steps(steps: int) -> None:
    arguments = make(batch=1, steps=steps, heads=2, width=2, groups=1, d_state=2, dtype=torch.float64)
    for got, want in zip(run("export", arguments), run("reference", arguments), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.usefixtures("steps_in_a_loop")
@pytest.mark.parametrize("backend", ["reference", "export"])
def test_definition_and_chunks_equal_the_recurrence_in_float64(backend: str) -> None:
    arguments = make(dtype=torch.float64)
    y, state = run(backend, arguments)
    step = torch.nn.functional.softplus(arguments["dt"] + arguments["dt_bias"])
    b, c = (arguments[name].repeat_interleave(2, 2) for name in "bc")
    h = arguments["initial_state"]
    for t in range(21):
        decay = torch.exp(step[:, t] * arguments["a"])[..., None, None]
        h = decay * h + (step[:, t, :, None] * arguments["x"][:, t])[..., None] * b[:, t, :, None]
        expected = (h * c[:, t, :, None]).sum(-1) + arguments["d"][:, None] * arguments["x"][:, t]
        torch.testing.assert_close(y[:, t], expected)
    torch.testing.assert_close(state, h)


def test_gradients_of_the_definition_pass_gradcheck() -> None:
    arguments = make(batch=1, steps=4, heads=2, width=2, groups=1, d_state=2, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in arguments.values()]

    def definition(*tensors: Tensor) -> Any:
        return run("auto", dict(zip(arguments, tensors, strict=True)))

    assert torch.autograd.gradcheck(definition, leaves)
    assert torch.autograd.gradgradcheck(definition, leaves, fast_mode=True)


SHAPES = {
    "small": {},
    "one_of_each": {"steps": 1, "heads": 1, "width": 1, "groups": 1, "d_state": 1},
    "whole_vectors": {"steps": 40, "heads": 2, "width": 16, "groups": 1, "d_state": 16},
    "many_states": {"steps": 33, "heads": 2, "width": 18, "groups": 2, "d_state": 37},
    "wide_heads": {"steps": 18, "heads": 1, "width": 50, "groups": 1, "d_state": 5},
}


@pytest.mark.slow  # its compiler runs for seconds; the loop in its place is in the next test
def test_exportable_form_has_values_and_gradients_with_pytorchs_scan() -> None:
    got = values_and_gradients(lambda leaves: run("export", leaves), make())
    arguments = {name: x.double() for name, x in make().items()}
    for ours, want in zip(got, values_and_gradients(lambda leaves: run("reference", leaves), arguments), strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=0, atol=1e-5 * want.abs().max().item())


@pytest.mark.usefixtures("steps_in_a_loop")
@pytest.mark.parametrize("backend, shape", [(backend, shape) for backend in ("export", "cpu") for shape in SHAPES])
def test_values_and_gradients_equal_the_float64_definition(backend: str, shape: str) -> None:
    sizes = SHAPES[shape]
    got = values_and_gradients(lambda leaves: run(backend, leaves), make(**sizes))
    arguments = {name: x.double() for name, x in make(**sizes).items()}
    for ours, want in zip(got, values_and_gradients(lambda leaves: run("reference", leaves), arguments), strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=0, atol=1e-5 * want.abs().max().item())


def test_options_left_out_are_zeros_and_no_softplus() -> None:
    full = make()
    arguments = {name: full[name] for name in ("x", "dt", "a", "b", "c")}
    arguments["dt"] = arguments["dt"].exp()
    zeros = {"d": torch.zeros(4), "dt_bias": torch.zeros(4), "initial_state": torch.zeros(2, 4, 5, 3)}
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            torch.testing.assert_close(ssd(**arguments), ssd(**arguments, **zeros), **CLOSE)


@pytest.mark.usefixtures("steps_in_a_loop")
@pytest.mark.parametrize("backend", ["reference", "export", "cpu"])
def test_decays_that_are_given_may_be_any(backend: str) -> None:
    """The input's factor Δ and the decay are two gates: a sum over pairs, weighted by what lies between them."""
    arguments = make(dtype=torch.float64) | {"dt": make(seed=1, dtype=torch.float64)["dt"].exp()}
    del arguments["a"], arguments["dt_bias"]
    arguments["log_decay"] = -make(seed=2, dtype=torch.float64)["dt"].exp()
    x, dt, b, c = (arguments[name] for name in ("x", "dt", "b", "c"))
    b, c = (tensor.repeat_interleave(2, 2) for tensor in (b, c))
    since = arguments["log_decay"].cumsum(1)
    expected = arguments["d"][:, None] * x
    expected = expected + torch.einsum("bthn,bhpn,bth->bthp", c, arguments["initial_state"], since.exp())
    for t in range(21):
        for s in range(t + 1):
            weight = dt[:, s] * (since[:, t] - since[:, s]).exp() * (c[:, t] * b[:, s]).sum(-1)
            expected[:, t] += weight[..., None] * x[:, s]

    def call(leaves: dict[str, Tensor]) -> Any:
        with use_backend(backend):
            return ssd(**leaves, a=None, return_final_state=True, chunk_size=16)

    dtype = torch.float32 if backend == "cpu" else torch.float64
    got = values_and_gradients(call, {name: tensor.to(dtype) for name, tensor in arguments.items()})
    tolerance = 2e-5 if backend == "cpu" else 1e-10
    torch.testing.assert_close(got[0].double(), expected, rtol=0, atol=tolerance)
    with use_backend("reference"):
        wanted = values_and_gradients(lambda leaves: ssd(**leaves, a=None, return_final_state=True), arguments)
    for ours, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=0, atol=tolerance * max(1.0, want.abs().max().item()))


@backends
def test_a_step_times_a_rate_is_one_way_to_give_a_decay(backend: str) -> None:
    arguments = make()
    arguments["dt"] = arguments["dt"].exp()
    del arguments["dt_bias"]
    given_ = {**arguments, "a": None, "log_decay": arguments["dt"] * arguments["a"]}
    with use_backend(backend):
        torch.testing.assert_close(ssd(**given_), ssd(**arguments), **CLOSE)


def test_each_channel_is_a_selective_scan_with_one_rate_for_all_states() -> None:
    arguments = make(heads=1, groups=1)
    y, _ = run("cpu", arguments)
    expected = selective_scan(
        arguments["x"][:, :, 0],
        arguments["dt"][..., None].expand(-1, -1, -1, 5),
        arguments["a"].expand(1, 5, 3),
        arguments["b"],
        arguments["c"],
        order=routes.raster(1, 21),
        d=arguments["d"].expand(1, 5),
        dt_bias=arguments["dt_bias"].expand(1, 5),
        initial_state=arguments["initial_state"][:, :, None],
    )
    torch.testing.assert_close(y[:, :, 0], expected, **CLOSE)


# ---------------------------------------------------------------------------------------------- properties

shapes = {"steps": st.integers(1, 40), "width": st.integers(1, 20), "d_state": st.integers(1, 20)}


@backends
@given(cut=st.integers(0, 40), seed=st.integers(0, 99), **shapes)
@some
def test_state_joins_two_parts_of_a_sequence(backend: str, cut: int, seed: int, **sizes: int) -> None:
    arguments = make(**sizes, seed=seed)
    cut = min(cut, sizes["steps"])
    whole, last = run(backend, arguments)
    sequences = ("x", "dt", "b", "c")
    first, state = run(backend, {n: x[:, :cut] if n in sequences else x for n, x in arguments.items()})
    second = {n: x[:, cut:] if n in sequences else x for n, x in arguments.items()}
    after, joined = run(backend, {**second, "initial_state": state})
    torch.testing.assert_close(torch.cat([first, after], 1), whole, **CLOSE)
    torch.testing.assert_close(joined, last, **CLOSE)


@backends
@given(seed=st.integers(0, 99), **shapes)
@some
def test_it_is_linear_in_the_sequence_and_the_state(backend: str, seed: int, **sizes: int) -> None:
    first = make(**sizes, seed=seed)
    second = {**first, **{n: make(**sizes, seed=seed + 1)[n] for n in ("x", "initial_state")}}
    mixed = {**first, **{n: 2 * first[n] - 3 * second[n] for n in ("x", "initial_state")}}
    for got, one, two in zip(run(backend, mixed), run(backend, first), run(backend, second), strict=True):
        torch.testing.assert_close(got, 2 * one - 3 * two, rtol=1e-4, atol=1e-4)


@backends
@given(seed=st.integers(0, 99), step=st.integers(1, 20))
@some
def test_later_steps_do_not_change_earlier_outputs(backend: str, seed: int, step: int) -> None:
    arguments = make(seed=seed)
    changed = {n: x.clone() for n, x in arguments.items()}
    for name in ("x", "dt", "b", "c"):
        changed[name][:, step:] += 1
    torch.testing.assert_close(run(backend, changed)[0][:, :step], run(backend, arguments)[0][:, :step], **CLOSE)


@backends
def test_views_and_slices_need_no_copy_by_the_caller(backend: str) -> None:
    arguments = make()
    wide = torch.cat([arguments["x"].flatten(2), arguments["b"].flatten(2), arguments["c"].flatten(2)], -1)
    x, b, c = wide.split([20, 6, 6], -1)
    sliced = {**arguments, "x": x.unflatten(-1, (4, 5)), "b": b.unflatten(-1, (2, 3)), "c": c.unflatten(-1, (2, 3))}
    sliced["dt"] = arguments["dt"].mT.contiguous().mT
    for got, want in zip(run(backend, sliced), run(backend, arguments), strict=True):
        torch.testing.assert_close(got, want, **CLOSE)
    reversed_heads = {**arguments, "x": arguments["x"].transpose(2, 3).contiguous().transpose(2, 3)}
    torch.testing.assert_close(run(backend, reversed_heads)[0], run(backend, arguments)[0], **CLOSE)


@backends
@pytest.mark.parametrize("empty", ["batch", "steps", "heads", "width"])
def test_empty_sizes_give_empty_results_and_the_given_state(backend: str, empty: str) -> None:
    arguments = make(**{empty: 0})
    y, state = run(backend, {n: x.requires_grad_() for n, x in arguments.items()})
    assert y.shape == arguments["x"].shape
    torch.testing.assert_close(state, arguments["initial_state"], check_stride=False)
    (y.sum() + state.sum()).backward()
    assert all(x.grad is None or x.grad.isfinite().all() for x in arguments.values())


@pytest.mark.usefixtures("steps_in_a_loop")
@pytest.mark.parametrize("backend", ["export", "cpu"])
def test_a_large_decay_costs_later_steps_no_accuracy(backend: str) -> None:
    arguments = make(steps=16)
    arguments["dt"][:, 2] = 500.0
    y, state = run(backend, arguments)
    wanted, wanted_state = run("reference", {n: x.double() for n, x in arguments.items()})
    torch.testing.assert_close(y[:, 3:].double(), wanted[:, 3:], rtol=1e-4, atol=2e-6 * wanted.abs().max().item())
    torch.testing.assert_close(state.double(), wanted_state, rtol=1e-4, atol=2e-6 * wanted.abs().max().item())


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_with_large_steps_is_finite_and_keeps_a_float32_state(backend: str, dtype: torch.dtype) -> None:
    arguments = make(dtype=dtype)
    arguments["dt"] = arguments["dt"] * 1000
    arguments["a"] = arguments["a"].float()
    with torch.autocast("cpu", torch.bfloat16):
        got = values_and_gradients(lambda leaves: run(backend, leaves), arguments)
    assert (got[0].dtype, got[1].dtype) == (dtype, torch.float32)
    assert got[1].isfinite().all()
    assert all(x.isfinite().all() for x in got[2:])


# ---------------------------------------------------------------------------------------------- errors

GOOD = make()
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "x": ({"x": GOOD["x"][0]}, r"x has shape \(21, 4, 5\); expected \(B, L, H, P\)"),
    "dt": ({"dt": GOOD["dt"][..., :1]}, r"dt has shape .*H=4"),
    "a": ({"a": GOOD["a"][:3]}, r"a has shape \(3,\); expected \(H=4\)"),
    "no decay": ({"a": None}, "a and log_decay both say how the state decays: give one of them"),
    "two decays": ({"log_decay": GOOD["dt"]}, "a and log_decay both say how the state decays: give one of them"),
    "log_decay": ({"a": None, "log_decay": GOOD["dt"][:, :5]}, r"log_decay has shape .*L=21"),
    "b": ({"b": GOOD["b"][:, :5]}, r"b has shape .*L=21"),
    "groups": ({"b": torch.ones(2, 21, 3, 3)}, "G=3 groups and x has H=4 heads"),
    "states": ({"b": torch.ones(2, 21, 2, 257)}, "N=257; ssd takes 1 to 256"),
    "c": ({"c": GOOD["c"][..., :1]}, r"c has shape .*N=3"),
    "d": ({"d": GOOD["d"][:1]}, r"d has shape .*H=4"),
    "dt_bias": ({"dt_bias": GOOD["d"][:1]}, r"dt_bias has shape .*H=4"),
    "initial_state": ({"initial_state": GOOD["initial_state"].mT}, "initial_state has shape .*P=5, N=3"),
    "chunk_size": ({"chunk_size": 48}, "chunk_size=48 is none of 16, 32, 64, 128"),
    "dtype": ({"b": GOOD["b"].int()}, "b has dtype torch.int32; expected a floating-point dtype"),
    "device": ({"c": GOOD["c"].to("meta")}, "c is on meta and x on cpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_argument_is_named(name: str) -> None:
    changes, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        ssd(**{**GOOD, **changes})


# ---------------------------------------------------------------------------------------------- transforms


@backends
def test_compiled_form_equals_the_eager_one(backend: str) -> None:
    with use_backend(backend):

        def function(leaves: dict[str, Tensor]) -> Any:
            return ssd(**leaves, softplus=True, return_final_state=True)

        eager = values_and_gradients(function, GOOD)
        compiled = values_and_gradients(torch.compile(function, fullgraph=True, backend="aot_eager"), GOOD)
    for got, want in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("optional", [True, False])
def test_registered_operator_passes_opcheck(optional: bool) -> None:
    leaves = {name: x.detach().requires_grad_() for name, x in GOOD.items()}
    rest = (leaves["d"], leaves["initial_state"]) if optional else (None, None)
    log_decay = (leaves["dt"].detach() * leaves["a"].detach()).requires_grad_()
    tensors = (leaves["x"], leaves["dt"], log_decay, leaves["b"], leaves["c"], *rest)
    with use_backend("cpu"):
        torch.library.opcheck(torch.ops.visionssm.ssd, (*tensors, 16, True))


class _Layer(torch.nn.Module):
    def forward(self, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, bias: Tensor) -> Any:
        return ssd(x, dt, a, b, c, d=d, dt_bias=bias, softplus=True, return_final_state=True, chunk_size=16)


def _export_inputs(**sizes: int) -> tuple[Tensor, ...]:
    return tuple(x for name, x in make(**sizes).items() if name != "initial_state")


def _open_sizes() -> tuple[Any, ...]:
    sequence = {0: torch.export.Dim("batch"), 1: torch.export.Dim("steps", min=2)}
    return sequence, sequence, None, sequence, sequence, None, None


def test_exported_program_runs_at_any_batch_and_length() -> None:
    program = torch.export.export(_Layer(), _export_inputs(), dynamic_shapes=_open_sizes())
    other = _export_inputs(batch=3, steps=50)
    for got, want in zip(program.module()(*other), _Layer()(*other), strict=True):
        torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.slow  # as the test above, and as tests/integrations/test_export_operators.py
def test_onnx_graph_runs_at_any_batch_and_length(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="comes with visionssm[export]")
    pytest.importorskip("onnxscript", reason="comes with visionssm[export]")
    program = torch.onnx.export(
        _Layer().eval(), _export_inputs(), dynamo=True, dynamic_shapes=_open_sizes(), verbose=False
    )
    assert program is not None
    program.save(tmp_path / "ssd.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "ssd.onnx"), providers=["CPUExecutionProvider"])
    for sizes in ({"batch": 2, "steps": 21}, {"batch": 1, "steps": 16}, {"batch": 3, "steps": 50}):
        inputs = _export_inputs(**sizes)
        names = [x.name for x in session.get_inputs()]
        found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        for got, want in zip(found, _Layer()(*inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-4)
