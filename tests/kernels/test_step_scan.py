"""The scan of a re-ordered map: the compiled pass and the definition equal what is written out step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import visionssm
from tests.kernels.examples import normal
from visionssm.kernels import LowRank, routes
from visionssm.kernels.step_scan import cpu, step_scan, steps_of


def inputs(size: tuple[int, int], channels: int, d_state: int, rank: int, batch: int = 2) -> list[Tensor]:
    """u, dt, its weight, a, b, c, d and the bias; u and c are parts of wider rows, as a projection gives them."""
    pixels = size[0] * size[1]
    wide = normal(batch, pixels, 2 * channels)[..., :channels]
    row = normal(batch, pixels, rank + d_state)
    given = [wide, row[..., :rank], normal(rank, channels), -normal(channels, d_state).exp()]
    return [*given, normal(batch, pixels, 4, d_state), row[..., rank:], normal(channels), normal(channels)]


def scanned(tensors: list[Tensor], order: Tensor) -> Tensor:
    u, low, weight, *rest, d, bias = tensors
    return step_scan(u, LowRank(low, weight), *rest, d=d, dt_bias=bias, steps=steps_of(order))


def written_out(tensors: list[Tensor], order: Tensor) -> Tensor:
    u, low, weight, a, b, c, d, bias = (x.double() for x in tensors)
    step, total = F.softplus(low @ weight + bias), torch.zeros_like(u)
    for k, route in enumerate(order[:, 0].tolist()):
        h = torch.zeros(*u.shape[::2], a.shape[1], dtype=torch.float64)
        for t, pixel in enumerate(route):
            drive = (step[:, t] * u[:, pixel])[..., None] * b[:, t, k, None]
            h = (step[:, t, :, None] * a).exp() * h + drive
            total[:, pixel] += (h * c[:, t, None]).sum(-1) + d * u[:, pixel]
    return total


CASES = [((3, 7), 16, 3, 2), ((5, 4), 96, 16, 5), ((1, 1), 32, 1, 1), ((2, 19), 48, 4, 3), ((4, 5), 20, 3, 2)]


@pytest.mark.parametrize(("size", "channels", "d_state", "rank"), CASES)
@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_every_backend_equals_what_is_written_out(
    size: tuple[int, int], channels: int, d_state: int, rank: int, threads: int
) -> None:
    tensors, order = inputs(size, channels, d_state, rank), routes.zigzags(*size)
    expected = written_out(tensors, order)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        torch.testing.assert_close(scanned(tensors, order).double(), expected, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)
    with visionssm.use_backend("reference"):
        torch.testing.assert_close(scanned(tensors, order).double(), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_map_without_pixels_or_images_stays_empty() -> None:
    order = routes.zigzags(2, 3)
    assert scanned(inputs((2, 3), 16, 3, 2, batch=0), order).shape == (0, 6, 16)


def test_the_pass_runs_in_inference_alone_and_gives_the_numbers_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, order = inputs((4, 5), 32, 4, 3), routes.zigzags(4, 5)
    calls: list[int] = []
    forward = cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *x: calls.append(1) or forward(*x))
    with torch.no_grad():
        fast = scanned(tensors, order)
        assert calls == [1]
    for x in tensors:
        x.requires_grad_()
    trained = scanned(tensors, order)
    assert calls == [1]
    torch.testing.assert_close(fast, trained, rtol=1e-4, atol=1e-4)
    gradients = torch.autograd.grad(trained.sum(), tensors)
    doubles = [x.detach().double().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(written_out(doubles, order).sum(), doubles)
    for found, exact in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)


def test_shapes_that_do_not_go_together_are_named() -> None:
    tensors, order = inputs((2, 3), 16, 3, 2), routes.zigzags(2, 3)
    with pytest.raises(ValueError, match=r"b has shape \(2, 6, 3, 3\); expected \(B=2, L=6, K=4, N=3\)"):
        scanned([*tensors[:4], tensors[4][:, :, :3], *tensors[5:]], order)
    with pytest.raises(ValueError, match=r"steps.order has shape \(4, 1, 4\); expected \(K, 1=1, L=6\)"):
        scanned(tensors, routes.zigzags(2, 2))
    steps = steps_of(order)
    wrong = steps._replace(order=torch.where(order == 5, 9, order))
    u, low, weight, *rest, d, bias = tensors
    with torch.no_grad(), pytest.raises(ValueError, match="names pixels 0 to 9, but the map has pixels 0 to 5"):
        step_scan(u, LowRank(low, weight), *rest, d=d, dt_bias=bias, steps=wrong)
