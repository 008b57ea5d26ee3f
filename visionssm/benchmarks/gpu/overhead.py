"""How long Python takes for a call of the selective scan on a GPU, without one: a stand-in takes the launches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visionssm.benchmarks.gpu.stand_in import stand_in
from visionssm.kernels import LowRank, selective_scan, use_backend
from visionssm.kernels.selective_scan.scan import Scan


@dataclass(frozen=True)
class Call:
    """A scan of four routes over a few pixels, whose values take no time, as models call it in bfloat16."""

    u: Tensor
    projected: Tensor
    weight: Tensor
    a: Tensor
    d: Tensor
    bias: Tensor
    order: Tensor
    widths: tuple[int, int, int]

    @classmethod
    def random(cls, d_state: int = 1, rank: int = 6, channels: int = 32, pixels: int = 4, routes: int = 4) -> Call:
        """Inputs of these sizes."""
        widths = (rank, d_state, d_state)
        return cls(
            torch.randn(1, pixels, channels).bfloat16(),
            torch.randn(1, pixels, routes, sum(widths)).bfloat16(),
            torch.randn(routes, rank, channels),
            -torch.rand(routes, channels, d_state),
            torch.ones(routes, channels),
            torch.zeros(routes, channels),
            torch.arange(pixels).int().repeat(routes, 1, 1),
            widths,
        )

    def leaves(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [self.u, self.projected, self.weight, self.a, self.d, self.bias]

    def run(self) -> Tensor:
        """The scan."""
        low, b, c = self.projected.split(self.widths, -1)
        steps = LowRank(low, self.weight)
        y = selective_scan(self.u, steps, self.a, b, c, order=self.order, d=self.d, dt_bias=self.bias)
        assert isinstance(y, Tensor)
        return y

    def scan(self) -> Scan:
        """Its tensors as the kernels' modules take them."""
        low, b, c = (x.detach() for x in self.projected.split(self.widths, -1))
        u, _, weight, a, d, bias = (x.detach() for x in self.leaves())
        return Scan(u, low, weight, a, b, c, d, bias, self.order, None)


def microseconds(function: Callable[[], object], calls: int = 300, rounds: int = 7) -> float:
    """Processor time of this thread for each call; the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        for _ in range(calls):
            function()
        best = min(best, (time.thread_time() - start) / calls)
    return best * 1e6


def run(*, calls: int = 300) -> list[dict[str, Any]]:
    """A row for each kind of call."""
    from visionssm.kernels.selective_scan import gpu

    call = Call.random()
    scan, trained = call.scan(), [x.requires_grad_() for x in call.leaves()]
    with stand_in(noted=False), use_backend("triton"):
        y, _, states = gpu.forward(scan, merge=True, save_states=True)
        ones = torch.ones_like(y)

        def inference() -> None:
            with torch.no_grad():
                call.run()

        functions = {
            "kernels of a forward pass": lambda: gpu.forward(scan, merge=True, save_states=False),
            "kernels of a backward pass": lambda: gpu.backward(ones, None, scan, states, merge=True),
            "inference": inference,
            "training, forward": call.run,
            "training, with gradients": lambda: torch.autograd.grad(call.run(), trained, ones),
        }
        return [{"call": name, "µs": microseconds(function, calls)} for name, function in functions.items()]
