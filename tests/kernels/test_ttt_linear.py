"""TTT-Linear: gradient descent written out, its properties on every backend, its errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.kernels.random_tensors import normals
from visionssm.kernels import ttt_linear, use_backend

backends = pytest.mark.parametrize("backend", ["auto", "reference"])


def make(
    *,
    batch: int = 2,
    steps: int = 21,
    heads: int = 2,
    width: int = 5,
    mini_batch: int = 8,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments as a layer makes them: rates that fall in the mini-batch, a small weight, a norm near the identity."""
    normal = normals(seed, dtype)
    sizes = (batch, steps, heads, width)
    return {
        "q": normal(*sizes),
        "k": normal(*sizes),
        "v": normal(*sizes),
        "eta": normal(batch, steps, heads).sigmoid() / width,
        "token_scale": 1 / torch.arange(1, mini_batch + 1, dtype=dtype) + 0.1 * normal(mini_batch),
        "weight": normal(heads, width, width) / width**0.5,
        "bias": 0.1 * normal(heads, width),
        "norm_weight": 1 + 0.1 * normal(heads, width),
        "norm_bias": 0.1 * normal(heads, width),
    }


def values_and_gradients(arguments: dict[str, Tensor]) -> list[Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    y = ttt_linear(**leaves)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).mul(9).cos().view(y.shape).to(y.dtype)
    total = (y * weights).sum()
    return [y, *torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)]


def gradient_descent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    eta: Tensor,
    token_scale: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
) -> Tensor:
    """One sequence and head after the other; the loss of each token is differentiated by PyTorch."""
    y = torch.empty_like(q)
    batch, steps, heads, width = q.shape
    for sample in range(batch):
        for head in range(heads):

            def normed(x: Tensor, head: int = head) -> Tensor:
                return F.layer_norm(x, (width,), norm_weight[head], norm_bias[head], 1e-6)

            w, b = weight[head], bias[head]
            for first in range(0, steps, len(token_scale)):
                gradients: list[tuple[Tensor, Tensor, Tensor]] = []
                for i in range(first, min(first + len(token_scale), steps)):
                    model = w.clone().requires_grad_(), b.clone().requires_grad_()
                    key, value = k[sample, i, head], v[sample, i, head]
                    loss = (normed(key @ model[0] + model[1]) - (value - key)).square().sum() / 2
                    gradients.append((eta[sample, i, head], *torch.autograd.grad(loss, model)))
                    scale = token_scale[i - first]
                    now_w = w - sum(scale * rate * g for rate, g, _ in gradients)
                    now_b = b - sum(scale * rate * g for rate, _, g in gradients)
                    query = q[sample, i, head]
                    y[sample, i, head] = query + normed(query @ now_w + now_b)
                w, b = now_w, now_b
    return y


@backends
@pytest.mark.parametrize("steps", [1, 7, 8, 21])
def test_it_is_gradient_descent_on_the_loss_of_each_token(backend: str, steps: int) -> None:
    arguments = make(steps=steps, dtype=torch.float64)
    with use_backend(backend):
        torch.testing.assert_close(ttt_linear(**arguments), gradient_descent(**arguments))


def test_gradients_of_the_definition_pass_gradcheck() -> None:
    leaves = [x.requires_grad_() for x in make(batch=1, steps=5, width=3, mini_batch=2, dtype=torch.float64).values()]
    assert torch.autograd.gradcheck(ttt_linear, leaves)
    assert torch.autograd.gradgradcheck(ttt_linear, leaves, fast_mode=True)


SHAPES = {
    "small": {},
    "one_of_each": {"steps": 1, "heads": 1, "width": 1, "mini_batch": 1},
    "published": {"batch": 1, "steps": 40, "heads": 4, "width": 16, "mini_batch": 16},
    "many_mini_batches": {"batch": 1, "steps": 150, "width": 16, "mini_batch": 16},
    "wide": {"steps": 40, "heads": 1, "width": 35, "mini_batch": 16},
}


@backends
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_the_float64_definition(backend: str, shape: str) -> None:
    with use_backend(backend):
        got = values_and_gradients(make(**SHAPES[shape]))
    with use_backend("reference"):
        expected = values_and_gradients({name: x.double() for name, x in make(**SHAPES[shape]).items()})
    for ours, want in zip(got, expected, strict=True):
        torch.testing.assert_close(ours.double(), want, rtol=0, atol=1e-5 * max(1.0, want.abs().max().item()))


def test_views_need_no_copy_by_the_caller() -> None:
    arguments = make()
    parts = torch.cat([arguments[name].flatten(2) for name in "qkv"], -1).split(10, -1)
    views = {name: x.unflatten(-1, (2, 5)) for name, x in zip("qkv", parts, strict=True)}
    for got, want in zip(values_and_gradients({**arguments, **views}), values_and_gradients(arguments), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_the_registered_operator_passes_pytorchs_own_check() -> None:
    tensors = [x.requires_grad_() for x in make(steps=37).values()]
    with use_backend("cpu"):
        torch.library.opcheck(torch.ops.visionssm.ttt_linear, (*tensors, 1e-6, True))


def test_a_program_of_an_open_length_gives_the_same_numbers() -> None:
    class Layer(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return ttt_linear(*tensors)

    steps = torch.export.Dim("steps", min=2, max=1000)
    sizes = ((*[{1: steps}] * 4, *[None] * 5),)
    program = torch.export.export(Layer(), tuple(make().values()), dynamic_shapes=sizes)
    other = make(steps=50)
    torch.testing.assert_close(program.module()(*other.values()), ttt_linear(**other))


@backends
def test_later_tokens_change_nothing_before_them(backend: str) -> None:
    arguments = make()
    with use_backend(backend):
        whole = ttt_linear(**arguments)
        part = ttt_linear(**{name: x[:, :13] if name in ("q", "k", "v", "eta") else x for name, x in arguments.items()})
    torch.testing.assert_close(whole[:, :13], part, rtol=1e-5, atol=1e-6)


@backends
def test_a_model_that_does_not_learn_is_a_linear_layer(backend: str) -> None:
    arguments = make()
    arguments["eta"] = torch.zeros_like(arguments["eta"])
    q = arguments["q"]
    z = torch.einsum("blhd,hde->blhe", q, arguments["weight"]) + arguments["bias"]
    z = F.layer_norm(z, (5,), eps=1e-6) * arguments["norm_weight"] + arguments["norm_bias"]
    with use_backend(backend):
        torch.testing.assert_close(ttt_linear(**arguments), q + z)


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_model_in_float32(backend: str, dtype: torch.dtype) -> None:
    arguments = {name: x.to(dtype) for name, x in make(steps=100).items()}
    with use_backend("reference"):
        expected = ttt_linear(**{name: x.double() for name, x in arguments.items()})
    with use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        y = ttt_linear(**arguments)
    assert y.dtype == dtype
    assert float((y - expected).abs().max() / expected.abs().max()) < torch.finfo(dtype).eps


@backends
@pytest.mark.parametrize("empty", [{"steps": 0}, {"batch": 0}])
def test_nothing_gives_nothing(backend: str, empty: dict[str, int]) -> None:
    with use_backend(backend):
        y = ttt_linear(**make(**empty))
    assert y.shape == make(**empty)["q"].shape


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("q", (2, 21, 10), r"q has shape \(2, 21, 10\); expected \(B, L, H, D\)"),
        ("k", (2, 21, 2, 4), r"k has shape .*D=5"),
        ("v", (2, 20, 2, 5), r"v has shape .*L=21"),
        ("eta", (2, 21, 1), r"eta has shape .*H=2"),
        ("token_scale", (1, 8), r"token_scale has shape \(1, 8\); expected \(T\)"),
        ("token_scale", (0,), "token_scale is empty; give a factor for each token"),
        ("weight", (2, 5, 4), r"weight has shape .*D=5"),
        ("bias", (2, 1, 5), r"bias has shape .*D=5"),
        ("norm_weight", (5,), r"norm_weight has shape .*H=2"),
        ("norm_bias", (2, 4), r"norm_bias has shape .*D=5"),
    ],
)
def test_wrong_shapes_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ttt_linear(**{**make(), name: torch.zeros(shape)})


def test_integers_and_mixed_devices_are_refused() -> None:
    arguments = make()
    with pytest.raises(ValueError, match="eta has dtype"):
        ttt_linear(**{**arguments, "eta": arguments["eta"].long()})
    with pytest.raises(ValueError, match="weight is on meta and q on cpu"):
        ttt_linear(**{**arguments, "weight": arguments["weight"].to("meta")})
