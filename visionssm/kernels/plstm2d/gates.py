"""The gates of a two-dimensional linear recurrence, and the two published ways to choose them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Gates(NamedTuple):
    """What every cell does with the states that enter it, and how its own source enters the states that leave it.

    A state enters cell (x, y) from (x − 1, y), called l, and from (x, y − 1), called u; one leaves to (x + 1, y),
    called r, and to (x, y + 1), called d. In the names of the transitions the outgoing side is first. Leading axes are
    (B, X, Y), or (B, 4, X, Y) for four directions. Missing turns are zero.

    Diffusion (D-mode) has both straight transitions and one of the turns, with values in (−1, 1): the paths between two
    cells then form a multitree, and no sum over paths grows. `propagation_gates` makes those of the P-mode.
    """

    source_r: Tensor  # (…, JT, JK, JV)
    source_d: Tensor
    transition_rl: Tensor  # (…, JT, JT)
    transition_du: Tensor
    mark_l: Tensor  # (…, JO, JQ, JT)
    mark_u: Tensor
    transition_ru: Tensor | None = None  # the turn of "left" chirality
    transition_dl: Tensor | None = None  # the turn of "right" chirality


def propagation_gates(orientation: Tensor, source: Tensor, transition: Tensor, mark: Tensor) -> Gates:
    """Gates of the P-mode: a share of every state goes straight on or turns, so that lines of any angle propagate.

    With orientation o: T_rl = T_ru = oT, T_du = T_dl = 1 − oT, S_r = oS, S_d = 1 − oS, M_l = M_u = M. The complement
    is that of the product, so that a negative T makes the share 1 − oT exceed one: states may then grow.

    Args:
        orientation: (…,) share o in (0, 1), with the leading axes of `Gates`.
        source: (…, 1, JK, JV).
        transition: (…, 1, 1).
        mark: (…, JO, JQ, 1).

    Raises:
        ValueError: the state is larger than JT = 1, for which the complement of a transition is not defined.
    """
    if transition.shape[-2:] != (1, 1):
        raise ValueError(
            f"transition has shape {tuple(transition.shape)}; the P-mode takes states of JT = 1: (…, 1, 1)"
        )
    straight = orientation[..., None, None] * transition
    turned = 1 - straight
    source_r = orientation[..., None, None, None] * source
    return Gates(
        source_r=source_r,
        source_d=1 - source_r,
        transition_rl=straight,
        transition_du=turned,
        mark_l=mark,
        mark_u=mark,
        transition_ru=straight,
        transition_dl=turned,
    )


def with_turns(gates: Gates) -> Gates:
    """The same gates with zeros in place of missing turns."""
    zero = torch.zeros_like(gates.transition_rl)
    return gates._replace(
        transition_ru=zero if gates.transition_ru is None else gates.transition_ru,
        transition_dl=zero if gates.transition_dl is None else gates.transition_dl,
    )
