"""States of the selective scan against the definition, read out and not."""

from __future__ import annotations

import pytest
import torch

from visionssm.kernels import LowRank, routes, scan_states, selective_scan, use_backend


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("groups", [False, True], ids=["shared", "groups"])
@pytest.mark.parametrize("rank", [None, 2], ids=["full", "low_rank"])
@pytest.mark.parametrize("d_state", [1, 3])
def test_states_read_out_are_the_scan(d_state: int, rank: int | None, groups: bool, backend: str) -> None:
    height, width, channels, k = 3, 4, 8, 4
    width_k = channels // k if groups else channels
    order = routes.ss2d(height, width)
    u = _normal(2, height * width, channels).float()
    full = _normal(2, height * width, k, width_k).float()
    low = LowRank(_normal(2, height * width, k, rank or 1).float(), _normal(k, rank or 1, width_k).float())
    dt = full if rank is None else low
    a = -_normal(k, width_k, d_state).exp().float()
    b, c = (_normal(2, height * width, k, d_state, seed=i).float() for i in (1, 2))
    bias, start = _normal(k, width_k).float(), _normal(2, k, 1, width_k, d_state).float()
    with use_backend(backend):
        h = scan_states(u, dt, a, b, order=order, dt_bias=bias, initial_state=start)
        y = selective_scan(u, dt, a, b, c, order=order, dt_bias=bias, initial_state=start, merge=False)
    assert h.shape == (2, k, height * width, width_k, d_state)
    read = torch.einsum("bkldn,blkn->bkld", h, c)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(read, y, rtol=1e-4, atol=1e-5)


def test_gradients_pass_gradcheck() -> None:
    order = routes.bidirectional(2, 2)
    u, dt, b = _normal(1, 4, 2), _normal(1, 4, 2, 2), _normal(1, 4, 2, 2)
    a = -_normal(2, 2, 2).exp()
    leaves = [x.detach().requires_grad_() for x in (u, dt, a, b)]
    assert torch.autograd.gradcheck(lambda u, dt, a, b: scan_states(u, dt, a, b, order=order), leaves)


def test_shapes_that_do_not_fit_are_named() -> None:
    order = routes.raster(2, 2)
    with pytest.raises(ValueError, match=r"b \(1, 4, 1, 3\); expected .*\(B, L, K, N\)"):
        scan_states(_normal(1, 4, 2), _normal(1, 4, 1, 2), -_normal(1, 2, 2).exp(), _normal(1, 4, 1, 3), order=order)
