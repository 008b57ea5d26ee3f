"""Mamba's mixers equal a plain loop over tokens, and the backward direction is the forward one in reversed time."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from visionssm.layers import mamba
from visionssm.layers.mamba import BackwardTokenScan, BidirectionalMamba, Mamba, TokenScan, convert_mamba_key

DIM, D_STATE, DT_RANK, D_CONV = 6, 4, 3, 4


def _published_state(dim: int = DIM) -> dict[str, Tensor]:
    """A bidirectional mixer's state under the published names."""
    inner = 2 * dim
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.5 * torch.randn(*shape, generator=generator)

    state = {"in_proj.weight": draw(2 * inner, dim), "out_proj.weight": draw(dim, inner)}
    for b in ("", "_b"):
        state |= {
            f"A{b}_log": draw(inner, D_STATE),
            f"D{b}": draw(inner),
            f"conv1d{b}.weight": draw(inner, 1, D_CONV),
            f"conv1d{b}.bias": draw(inner),
            f"x_proj{b}.weight": draw(DT_RANK + 2 * D_STATE, inner),
            f"dt_proj{b}.weight": draw(inner, DT_RANK),
            f"dt_proj{b}.bias": draw(inner),
        }
    return state


def _loop(state: dict[str, Tensor], x: Tensor, b: str) -> Tensor:
    """One direction of the definition on (T, D) tokens, in the order given."""
    padded = F.pad(x, (0, 0, D_CONV - 1, 0))
    kernel, bias = state[f"conv1d{b}.weight"][:, 0], state[f"conv1d{b}.bias"]
    u = F.silu(torch.stack([(padded[t : t + D_CONV].T * kernel).sum(1) + bias for t in range(len(x))]))
    a = -state[f"A{b}_log"].exp()
    hidden, outputs = torch.zeros_like(a), []
    for u_t in u:
        dt, b_t, c_t = (state[f"x_proj{b}.weight"] @ u_t).split([DT_RANK, D_STATE, D_STATE])
        step = F.softplus(state[f"dt_proj{b}.weight"] @ dt + state[f"dt_proj{b}.bias"])
        hidden = (step[:, None] * a).exp() * hidden + (step * u_t)[:, None] * b_t
        outputs.append(hidden @ c_t + state[f"D{b}"] * u_t)
    return torch.stack(outputs)


def _definition(state: dict[str, Tensor], tokens: Tensor, directions: tuple[str, ...]) -> Tensor:
    state = {name: value.double() for name, value in state.items()}
    outputs = []
    for image in tokens.double():
        x, z = (image @ state["in_proj.weight"].T).chunk(2, dim=-1)
        y = _loop(state, x, "")
        if "_b" in directions:
            y = y + _loop(state, x.flip(0), "_b").flip(0)
        outputs.append((y * F.silu(z)) @ state["out_proj.weight"].T)
    return torch.stack(outputs)


@pytest.mark.parametrize("steps", [1, 3, 4, 19])
@pytest.mark.parametrize("mixer,directions", [(Mamba, ("",)), (BidirectionalMamba, ("", "_b"))])
def test_mixer_equals_a_loop_in_float64(mixer: type[Mamba], directions: tuple[str, ...], steps: int) -> None:
    published = {n: v for n, v in _published_state().items() if "_b" in directions or not ("_b." in n or "_b" in n)}
    module = mixer(DIM, d_state=D_STATE, d_conv=D_CONV, dt_rank=DT_RANK)
    module.load_state_dict(dict(convert_mamba_key(*entry) for entry in published.items()))
    tokens = torch.randn(2, steps, DIM, generator=torch.Generator().manual_seed(1))
    expected = _definition(published, tokens, directions)
    torch.testing.assert_close(module(tokens).double(), expected, rtol=1e-4, atol=1e-5)


def _pair(dim: int, d_conv: int) -> tuple[TokenScan, BackwardTokenScan]:
    options = {"d_state": D_STATE, "dt_rank": DT_RANK, "d_conv": d_conv}
    ahead, back = TokenScan(dim, **options), BackwardTokenScan(dim, **options)
    back.load_state_dict(ahead.state_dict())
    return ahead, back


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.sampled_from([1, 5, 16]), st.integers(1, 5))
def test_backward_scan_equals_the_reversed_scan_of_reversed_tokens(
    batch: int, steps: int, dim: int, d_conv: int
) -> None:
    torch.manual_seed(0)
    ahead, back = _pair(dim, d_conv)
    tokens = torch.randn(batch, steps, dim)
    torch.testing.assert_close(back(tokens), ahead(tokens.flip(1)).flip(1))


@pytest.mark.parametrize("t", [0, 3, 6])
def test_a_token_reaches_only_those_on_its_side(t: int) -> None:
    torch.manual_seed(0)
    ahead, back = _pair(DIM, D_CONV)
    tokens = torch.randn(1, 7, DIM)
    changed = tokens.clone()
    changed[:, t] += 1
    reached = (ahead(changed) != ahead(tokens)).any(-1)[0]
    assert reached.tolist() == [i >= t for i in range(7)]
    reached = (back(changed) != back(tokens)).any(-1)[0]
    assert reached.tolist() == [i <= t for i in range(7)]


def test_gradients_of_the_backward_scan_equal_those_of_the_reversed_scan() -> None:
    torch.manual_seed(0)
    ahead, back = _pair(DIM, D_CONV)
    weights = torch.randn(2, 7, DIM)
    tokens = torch.randn(2, 7, DIM)
    (ahead(tokens.flip(1)).flip(1) * weights).sum().backward()
    (back(tokens) * weights).sum().backward()
    for (name, one), other in zip(ahead.named_parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)


def test_published_names_are_converted_and_others_kept() -> None:
    value = torch.zeros(3, 2)
    assert convert_mamba_key("layers.0.mixer.A_b_log", value)[0] == "layers.0.mixer.back.A_logs"
    name, converted = convert_mamba_key("layers.0.mixer.x_proj.weight", value)
    assert (name, converted.shape) == ("layers.0.mixer.ahead.x_proj_weight", (1, 3, 2))
    for other in (
        "head.weight",
        "layers.0.mixer.in_proj.weight",
        "ahead.conv1d.weight",  # in a file of ours
        "layers.0.mixer.back.conv1d.bias",
        "D.weight",
        "A",
    ):
        assert convert_mamba_key(other, value) == (other, value)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 3, 4, 19])
def test_both_directions_in_one_call_equal_a_loop_in_float64(steps: int) -> None:
    published = _published_state()
    module = BidirectionalMamba(DIM, d_state=D_STATE, d_conv=D_CONV, dt_rank=DT_RANK)
    module.load_state_dict(dict(convert_mamba_key(*entry) for entry in published.items()))
    tokens = torch.randn(2, steps, DIM, generator=torch.Generator().manual_seed(1))
    with mock.patch.object(mamba, "selective_scan", wraps=mamba.selective_scan) as used:
        y = module(tokens)
    assert used.call_count == 1
    torch.testing.assert_close(y.double(), _definition(published, tokens, ("", "_b")), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_directions_stay_apart_where_somebody_looks_or_tokens_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    module = BidirectionalMamba(DIM, d_state=D_STATE)
    tokens = torch.randn(2, 9, DIM)
    joined = module(tokens)
    seen: list[Tensor] = []
    handle = module.back.register_forward_hook(lambda _, __, y: seen.append(y))
    with mock.patch.object(mamba, "selective_scan", side_effect=AssertionError):
        torch.testing.assert_close(module(tokens), joined)
        assert [y.shape for y in seen] == [(2, 9, 2 * DIM)]
        handle.remove()
        monkeypatch.setattr(mamba, "MOST_SIDE_BY_SIDE", 2 * 2 * 9 * 2 * DIM - 1)
        torch.testing.assert_close(module(tokens), joined)


@pytest.mark.parametrize("grad", [False, True])
def test_no_sequence_at_all_gives_none(grad: bool) -> None:
    with torch.set_grad_enabled(grad):
        assert BidirectionalMamba(DIM)(torch.zeros(0, 5, DIM)).shape == (0, 5, DIM)
