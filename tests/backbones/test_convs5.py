"""ConvS5 is the authors': operator, start values, layers and models; step by step it equals itself in parallel."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import visionssm
from tests.reference.fill import make_input, sample_indices, uniform
from tests.reference_cases import Case, every_case, find_cases, gradient_norms, recorded_case
from visionssm.backbones.convs5 import (
    VARIANTS,
    ConvS5,
    ConvS5Config,
    ConvS5Layer,
    ConvSSM,
    Kernels,
    checkpoint_filter_fn,
    create_convs5,
    flatten_parameters,
    hippo_poles,
    next_frame_losses,
)
from visionssm.backbones.convs5.layer import TanhGELU
from visionssm.backbones.convs5.model import States
from visionssm.kernels import use_backend

BACKENDS = ["cpu", "reference"]
NANO = ConvS5Config(widths=(8, 16), dim=16, states=8, depth=2, groups=4)


class ConvS5Case(Case):
    """A case whose step sizes and poles are filled in their own ways."""

    def state_dict(self) -> dict[str, Tensor]:
        """The case's weights under the authors' names."""
        state = super().state_dict()
        for name in state:
            if name.endswith("log_step"):
                low, high = math.log(1e-3), math.log(0.1)
                value = low + uniform(self.seed, name, tuple(state[name].shape)) * (high - low)
                state[name] = torch.from_numpy(value.astype(np.float32))
        for name, kept in self.data["kept_values"].items():
            state[name] = _tensor(kept)
        return state

    def tagged(self, numbers: Mapping[str, int]) -> dict[str, Tensor]:
        """Tensors in the place of the weights, of which some are complex, that hold these numbers, or zeros."""
        return {name: torch.full_like(x, numbers.get(name, 0)) for name, x in self.state_dict().items()}


def _filled(case: Case) -> ConvS5Case:
    return ConvS5Case(case.path)


def _tensor(entry: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tensor:
    if "re" in entry:
        return torch.complex(_tensor(entry["re"], dtype), _tensor(entry["im"], dtype))
    return torch.tensor(entry["values"], dtype=dtype).reshape(entry["shape"])


def _difference(case: Case, expected: dict[str, Any], actual: Tensor) -> float:
    """Largest absolute difference to a recorded real or complex output."""
    if "re" in expected:
        return max(_difference(case, expected[part], x) for part, x in (("re", actual.real), ("im", actual.imag)))
    assert list(actual.shape) == expected["shape"]
    flat = actual.detach().double().flatten().numpy()
    if "values" in expected:
        return float(np.abs(flat - np.asarray(expected["values"]).flatten()).max())
    assert abs(np.abs(flat).max() - expected["absmax"]) <= 3e-4 * max(1.0, expected["absmax"])
    return float(np.abs(flat[sample_indices(case.seed, flat.size)] - np.asarray(expected["samples"])).max())


def _gradients_agree(case: ConvS5Case, module: nn.Module) -> None:
    for name, (ours, theirs) in gradient_norms(case, module, checkpoint_filter_fn).items():
        # 1e-5: of a bias that a group norm takes out again, both are noise
        assert abs(ours - theirs) <= 1e-4 * theirs + 1e-5, f"{name}: {ours} and {theirs}"


# -- operator ----------------------------------------------------------------------------------------------------------


def _operator(u: Tensor, a: Tensor, b: Tensor, c: Tensor, x0: Tensor, *, by_steps: bool) -> tuple[Tensor, Tensor]:
    """Run with the authors' kernels (row, column, in, out); u (L, B, H, W, U)."""
    ssm = ConvSSM(u.shape[-1], 2 * len(a), b_kernel=b.shape[0], c_kernel=c.shape[0])
    into, out_of = b.permute(3, 2, 0, 1), 2 * c.permute(3, 2, 0, 1).conj().resolve_conj()
    kernels = Kernels(
        a,
        torch.view_as_real(into.resolve_conj()).movedim(-1, 1).flatten(0, 1),
        torch.view_as_real(out_of).movedim(-1, 2).flatten(1, 2),
    )
    if not by_steps:
        y, x = ssm(u.transpose(0, 1), x0, kernels)
        return y.transpose(0, 1), x
    ys = []
    for frame in u:
        y, x0 = ssm.step(frame, x0, kernels)
        ys.append(y)
    return torch.stack(ys), x0


@pytest.mark.parametrize("by_steps", [False, True], ids=["parallel", "steps"])
@pytest.mark.parametrize("backend", BACKENDS)
@every_case("ConvS5 scan")
def test_operator_and_its_gradients_are_the_authors(case: Case, backend: str, by_steps: bool) -> None:
    data = case.data
    inputs = {key: _tensor(data["inputs"][key]).requires_grad_() for key in ("u", "A", "B", "C", "x0")}
    with use_backend(backend):
        y, x_last = _operator(*inputs.values(), by_steps=by_steps)
        for actual, key in ((y, "y"), (x_last, "x_last")):
            torch.testing.assert_close(actual.detach(), _tensor(data["outputs"][key]), rtol=2e-5, atol=1e-4)
        if "grads" not in data:
            return
        weights = {key: _tensor(data["cotangents"][key]) for key in ("y", "x_last")}
        # real and imaginary parts as independent real numbers
        loss = (y * weights["y"]).sum() + (x_last * weights["x_last"].conj()).real.sum()
        loss.backward()
    for key, value in inputs.items():
        torch.testing.assert_close(value.grad, _tensor(data["grads"][key]), rtol=2e-5, atol=2e-4)


@every_case("ConvS5 discretization")
def test_zero_order_hold_and_the_order_of_bs_columns_are_the_authors(case: Case) -> None:
    given, expected = case.data["inputs"], case.data["outputs"]
    ssm = ConvSSM(2, 8, b_kernel=3)
    with torch.no_grad():
        for name, theirs in (("lambda_re", "Lambda_re"), ("lambda_im", "Lambda_im"), ("log_step", "log_step")):
            getattr(ssm, name).copy_(_tensor(given[theirs]))
        ssm.b.copy_(torch.view_as_real(_tensor(given["B"])).view(4, 2, 3, 3, 2))
        kernels = ssm.discretize()
    torch.testing.assert_close(kernels.transition, _tensor(expected["A_bar"]), rtol=2e-5, atol=1e-6)
    into = kernels.into.unflatten(0, (4, 2)).movedim(1, -1).contiguous()  # (P, U, row, column, re and im)
    ours = torch.view_as_complex(into).permute(2, 3, 1, 0)
    torch.testing.assert_close(ours, _tensor(expected["B_kernel"]), rtol=2e-4, atol=1e-6)


def test_poles_are_of_one_block_unless_more_are_asked_for() -> None:
    for ours, one, two in zip(hippo_poles(8), hippo_poles(8, 1), hippo_poles(8, 2), strict=True):
        assert torch.equal(ours, one)
        assert not torch.equal(ours, two)


@pytest.mark.parametrize(
    "name, expected", [output for case in find_cases("ConvS5 poles") for output in case.data["outputs"].items()]
)
def test_poles_start_as_the_authors(name: str, expected: dict[str, Any]) -> None:
    states, blocks = (int(part.lstrip("sizeblock")) for part in name.split("_"))
    poles, vectors = hippo_poles(states, blocks)
    torch.testing.assert_close(poles.real, _tensor(expected["Lambda_re"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(poles.imag, _tensor(expected["Lambda_im"]), rtol=1e-5, atol=0)
    torch.testing.assert_close(vectors.abs(), _tensor(expected["V_abs"]), rtol=0, atol=1e-5)
    product = vectors @ vectors.mH  # free of the columns' phases
    torch.testing.assert_close(product.real, _tensor(expected["V_Vinv_real"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(product.imag, _tensor(expected["V_Vinv_imag"]), rtol=0, atol=1e-5)


def test_start_values_have_the_published_spread() -> None:
    torch.manual_seed(0)
    ssm = ConvSSM(64, 32, dt_range=(1e-3, 1e-1))
    # V^H has orthonormal rows, so a mode's kernel keeps the He variance 2/(U k²) of the real matrix, over re and im
    assert ssm.b.square().sum(-1).mean().item() == pytest.approx(2 / (64 * 9), rel=0.05)
    assert ssm.c.square().sum(-1).mean().item() == pytest.approx(2 / (32 * 9), rel=0.05)
    assert ssm.log_step.min() >= math.log(1e-3)
    assert ssm.log_step.max() <= math.log(1e-1)


def test_clipped_poles_get_no_gradient_and_do_not_grow() -> None:
    ssm = ConvSSM(2, 4)
    with torch.no_grad():
        ssm.lambda_re.copy_(torch.tensor([0.3, -0.5]))
    transition = ssm.discretize().transition
    assert transition.abs().max() < 1
    transition.abs().sum().backward()
    assert ssm.lambda_re.grad is not None
    assert ssm.lambda_re.grad[0] == 0
    assert ssm.lambda_re.grad[1] != 0
    free = ConvSSM(2, 4, max_real=None)
    with torch.no_grad():
        free.lambda_re.copy_(torch.tensor([0.3, -0.5]))
    assert free.discretize().transition.abs().max() > 1


# -- layers ------------------------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": TanhGELU, "relu": nn.ReLU}


def _layer(case: ConvS5Case) -> tuple[ConvS5Layer, Tensor, Tensor | None]:
    init = case.meta["init"]
    ssm = ConvSSM(
        init["U"],
        init["ssm_size"],
        blocks=init["blocks"],
        b_kernel=init["k_B"],
        c_kernel=init["k_C"],
        max_real=-1e-4 if init["clip_eigs"] else None,
    )
    layer = ConvS5Layer(
        init["U"],
        ssm,
        readout=init["C_D_config"],
        kernel=init["k_D"],
        groups=init["num_groups"],
        act=ACTIVATIONS[init["activation"]],
        squeeze_excite=init["squeeze_excite"],
        prenorm=init["prenorm"],
    )
    layer.load_state_dict(checkpoint_filter_fn(case.state_dict(), layer))
    shape = tuple(case.data["input"]["u"]["shape"])
    u = torch.from_numpy(make_input(case.seed, shape)).transpose(0, 1)
    if case.data["input"]["x0"] == "zeros":
        return layer.eval(), u, None
    states = (*shape[1:4], len(ssm.lambda_re))
    parts = [torch.from_numpy(2 * uniform(case.seed, f"x0.{part}", states) - 1).float() for part in ("re", "im")]
    return layer.eval(), u, torch.complex(*parts)


@pytest.mark.parametrize("backend", BACKENDS)
@every_case("ConvS5 layer")
def test_layer_and_its_gradients_are_the_authors(case: Case, backend: str) -> None:
    case = _filled(case)
    layer, u, state = _layer(case)
    assert sum(p.numel() for p in layer.parameters()) == case.data["n_params"]
    with use_backend(backend):
        output, last = layer(u, state, layer.ssm.discretize())
        output = output.transpose(0, 1)
        assert _difference(case, case.data["outputs"]["output"], output) <= 5e-5
        assert _difference(case, case.data["outputs"]["x_last"], last) <= 1e-4
        (output * case.cotangent(output)).sum().backward()
    _gradients_agree(case, layer)


@every_case("ConvS5 layer")
def test_layer_step_by_step_equals_the_layer_in_parallel(case: Case) -> None:
    layer, u, state = _layer(_filled(case))
    with torch.no_grad():
        kernels = layer.ssm.discretize()
        whole, last = layer(u, state, kernels)
        steps = []
        for frame in u.unbind(1):
            y, state = layer.step(frame, state, kernels)
            steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=0, atol=5e-6)
    torch.testing.assert_close(state, last, rtol=0, atol=5e-6)


def test_dropout_has_one_mask_for_all_steps() -> None:
    torch.manual_seed(0)
    layer = ConvS5Layer(8, ConvSSM(8, 4), groups=4, drop_rate=0.5, prenorm=True)
    u = torch.randn(2, 5, 4, 4, 8)
    change = layer(u, None, layer.ssm.discretize())[0] - u
    dropped = change == 0
    assert 0.3 < dropped.float().mean() < 0.7
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))


# -- models ------------------------------------------------------------------------------------------------------------


def _model(case: ConvS5Case) -> ConvS5:
    init = case.meta["init"]
    config = ConvS5Config(
        channels=init["channels"],
        widths=tuple(init["encoder"]["depths"]),
        dim=init["d_model"],
        states=init["ssm"]["ssm_size"],
        depth=init["seq_model"]["n_layers"],
        groups=init["seq_model"]["num_groups"],
    )
    model = ConvS5(config)
    visionssm.load_official(model, case.state_dict())
    return model.eval()


def _video(case: ConvS5Case) -> Tensor:
    return torch.from_numpy(make_input(case.seed, tuple(case.data["input"]["video"]["shape"]))).tanh()


@every_case("ConvS5 model", slow="_mnist300$")
def test_model_is_the_authors_on_the_cpu_kernels(case: Case) -> None:
    _check_model(_filled(case), "cpu")


@every_case("ConvS5 model", slow="_mnist")
def test_model_is_the_authors_on_the_definition(case: Case) -> None:
    _check_model(_filled(case), "reference")


def _check_model(case: ConvS5Case, backend: str) -> None:
    model, video, outputs = _model(case), _video(case), case.data["outputs"]
    assert sum(p.numel() for p in model.parameters()) == case.data["n_params"]
    with use_backend(backend):
        features, states = model.forward_features(video)
        recon = model.decode(features)
        losses = next_frame_losses(recon, video[:, 1:])
        rollout = case.meta["rollout"]
        generated = model.generate(video[:, : rollout["context"]], rollout["steps"])
    assert _difference(case, outputs["deter"], features) <= 5e-5
    assert _difference(case, outputs["recon"], recon) <= 3e-4
    assert _difference(case, outputs["rollout"], generated) <= 3e-4
    for number, state in enumerate(states):
        assert _difference(case, outputs[f"x_last{number}"], state) <= 1e-4
    for key, theirs in (("loss", "loss"), ("mse", "mse_loss"), ("l1", "l1_loss")):
        assert losses[key].item() == pytest.approx(outputs[theirs]["values"][0], rel=1e-4)
    if case.data.get("grad_norms"):
        losses["loss"].backward()
        _gradients_agree(case, model)


@pytest.mark.parametrize("name", ["mnist300", "mnist600"])
def test_published_variant_has_the_authors_parameters(name: str) -> None:
    case = recorded_case("convs5", f"convs5_{name}")
    with torch.device("meta"):
        model = ConvS5(dataclasses.replace(VARIANTS[f"convs5_{name}"], depth=1))  # the poles need numbers; sizes do not
    one = sum(p.numel() for p in model.layers.parameters())
    rest = sum(p.numel() for p in model.parameters()) - one
    assert rest + VARIANTS[f"convs5_{name}"].depth * one == case.data["n_params"]


@pytest.fixture(scope="module")
def nano() -> ConvS5:
    torch.manual_seed(0)
    return ConvS5(NANO).eval()


def _clip(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_parallel_predictions_equal_step_by_step_ones(nano: ConvS5) -> None:
    video, actions = _clip(2, 7, 8, 12, 1), torch.arange(14).view(2, 7) % 2
    with torch.no_grad():
        parallel = nano(video, actions)
        kernels = nano.kernels()
        states: States = [None, None]
        for t in range(6):
            predicted, states = nano.step(video[:, t], states, kernels, actions[:, t + 1])
            torch.testing.assert_close(predicted, parallel[:, t], rtol=0, atol=5e-6)


def test_predictions_do_not_see_the_future(nano: ConvS5) -> None:
    video = _clip(1, 6, 8, 8, 1)
    changed = video.clone()
    changed[:, 3:] *= -1
    with torch.no_grad():
        before, after = nano(video), nano(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_a_video_in_two_parts_equals_the_whole(nano: ConvS5) -> None:
    video = _clip(2, 8, 8, 8, 1)
    with torch.no_grad():
        whole, last = nano.forward_features(video)
        first, states = nano.forward_features(video[:, :4])
        second, states = nano.forward_features(video[:, 3:], states=states)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=5e-6)
    for ours, theirs in zip(states, last, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6)


@pytest.mark.parametrize("known", [1, 3])
def test_generation_feeds_predictions_back(nano: ConvS5, known: int) -> None:
    context, actions = _clip(2, known, 8, 8, 1), torch.ones(2, known + 4, dtype=torch.long)
    generated = nano.generate(context, 4, actions)
    with torch.no_grad():
        again = nano(torch.cat([context, generated], 1), actions)[:, known - 1 :]
    torch.testing.assert_close(generated, again, rtol=0, atol=2e-5)
    assert not torch.allclose(generated, nano.generate(context, 4))  # without actions


def test_memory_of_generation_grows_by_the_frames_alone(nano: ConvS5, monkeypatch: pytest.MonkeyPatch) -> None:
    live: list[int] = []
    step = ConvS5.step

    def counted(*args: Any) -> Any:
        out = step(*args)
        gc.collect()
        # Not those of other tests' traces, which have no memory.
        tensors = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu"]
        storages = [x.untyped_storage() for x in tensors if not torch._is_functional_tensor(x)]
        live.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))
        return out

    monkeypatch.setattr(ConvS5, "step", counted)
    frames = nano.generate(_clip(1, 3, 8, 8, 1), 8)
    assert {after - before for before, after in pairwise(live[1:])} == {frames[:, 0].nbytes}


def test_long_skips_add_the_input_of_an_earlier_layer() -> None:
    torch.manual_seed(0)
    model = ConvS5(dataclasses.replace(NANO, depth=3, skips={2: 0})).eval()
    plain = ConvS5(dataclasses.replace(NANO, depth=3)).eval()
    plain.load_state_dict(model.state_dict())
    seen: dict[str, list[Tensor]] = {"plain": [], "skip": []}
    for name, one in (("plain", plain), ("skip", model)):
        for layer in one.layers:
            layer.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0]))
    video = _clip(1, 4, 8, 8, 1)
    with torch.no_grad():
        model(video), plain(video)
        torch.testing.assert_close(seen["skip"][2], seen["plain"][2] + seen["plain"][0])
        generated = model.generate(video, 2)
        again = model(torch.cat([video, generated], 1))[:, 3:]
    torch.testing.assert_close(generated, again, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="skips"):
        ConvS5(dataclasses.replace(NANO, skips={1: 1}))


def test_losses_sum_over_width_and_channels_alone() -> None:
    losses = next_frame_losses(torch.full((2, 3, 4, 5, 2), 0.5), torch.zeros(2, 3, 4, 5, 2))
    assert losses["mse"].item() == pytest.approx(0.25 * 10)
    assert losses["l1"].item() == pytest.approx(0.5 * 10)
    assert losses["loss"].item() == pytest.approx(0.375 * 10)


def test_gradients_reach_every_parameter_and_half_precision_is_finite(nano: ConvS5) -> None:
    model = ConvS5(NANO)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(_clip(2, 4, 8, 8, 1))
    next_frame_losses(predicted, torch.zeros(2, 3, 8, 8, 1))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.endswith("conv1.bias"):  # nearly taken out by the norm after it
            assert parameter.grad.abs().sum() > 0, name


def test_nested_flax_parameters_and_our_own_state_dict_load(nano: ConvS5) -> None:
    case = _filled(recorded_case("convs5", "convs5_small"))
    nested: dict[str, Any] = {}
    for name, value in case.state_dict().items():
        *folders, leaf = name.split(".")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[leaf] = value.numpy()
    model = _model(case)
    other = ConvS5(model.config)
    visionssm.load_official(other, flatten_parameters({"params": nested}))
    assert all(torch.equal(x, model.state_dict()[key]) for key, x in other.state_dict().items())
    third = visionssm.load_official(ConvS5(model.config), model.state_dict())
    assert all(torch.equal(x, model.state_dict()[key]) for key, x in third.state_dict().items())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda model: model(torch.zeros(1, 1, 8, 8, 1)), "T ≥ 2"),
        (lambda model: model(torch.zeros(1, 3, 9, 8, 1)), "divisible by 2"),
        (lambda model: model(torch.zeros(1, 3, 8, 8, 3)), "video has shape"),
        (lambda model: model.generate(torch.zeros(1, 3, 8, 8, 1), 0), "steps=0"),
        (lambda model: model.generate(torch.zeros(1, 3, 8, 8, 1), 2, torch.zeros(1, 3)), "T \\+ steps=5"),
        (lambda model: create_convs5("convs5_mnist"), "convs5_mnist300"),
        (lambda model: hippo_poles(6, 2), "multiple of 2"),
        (lambda model: hippo_poles(6, 0), "multiple of 2"),
        (lambda model: hippo_poles(0, 1), "multiple of 2"),
        (lambda model: ConvSSM(4, 4, b_kernel=2), "odd"),
        (lambda model: ConvS5Layer(4, ConvSSM(4, 4), readout="diag_resnet"), "choose one of resnet"),
    ],
)
def test_wrong_arguments_are_named(nano: ConvS5, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(nano)
