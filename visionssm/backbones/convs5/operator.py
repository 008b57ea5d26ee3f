"""The convolutional state-space operator of ConvS5: its start values, its discretisation, and its two ways to run."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from visionssm.kernels import linear_recurrence, linear_recurrence_step

_TRUNCATED_NORMAL_STD = 0.87962566103423978
"""Standard deviation of a standard normal that is cut off at ±2."""


class Kernels(NamedTuple):
    """One discretised operator: what a step needs, computed once for all of them.

    Attributes:
        transition: (P,) complex factors of the states.
        into: (2P, U, kB, kB) real convolution weight from inputs to states; real and imaginary parts alternate.
        out_of: (U, 2P, kC, kC) real convolution weight from states to outputs, the factor 2 of 2·Re included.
    """

    transition: Tensor
    into: Tensor
    out_of: Tensor


class ConvSSM(nn.Module):
    """x_t = Ā x_{t−1} + B̄ ∗ u_t,   y_t = 2 Re(C ∗ x_t), with a diagonal complex Ā and "same" convolutions over the map.

    Conjugate pairs of states are represented by the one with the negative frequency, hence 2·Re
    (Smith et al. 2023, ConvS5, arXiv 2310.19694, section 3).

    Args:
        dim: U, channels of inputs and outputs.
        states: 2P; P complex states are kept a pixel.
        blocks: the states start as this many HiPPO-LegS blocks.
        b_kernel, c_kernel: odd sides of the convolutions.
        dt_range: the step sizes start log-uniform between these.
        max_real: the real parts of the poles are clipped at this, so that no state grows; None for no clipping.
    """

    def __init__(
        self,
        dim: int,
        states: int,
        *,
        blocks: int = 1,
        b_kernel: int = 3,
        c_kernel: int = 3,
        dt_range: tuple[float, float] = (1e-3, 1e-1),
        max_real: float | None = -1e-4,
    ) -> None:
        super().__init__()
        if b_kernel % 2 == 0 or c_kernel % 2 == 0:
            raise ValueError(f"b_kernel and c_kernel must be odd, got {b_kernel} and {c_kernel}")
        self.dim, self.states, self.blocks = dim, states, blocks
        self.dt_range, self.max_real = dt_range, max_real
        half = states // 2
        self.lambda_re = nn.Parameter(torch.empty(half))
        self.lambda_im = nn.Parameter(torch.empty(half))
        self.log_step = nn.Parameter(torch.empty(half))
        self.b = nn.Parameter(torch.empty(half, dim, b_kernel, b_kernel, 2))  # (P, U, row, column, re and im)
        self.c = nn.Parameter(torch.empty(dim, half, c_kernel, c_kernel, 2))  # (U, P, row, column, re and im)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """HiPPO poles; real He-normal B and C of all 2P states, expressed in HiPPO's eigenvectors."""
        poles, vectors = hippo_poles(self.states, self.blocks)
        with torch.no_grad():
            self.lambda_re.copy_(poles.real)
            self.lambda_im.copy_(poles.imag)
            self.log_step.uniform_(*(math.log(x) for x in self.dt_range))
            vectors = vectors.to(self.b.device)  # (2P, P)
            b = _he_normal((len(vectors), *self.b.shape[1:-1]), fan_in=self.b[0, ..., 0].numel())
            c = _he_normal((self.dim, len(vectors), *self.c.shape[2:-1]), fan_in=2 * self.c[0, ..., 0].numel())
            self.b.copy_(torch.view_as_real(torch.einsum("np,nuij->puij", vectors.conj(), b.to(vectors))))
            self.c.copy_(torch.view_as_real(torch.einsum("np,unij->upij", vectors, c.to(vectors))))

    def discretize(self) -> Kernels:
        """Zero-order hold: Ā = exp(Λ dt), B̄ = (Ā − 1)/Λ · B; needed once per sequence, differentiable."""
        real = self.lambda_re if self.max_real is None else self.lambda_re.clamp(max=self.max_real)
        poles = torch.complex(real, self.lambda_im)
        transition = torch.exp(poles * self.log_step.exp())
        gain = (transition - 1) / poles  # (P,)
        into = torch.view_as_complex(self.b) * gain.view(-1, 1, 1, 1)
        out_of = 2 * torch.view_as_complex(self.c).conj().resolve_conj()  # Re(C x) = Re C · Re x − Im C · Im x
        return Kernels(
            transition,
            torch.view_as_real(into).movedim(-1, 1).flatten(0, 1),
            torch.view_as_real(out_of).movedim(-1, 2).flatten(1, 2),
        )

    def forward(self, u: Tensor, state: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """A whole sequence: all convolutions at once, then one linear recurrence over time.

        Args:
            u: (B, T, H, W, U).
            state: (B, H, W, P) complex, after the step before; None for zeros.

        Returns:
            y: (B, T, H, W, U) of u's dtype; and the last state.
        """
        x = linear_recurrence(kernels.transition, _to_states(u, kernels), dim=1, initial_state=state)
        return _from_states(x, kernels).to(u.dtype), x[:, -1]

    def step(self, u: Tensor, state: Tensor | None, kernels: Kernels) -> tuple[Tensor, Tensor]:
        """One step of `forward`: (B, H, W, U) to the output of that shape and the new state."""
        x = linear_recurrence_step(kernels.transition, _to_states(u, kernels), state)
        return _from_states(x, kernels).to(u.dtype), x


def _to_states(u: Tensor, kernels: Kernels) -> Tensor:
    pairs = _convolve(u, kernels.into).unflatten(-1, (-1, 2))  # (…, P, re and im)
    return torch.view_as_complex(pairs.to(kernels.transition.real.dtype).contiguous())


def _from_states(x: Tensor, kernels: Kernels) -> Tensor:
    return _convolve(torch.view_as_real(x.resolve_conj()).flatten(-2), kernels.out_of)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """(…, H, W, C) maps through a real "same" convolution; the permutes are views."""
    maps = x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2)
    y = conv2d(maps, weight.to(x.dtype), padding=weight.shape[-1] // 2)
    return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:-3])


def hippo_poles(states: int, blocks: int = 1) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the normal part of HiPPO-LegS, those with negative imaginary part alone.

    The normal part is −½ I + K with the skew-symmetric K_nk = −½ √((2n+1)(2k+1)) for n > k (Gu et al. 2022, S4,
    arXiv 2111.00396, appendix C); −iK is Hermitian.

    Args:
        states: 2P, a multiple of 2·blocks.
        blocks: this many equal blocks of states/blocks on the diagonal.

    Returns:
        (P,) complex eigenvalues, in each block from the most negative frequency up; (2P, P) eigenvectors in complex64.

    Raises:
        ValueError: the states cannot be cut into blocks of even size.
    """
    if blocks < 1 or states < 2 * blocks or states % (2 * blocks):
        raise ValueError(
            f"states={states} cannot be cut into blocks={blocks} of even size; give a multiple of 2·blocks"
        )
    size = states // blocks
    root = np.sqrt(2 * np.arange(size) + 1.0)
    lower = np.tril(np.outer(root, root), -1) / 2
    frequencies, vectors = np.linalg.eigh(-1j * (lower.T - lower))  # in rising order
    keep = size // 2
    poles = torch.from_numpy(np.tile(-0.5 + 1j * frequencies[:keep], blocks)).to(torch.complex64)
    return poles, torch.block_diag(*[torch.from_numpy(vectors[:, :keep]).to(torch.complex64)] * blocks)


def _he_normal(shape: tuple[int, ...], fan_in: int) -> Tensor:
    std = math.sqrt(2 / fan_in) / _TRUNCATED_NORMAL_STD
    return nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std)
