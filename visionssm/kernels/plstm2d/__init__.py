"""Two-dimensional linear recurrence with source, transition and mark gates (pLSTM), along one or four directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from visionssm.kernels.autocast import without_autocast
from visionssm.kernels.backend import reference_requested
from visionssm.kernels.checks import check_floating, check_same_device, check_shape
from visionssm.kernels.plstm2d.export import plstm2d_by_diagonals
from visionssm.kernels.plstm2d.gates import Gates, propagation_gates
from visionssm.kernels.plstm2d.pairs import pairs_apply, plstm2d_pairs
from visionssm.kernels.plstm2d.parallel import plstm2d_parallel
from visionssm.kernels.plstm2d.reference import BorderStates, plstm2d_reference

__all__ = ["FOUR_DIRECTIONS", "Gates", "plstm2d", "plstm2d_four_directions", "propagation_gates"]

FOUR_DIRECTIONS = ((False, False), (True, False), (False, True), (True, True))
"""Whether a direction runs against x, and against y; in the order of the gates' axis."""

MAX_BLOCK = 64

_OneDirection = Callable[..., tuple[Tensor, BorderStates]]


def plstm2d(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    direct: Tensor | None = None,
    *,
    initial_state: BorderStates | None = None,
    return_final_state: bool = False,
    max_block: int = MAX_BLOCK,
) -> Tensor | tuple[Tensor, BorderStates]:
    """Linear recurrence over a grid, whose states travel along both axes and turn from one to the other.

    With l the state that enters cell (x, y) from (x − 1, y), and u the one from (x, y − 1), two states leave it:

        r = T_rl l + T_ru u + S_r (k vᵀ) to (x + 1, y),   d = T_du u + T_dl l + S_d (k vᵀ) to (x, y + 1)

    and the output is q/√DK · (M_l l + M_u u) + D (q/√DK · k) v: a cell reads its own source only through D
    (Pöppel et al. 2025, pLSTM, arXiv 2506.11997, section 4). x is the row of an image and y its column.

    With scalar gates (all inner sizes 1), as in every published model, and a grid of up to `max_block` cells per side,
    a kernel makes the weights of all pairs of cells and two matrix products do the rest. All else, and float64, runs as
    PyTorch matrix products of logarithmic depth on every device. Both take n² numbers for a block of n cells.

    Args:
        q: (B, X, Y, DK, JQ) queries, any float dtype; fold heads into B.
        k: (B, X, Y, DK, JK) keys.
        v: (B, X, Y, DV, JV) values.
        gates: `Gates` of (B, X, Y, …); see there for the rest of the shapes and `propagation_gates` for the P-mode.
        direct: D, (B, X, Y, JO, JQ, JK, JV), or None.
        initial_state: states that enter the grid along x at every y, (B, Y, DK, DV, JT), and along y at every x,
            (B, X, DK, DV, JT); None for zeros.
        return_final_state: also return the pair of states that leave the grid.
        max_block: side, a power of two, of the largest block that is treated as a whole; it decides on memory and
            speed and not on the result.

    Returns:
        (B, X, Y, DV, JO) in float32 (float64 for float64 inputs), also under autocast: in P-mode, states may grow
        beyond float16's range until the caller normalises them. With `return_final_state`, a pair with the states.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or `max_block` is no power of two.

    Examples:
        >>> import torch, visionssm
        >>> from visionssm.kernels.plstm2d import propagation_gates
        >>> q, k, v = torch.randn(3, 2, 7, 5, 8, 1)  # 2 heads, a grid of 7 × 5 cells, 8 channels
        >>> cells = (2, 7, 5)
        >>> ones = torch.ones(*cells, 1, 1)
        >>> gates = propagation_gates(torch.rand(cells), source=ones[..., None], transition=ones, mark=ones[..., None])
        >>> visionssm.plstm2d(q, k, v, gates).shape
        torch.Size([2, 7, 5, 8, 1])
    """
    _check_inputs(q, k, v, gates, direct, initial_state, max_block, directions=None)
    with without_autocast(q.device.type):
        q, k, v, gates, direct, initial_state = _in_one_precision(q, k, v, gates, direct, initial_state)
        final: BorderStates | None
        if (one_direction := _defined_form(q)) is not None:
            out, final = one_direction(q, k, v, gates, direct, initial_state)
        else:
            one = Gates(*(None if x is None else x.unsqueeze(1) for x in gates))  # type: ignore[arg-type]
            if initial_state is None and not return_final_state and pairs_apply(q, k, v, one, max_block):
                return plstm2d_pairs(q, k, v, one, direct)
            out, final = plstm2d_parallel(
                q,
                k,
                v,
                one,
                direct,
                max_block=max_block,
                initial_state=initial_state,
                return_final_state=return_final_state,
            )
    if not return_final_state:
        return out
    assert final is not None
    return out, final


def plstm2d_four_directions(
    q: Tensor, k: Tensor, v: Tensor, gates: Gates, direct: Tensor | None = None, *, max_block: int = MAX_BLOCK
) -> Tensor:
    """The sum of `plstm2d` along the four diagonal directions of a grid, the direct part counted once.

    Direction 0 is that of `plstm2d`, 1 runs against x, 2 against y, 3 against both. Queries, keys and values are
    shared. Up to grids of `max_block` cells per side, the pairwise weights of the four directions are added before they
    meet the values, so that four directions take hardly more than one.

    Args:
        q, k, v, direct: as of `plstm2d`.
        gates: `Gates` of (B, 4, X, Y, …), not flipped: the gates of a cell are at its place in the map.
        max_block: as of `plstm2d`.

    Returns:
        (B, X, Y, DV, JO) in float32 (float64 for float64 inputs), also under autocast.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or `max_block` is no power of two.

    Examples:
        >>> import torch, visionssm
        >>> from visionssm.kernels.plstm2d import propagation_gates
        >>> q, k, v = torch.randn(3, 2, 7, 5, 8, 1)  # 2 heads, a grid of 7 × 5 cells, 8 channels
        >>> cells = (2, 4, 7, 5)
        >>> ones = torch.ones(*cells, 1, 1)
        >>> gates = propagation_gates(torch.rand(cells), source=ones[..., None], transition=ones, mark=ones[..., None])
        >>> visionssm.plstm2d_four_directions(q, k, v, gates).shape
        torch.Size([2, 7, 5, 8, 1])
    """
    _check_inputs(q, k, v, gates, direct, None, max_block, directions=len(FOUR_DIRECTIONS))
    with without_autocast(q.device.type):
        q, k, v, gates, direct, _ = _in_one_precision(q, k, v, gates, direct, None)
        if (one_direction := _defined_form(q)) is not None:
            return _four_flips(one_direction, q, k, v, gates, direct)
        if pairs_apply(q, k, v, gates, max_block):
            return plstm2d_pairs(q, k, v, gates, direct)
        return plstm2d_parallel(q, k, v, gates, direct, max_block=max_block)[0]


def _defined_form(q: Tensor) -> _OneDirection | None:
    """The definition where it is asked for, its exportable form for a grid of open sides, None for the fast forms."""
    if reference_requested():
        return plstm2d_reference
    if torch.compiler.is_exporting() and any(isinstance(side, torch.SymInt) for side in q.shape[1:3]):
        return plstm2d_by_diagonals
    return None


def _four_flips(
    one_direction: _OneDirection, q: Tensor, k: Tensor, v: Tensor, gates: Gates, direct: Tensor | None
) -> Tensor:
    out = q.new_zeros(())
    for number, flip in enumerate(FOUR_DIRECTIONS):
        axes = [axis for axis, against in zip((1, 2), flip, strict=True) if against]
        flipped = Gates(*(None if x is None else x[:, number].flip(axes) for x in gates))  # type: ignore[arg-type]
        d = direct if number == 0 else None
        one, _ = one_direction(q.flip(axes), k.flip(axes), v.flip(axes), flipped, d, None)
        out = out + one.flip(axes)
    return out


def _in_one_precision(
    q: Tensor, k: Tensor, v: Tensor, gates: Gates, direct: Tensor | None, state: BorderStates | None
) -> tuple[Tensor, Tensor, Tensor, Gates, Tensor | None, BorderStates | None]:
    dtype = torch.promote_types(q.dtype, torch.float32)
    gates = Gates(*(None if x is None else x.to(dtype) for x in gates))  # type: ignore[arg-type]
    state = None if state is None else (state[0].to(dtype), state[1].to(dtype))
    return q.to(dtype), k.to(dtype), v.to(dtype), gates, None if direct is None else direct.to(dtype), state


def _check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    direct: Tensor | None,
    state: BorderStates | None,
    max_block: int,
    directions: int | None,
) -> None:
    named: Mapping[str, Tensor | None] = {
        "q": q,
        "k": k,
        "v": v,
        **{f"gates.{name}": x for name, x in gates._asdict().items()},
        "direct": direct,
        "initial_state[0]": None if state is None else state[0],
        "initial_state[1]": None if state is None else state[1],
    }
    given = {name: x for name, x in named.items() if x is not None}
    check_floating(given)
    check_same_device(given)
    check_shape("q", q, ("B", "X", "Y", "DK", "JQ"))
    sizes = dict(zip(("B", "X", "Y", "DK", "JQ"), q.shape, strict=True))
    check_shape("k", k, ("B", "X", "Y", "DK", "JK"), sizes)
    check_shape("v", v, ("B", "X", "Y", "DV", "JV"), sizes)
    cells: tuple[str, ...] = ("B", "X", "Y")
    if directions is not None:
        cells, sizes = ("B", "directions", "X", "Y"), {**sizes, "directions": directions}
    sizes |= {"JK": k.shape[4], "DV": v.shape[3], "JV": v.shape[4]}
    check_shape("gates.mark_l", gates.mark_l, (*cells, "JO", "JQ", "JT"), sizes)
    sizes |= {"JO": gates.mark_l.shape[-3], "JT": gates.mark_l.shape[-1]}
    inner = {"source": ("JT", "JK", "JV"), "transition": ("JT", "JT"), "mark": ("JO", "JQ", "JT")}
    for name, x in gates._asdict().items():
        if x is not None:
            check_shape(f"gates.{name}", x, (*cells, *inner[name.split("_")[0]]), sizes)
    if direct is not None:
        check_shape("direct", direct, ("B", "X", "Y", "JO", "JQ", "JK", "JV"), sizes)
    if state is not None:
        check_shape("initial_state[0]", state[0], ("B", "Y", "DK", "DV", "JT"), sizes)
        check_shape("initial_state[1]", state[1], ("B", "X", "DK", "DV", "JT"), sizes)
    if max_block < 1 or max_block & (max_block - 1):
        raise ValueError(f"max_block={max_block} is not a power of two; give 1, 2, 4, …, {MAX_BLOCK}, …")
