"""However PyTorch differentiates or vectorises a function, compiled operators give the definition's numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jvp, vmap

import visionssm
from tests.kernels.examples import OPERATORS, Call
from visionssm.kernels import linear_recurrence, selective_scan, use_backend

FAMILIES = [name for name in visionssm.list_models() if name.endswith("_nano_test")]
TOLERANCE = 2e-5  # of the largest number of a result
operators = pytest.mark.parametrize("name", OPERATORS)


def _problem(name: str) -> tuple[Callable[..., Tensor], list[Tensor], tuple[int, ...]]:
    """A number of which no derivative of any order is zero, its inputs, and their places."""
    inputs, call = OPERATORS[name]()

    def loss(*inputs: Tensor) -> Tensor:
        found = call(*inputs)
        outputs = (found,) if isinstance(found, Tensor) else found
        return torch.stack([x.sin().sum() for x in outputs]).sum()

    return loss, [x.detach() for x in inputs], tuple(range(len(inputs)))


def _skip_without_second_derivatives(name: str) -> None:
    """The definition of the deformable sum in float64 is `grid_sample`, which older PyTorch differentiates once."""
    if name != "deformable_sum":
        return
    image = torch.rand(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    grid = torch.zeros(1, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(F.grid_sample(image, grid, align_corners=False).sum(), [image, grid], create_graph=True)
    try:
        torch.autograd.grad(first[1].sum(), [image])
    except RuntimeError as error:
        pytest.skip(f"this PyTorch: {error}")


def _assert_close(found: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    for x, y in zip(found, exact, strict=True):
        assert y.abs().max() > 1e-4
        torch.testing.assert_close(x.double(), y.double(), rtol=0, atol=TOLERANCE * max(1.0, y.abs().max().item()))


def _gradients(loss: Call, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    total = loss(*leaves)
    assert isinstance(total, Tensor)
    return torch.autograd.grad(total, leaves)


def _squared_gradient(loss: Call, *inputs: Tensor) -> Tensor:
    """What an R1 penalty adds to a loss."""
    total = loss(*inputs)
    assert isinstance(total, Tensor)
    return torch.stack([g.square().sum() for g in torch.autograd.grad(total, inputs, create_graph=True)]).sum()


def _exact_penalty_gradients(loss: Call, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    with use_backend("reference"):
        return _gradients(lambda *given: _squared_gradient(loss, *given), [x.double() for x in inputs])


@operators
def test_gradient_of_a_gradient_is_that_of_the_definition(name: str) -> None:
    _skip_without_second_derivatives(name)
    loss, inputs, _ = _problem(name)
    found = _gradients(lambda *given: _squared_gradient(loss, *given), inputs)
    _assert_close(found, _exact_penalty_gradients(loss, inputs))


@operators
def test_functions_that_are_differentiated_twice_give_the_numbers_of_the_definition(name: str) -> None:
    _skip_without_second_derivatives(name)
    loss, inputs, every = _problem(name)
    _assert_close(grad(loss, every)(*inputs), _gradients(loss, inputs))

    def penalty(*given: Tensor) -> Tensor:
        return torch.stack([g.square().sum() for g in grad(loss, every)(*given)]).sum()

    _assert_close(grad(penalty, every)(*inputs), _exact_penalty_gradients(loss, inputs))


@operators
def test_vmap_gives_values_and_gradients_of_every_slice(name: str) -> None:
    loss, inputs, every = _problem(name)
    stacks = [torch.stack([x, x.flip(0), x / 2], 1) for x in inputs]
    slices = [[x[:, i] for x in stacks] for i in range(3)]
    in_dims = (1,) * len(every)
    _assert_close([vmap(loss, in_dims)(*stacks)], [torch.stack([loss(*one) for one in slices])])
    exact = [torch.stack(parts) for parts in zip(*(_gradients(loss, one) for one in slices), strict=True)]
    _assert_close(vmap(grad(loss, every), in_dims)(*stacks), exact)
    of_sum = grad(lambda *given: vmap(loss, in_dims)(*given).sum(), every)(*stacks)
    _assert_close([x.movedim(1, 0) for x in of_sum], exact)


@operators
def test_gradients_of_shared_parameters_are_a_sample_each(name: str) -> None:
    loss, (first, *shared), every = _problem(name)
    samples = torch.stack([first, first.flip(0)])
    found = vmap(grad(loss, every), (0, *[None] * len(shared)))(samples, *shared)
    exact = [torch.stack(parts) for parts in zip(*(_gradients(loss, (x, *shared)) for x in samples), strict=True)]
    _assert_close(found, exact)


@operators
def test_forward_mode_derivatives_are_those_of_backward_mode(name: str) -> None:
    loss, inputs, every = _problem(name)
    directions = [x.cos() for x in inputs]
    exact = sum((g * v).sum() for g, v in zip(_gradients(loss, inputs), directions, strict=True))
    assert isinstance(exact, Tensor)
    _, tangent = jvp(loss, tuple(inputs), tuple(directions))
    with forward_ad.dual_level():
        dual = loss(*map(forward_ad.make_dual, inputs, directions))
        _assert_close([tangent, forward_ad.unpack_dual(dual).tangent], [exact, exact])
    _assert_close([jacfwd(loss)(*inputs)], _gradients(loss, inputs)[:1])

    _, product = jvp(grad(loss, every), tuple(inputs), tuple(directions))  # of the Hessian and the direction

    def slope(*given: Tensor) -> Tensor:
        return torch.stack([(g * v).sum() for g, v in zip(grad(loss, every)(*given), directions, strict=True)]).sum()

    _assert_close(product, _gradients(slope, inputs))


def test_hessian_of_a_recurrence_is_that_of_its_closed_form() -> None:
    def last(a: Tensor) -> Tensor:
        return linear_recurrence(a, torch.ones(4, dtype=a.dtype), dim=0)[-1]  # 1 + a + a² + a³

    torch.testing.assert_close(hessian(last)(torch.tensor(0.5)), torch.tensor(2 + 6 * 0.5))


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_backend_without_forward_mode_names_the_one_that_has_it(backend: str) -> None:
    loss, inputs, _ = _problem("selective_scan")
    with use_backend(backend), pytest.raises(ValueError, match=r"forward-mode derivatives.*use_backend\('reference'\)"):
        jvp(loss, tuple(inputs), tuple(inputs))


def test_final_state_alone_can_be_differentiated_twice() -> None:
    inputs, _ = OPERATORS["ssd"]()
    x, dt, a, b = (x.detach() for x in inputs)

    def of_state(*given: Tensor) -> Tensor:
        u, step, rate, key = given
        _, state = visionssm.ssd(u, step, -rate.exp(), key, key, softplus=True, return_final_state=True)
        return state.sin().sum()

    found = _gradients(lambda *given: _squared_gradient(of_state, *given), (x, dt, a, b))
    _assert_close(found, _exact_penalty_gradients(of_state, [x, dt, a, b]))


def test_gradients_that_are_not_differentiated_again_save_nothing_for_it() -> None:
    u = torch.randn(1, 6, 4, requires_grad=True)
    b, order = torch.randn(1, 6, 1, 2), torch.arange(6, dtype=torch.int32).view(1, 1, 6)
    y = selective_scan(u, torch.zeros(1, 6, 1, 4), -torch.ones(1, 4, 2), b, b, order=order)
    assert isinstance(y, Tensor)
    (first,) = torch.autograd.grad(y.sum(), u)
    assert not first.requires_grad


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_models_have_gradients_a_sample_and_run_under_vmap(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).eval()
    fixed = model.default_cfg.get("fixed_input_size")
    images = torch.randn(2, *(model.default_cfg["input_size"] if fixed else (3, 32, 32)))
    labels = torch.tensor([0, 2])
    torch.testing.assert_close(vmap(lambda image: model(image[None])[0])(images), model(images), rtol=0, atol=1e-5)

    parameters = {key: x.detach() for key, x in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (image[None],)), label[None])

    found = vmap(grad(loss), (None, 0, 0))(parameters, images, labels)
    for i in range(2):
        exact = torch.autograd.grad(F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]), model.parameters())
        for x, y in zip(found.values(), exact, strict=True):
            torch.testing.assert_close(x[i], y, rtol=0, atol=1e-4 * max(1.0, y.abs().max().item()))


@operators
@pytest.mark.parametrize("with_gradients", [False, True])
def test_tensors_without_memory_never_reach_a_kernel(
    name: str, with_gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their address is 0: a kernel that runs on them ends the process, if it is unlucky enough."""
    import visionssm.kernels.cpu.threads as threads

    def run(*args: object, **kwargs: object) -> None:
        raise AssertionError("a compiled kernel was run")

    inputs, call = OPERATORS[name]()
    here = [x.detach().requires_grad_(with_gradients and x.is_floating_point()) for x in inputs]
    shapes = [x.shape for x in _outputs(call(*here))]
    for module in list(sys.modules.values()):
        if getattr(module, "run_kernel", None) is threads.run_kernel:
            monkeypatch.setattr(module, "run_kernel", run)
    without_memory = [x.detach().to("meta").requires_grad_(x.requires_grad) for x in here]
    outputs = _outputs(call(*without_memory))
    assert [x.shape for x in outputs] == shapes
    assert all(x.is_meta for x in outputs)


def _outputs(found: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def test_scan_reads_an_imaginary_part_of_a_conjugate_as_it_is() -> None:
    """Its memory holds the negative, which PyTorch resolves on the way to an operator."""
    u, dt, a, b = torch.randn(1, 9, 4), torch.randn(1, 9, 1, 4), -torch.rand(1, 4, 1), torch.randn(1, 9, 1, 1)
    same = torch.complex(b, -b).conj().imag
    assert same.is_neg()
    order = torch.arange(9).int()[None, None]
    with use_backend("cpu"):
        exact = selective_scan(u, dt, a, b, b, order=order)
        found = selective_scan(u, dt, a, same, b, order=order)
    torch.testing.assert_close(found, exact)
