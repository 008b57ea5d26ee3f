"""What a selective scan reads, as one value."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Scan(NamedTuple):
    """The tensors of a selective scan: `visionssm.kernels.selective_scan` says what they mean.

    `op` takes them apart, because operators of PyTorch take and return single tensors; everywhere else they are one.
    """

    u: Tensor  # (B, L, D)
    dt: Tensor  # (B, L, K, Dk), or (B, L, K, R) where there is a `dt_weight`
    dt_weight: Tensor | None  # (K, R, Dk)
    a: Tensor  # (K, Dk, N)
    b: Tensor  # (B, L, K, N)
    c: Tensor  # (B, L, K, N)
    skip: Tensor | None  # (K, Dk)
    dt_bias: Tensor | None  # (K, Dk)
    order: Tensor  # (K, S, T)
    initial_state: Tensor | None  # (B, K, S, Dk, N)

    @property
    def batch(self) -> int:
        """B."""
        return self.u.shape[0]

    @property
    def pixels(self) -> int:
        """L."""
        return self.u.shape[1]

    @property
    def channels(self) -> int:
        """D, of the map."""
        return self.u.shape[2]

    @property
    def n_routes(self) -> int:
        """K."""
        return self.a.shape[0]

    @property
    def route_channels(self) -> int:
        """Dk, that each route scans: D, or D/K."""
        return self.a.shape[1]

    @property
    def d_state(self) -> int:
        """N."""
        return self.a.shape[2]

    @property
    def n_sequences(self) -> int:
        """S, of each route."""
        return self.order.shape[1]

    @property
    def n_steps(self) -> int:
        """T, of each sequence."""
        return self.order.shape[2]

    @property
    def rank(self) -> int:
        """R of low-rank step sizes; 0 where each channel has its own."""
        return 0 if self.dt_weight is None else self.dt_weight.shape[1]

    @property
    def state_shape(self) -> tuple[int, int, int, int, int]:
        """(B, K, S, Dk, N), of the states before the first and after the last step."""
        return self.batch, self.n_routes, self.n_sequences, self.route_channels, self.d_state

    def y_shape(self, merge: bool) -> tuple[int, ...]:
        """(B, L, D) of the merged map, or (B, K, L, Dk) of a map per route."""
        if merge:
            return self.batch, self.pixels, self.channels
        return self.batch, self.n_routes, self.pixels, self.route_channels

    def differentiable(self) -> tuple[Tensor | None, ...]:
        """All but the table of pixel numbers, in the order of the gradients."""
        return (*self[:8], self.initial_state)
