"""ConvS5 layers: the operator, its non-linear read-out, a skip around both and a norm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, group_norm

from visionssm.backbones.convs5.operator import ConvSSM, Kernels
from visionssm.layers import MapConv2d

NORM_EPS = 1e-6

TanhGELU = partial(nn.GELU, approximate="tanh")


class MapGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` on (B, H, W, C) maps; state keys are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every map over its pixels and the channels of a group."""
        y = group_norm(x.permute(0, 3, 1, 2), self.num_groups, self.weight, self.bias, self.eps)
        return y.permute(0, 2, 3, 1)


class SqueezeExcite(nn.Module):
    """Channel gates from the mean over the map; always ReLU inside, whatever the layer's activation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, max(dim // 16, 4))
        self.expand = nn.Linear(max(dim // 16, 4), dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        gates = self.expand(self.reduce(x.mean((1, 2))).relu()).sigmoid()
        return x * gates[:, None, None]


class ResNetReadout(nn.Module):
    """act(y + conv(act(norm(conv(act(norm(y))))))), the activation after the sum."""

    def __init__(self, dim: int, groups: int, kernel: int, act: Callable[[], nn.Module], squeeze_excite: bool) -> None:
        super().__init__()
        self.norm1 = MapGroupNorm(groups, dim, eps=NORM_EPS)
        self.conv1 = MapConv2d(dim, dim, kernel, padding=kernel // 2)
        self.norm2 = MapGroupNorm(groups, dim, eps=NORM_EPS)
        self.conv2 = MapConv2d(dim, dim, kernel, padding=kernel // 2)
        self.act = act()
        self.se = SqueezeExcite(dim) if squeeze_excite else nn.Identity()

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """(B, H, W, U) outputs of the operator; its inputs are not used."""
        h = self.conv1(self.act(self.norm1(y)))
        h = self.conv2(self.act(self.norm2(h)))
        return self.act(y + self.se(h))


class StandardReadout(nn.Module):
    """act(norm(y + conv(u)))."""

    def __init__(self, dim: int, groups: int, kernel: int, act: Callable[[], nn.Module], squeeze_excite: bool) -> None:
        super().__init__()
        self.conv1 = MapConv2d(dim, dim, kernel, padding=kernel // 2)
        self.norm1 = MapGroupNorm(groups, dim, eps=NORM_EPS)
        self.act = act()
        self.se = SqueezeExcite(dim) if squeeze_excite else nn.Identity()

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """(B, H, W, U) outputs and inputs of the operator."""
        return self.se(self.act(self.norm1(y + self.conv1(u))))


class HalfGLUReadout(nn.Module):
    """z · sigmoid(linear(z)) with z = gelu(norm(y)); groups, kernel and the layer's activation have no part in it."""

    def __init__(self, dim: int, groups: int, kernel: int, act: Callable[[], nn.Module], squeeze_excite: bool) -> None:
        super().__init__()
        if squeeze_excite:
            raise ValueError("squeeze_excite=True has no effect on the 'half_glu' read-out; leave it out")
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.gate = nn.Linear(dim, dim)
        self.act = TanhGELU()

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        """(B, H, W, U) outputs of the operator; its inputs are not used."""
        z = self.act(self.norm(y))
        return z * self.gate(z).sigmoid()


READOUTS: dict[str, type[ResNetReadout | StandardReadout | HalfGLUReadout]] = {
    "resnet": ResNetReadout,
    "standard": StandardReadout,
    "half_glu": HalfGLUReadout,
}


class ConvS5Layer(nn.Module):
    """LayerNorm(u + readout(operator(u))), or with `prenorm` u + readout(operator(LayerNorm(u))).

    Args:
        dim: U, channels.
        ssm: the operator.
        readout: a key of READOUTS.
        kernel, groups, act, squeeze_excite: of the read-out.
        prenorm: norm before the operator instead of after the skip.
        drop_rate: dropout of the read-out, with one mask for all steps of a sequence.

    Raises:
        ValueError: there is no such read-out.
    """

    def __init__(
        self,
        dim: int,
        ssm: ConvSSM,
        *,
        readout: str = "resnet",
        kernel: int = 3,
        groups: int = 32,
        act: Callable[[], nn.Module] = TanhGELU,
        squeeze_excite: bool = False,
        prenorm: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout={readout!r} is unknown; choose one of {', '.join(READOUTS)}")
        self.ssm = ssm
        self.readout = READOUTS[readout](dim, groups, kernel, act, squeeze_excite)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.prenorm = prenorm
        self.drop_rate = drop_rate

    def forward(self, u: Tensor, state: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """(B, T, H, W, U) and the (B, H, W, P) state before it, or None, to outputs and the last state."""
        given = self.norm(u) if self.prenorm else u
        y, state = self.ssm(given, state, kernels)
        y = self.readout(y.flatten(0, 1), given.flatten(0, 1)).unflatten(0, u.shape[:2])
        if self.training and self.drop_rate:
            y = y * dropout(torch.ones_like(y[:, :1]), self.drop_rate)
        return self._add(u, y), state

    def step(self, u: Tensor, state: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """One step, (B, H, W, U) and the state before it, without dropout."""
        given = self.norm(u) if self.prenorm else u
        y, state = self.ssm.step(given, state, kernels)
        return self._add(u, self.readout(y, given)), state

    def _add(self, u: Tensor, y: Tensor) -> Tensor:
        return u + y if self.prenorm else self.norm(u + y)
