"""The two-dimensional recurrence of pLSTM in logarithmic depth, as matrix products.

A block of cells is a linear map: from the states that enter it and the sources inside to the states that leave it and
the outputs inside. Two neighbours compose to the map of both, so log2(Y) rounds of pairs along y and log2(X) along x
give the map of the whole grid (Pöppel et al. 2025, arXiv 2506.11997, section 4; there both axes merge in one round).

The part from sources to outputs, the pairwise gating matrix G, is the only large one, and the only one that is the same
thing for all directions: they differ in which of two neighbours comes first, and their contributions to G add. So
only one G is ever built.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from visionssm.kernels.plstm2d.gates import Gates, with_turns
from visionssm.kernels.plstm2d.reference import BorderStates


class Blocks(NamedTuple):
    """Blocks of cells as maps between their borders and their cells.

    Leading axes are (B, directions, I, J), I and J counting blocks along x and y. The entries of a border are first the
    states along the axis of the merge, `ahead` of them, and then those along the other axis; C = cells of a block in
    row-major order, K = JK·JV and O = JO·JQ.
    """

    leaving: Tensor  # (…, border, border + C·K): the states that leave, from those that enter and from the sources
    reading: Tensor  # (…, C·O, border): the outputs, from the states that enter
    ahead: int


def plstm2d_parallel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    direct: Tensor | None,
    *,
    max_block: int,
    initial_state: BorderStates | None = None,
    return_final_state: bool = False,
) -> tuple[Tensor, BorderStates | None]:
    """The sum over directions of `visionssm.kernels.plstm2d`; the gates have an axis for them, 1 or 4, after the batch.

    Grids of up to `max_block` cells per side are one block. Larger ones are cut into such blocks, between which the
    states themselves are passed: memory then grows with the cells, not with their square. Border states are those of
    a single direction.
    """
    grid, d_key, n_state = (q.shape[1], q.shape[2]), q.shape[3], gates.transition_rl.shape[-1]
    sides = (min(_power_of_two(grid[0]), max_block), min(_power_of_two(grid[1]), max_block))
    kept = (min(grid[0], sides[0]), min(grid[1], sides[1]))  # a block without the cells that fill up a single one
    needs_states = kept != grid or initial_state is not None or return_final_state

    cells, g = _single_cells(gates, direct, sides)
    strips, g = _merged(_by_direction(cells, axis=1), g, block_axis=3, side=sides[1])
    strips, g = [_without_filling(x, kept[1], kept[1], n_state) for x in strips], _corner(g, kept[1], sides[1])
    turned = _turned(_with_directions(strips, axis=1))
    blocks, g = _merged(_by_direction(turned, axis=2), g, block_axis=2, side=sides[0], compose_last=needs_states)
    g = _corner(g, kept[0], sides[0])

    q, k, v = (_in_blocks(x, kept) for x in (q / d_key**0.5, k, v))  # (B, I, J, C, …)
    out = _gated(q, k, v, g)
    if not needs_states:
        return _from_blocks(out, kept, grid), None
    blocks = [_without_filling(x, kept[0], kept[0] * kept[1], n_state) for x in blocks]
    entering = _entering(q, v, initial_state, kept, n_state)
    carried, final_state = _carried_between_blocks(_with_directions(blocks, axis=2), q, k, v, *entering)
    along_x, along_y = (
        x.unflatten(1, (-1, n_state)).unflatten(-1, (d_key, -1)).movedim(2, -1)  # (B, X or Y, DK, DV, JT)
        for x in final_state
    )
    return _from_blocks(out + carried, kept, grid), (along_x[:, : grid[1]], along_y[:, : grid[0]])


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << int(n - 1).bit_length()  # torch.jit.trace has tensors for sizes


def _single_cells(gates: Gates, direct: Tensor | None, sides: tuple[int, int]) -> tuple[Blocks, Tensor]:
    """Blocks of one cell, merged along y next: (B, against y, against x, X, Y, …), and their G, the direct part.

    Cells are added that make the grid whole blocks of `sides`. They write and read nothing, and hand on straight what
    enters them.
    """
    gates = with_turns(gates)
    assert gates.transition_ru is not None
    assert gates.transition_dl is not None
    batch, n_directions, rows, columns = gates.transition_rl.shape[:4]
    n_state = gates.transition_rl.shape[-1]
    missing = (-rows % sides[0], -columns % sides[1])
    filling = [0, 0, 0, 0, 0, missing[1], 0, missing[0]]
    leaving = torch.cat(
        [
            torch.cat([gates.transition_du, gates.transition_dl, gates.source_d.flatten(-2)], dim=-1),
            torch.cat([gates.transition_ru, gates.transition_rl, gates.source_r.flatten(-2)], dim=-1),
        ],
        dim=-2,
    )
    reading = torch.cat([gates.mark_u.flatten(-3, -2), gates.mark_l.flatten(-3, -2)], dim=-1)
    shape = (batch, rows + missing[0], columns + missing[1], reading.shape[-2], leaving.shape[-1] - 2 * n_state)
    if any(missing):
        hand_on = torch.eye(*leaving.shape[-2:], dtype=leaving.dtype, device=leaving.device)
        added = pad(leaving.new_zeros(rows, columns, 1, 1), filling, value=1.0)
        leaving, reading = pad(leaving, filling) + added * hand_on, pad(reading, filling)
    if direct is None:
        g = leaving.new_zeros(shape)
    else:
        g = pad(direct.flatten(5, 6).flatten(3, 4), filling)
    against = (n_directions // 2 or 1,) * 2
    return Blocks(leaving.unflatten(1, against), reading.unflatten(1, against), n_state), g


def _by_direction(blocks: Blocks, axis: int) -> list[Blocks]:
    """One for the directions with the axis of the merge, and one, if there are any, for those against it."""
    pairs = zip(blocks.leaving.unbind(axis), blocks.reading.unbind(axis), strict=True)
    return [Blocks(leaving, reading, blocks.ahead) for leaving, reading in pairs]


def _with_directions(blocks: list[Blocks], axis: int) -> Blocks:
    """The way back."""
    leaving = torch.stack([x.leaving for x in blocks], dim=axis)
    return Blocks(leaving, torch.stack([x.reading for x in blocks], dim=axis), blocks[0].ahead)


def _merged(
    blocks: list[Blocks], g: Tensor, *, block_axis: int, side: int, compose_last: bool = True
) -> tuple[list[Blocks], Tensor]:
    """Neighbours merged in pairs along an axis until blocks are `side` cells long.

    Args:
        blocks: with the axis, and against it.
        g: (B, I, J, C·O, C·K), of all directions together.
        block_axis: number of the axis of I or J among those of blocks.
        side: a power of two.
        compose_last: compose the maps in the last round, too, not only G.
    """
    for length in (1 << i for i in range(1, int(side).bit_length())):
        halves = []
        for against, group in enumerate(blocks):
            leaving, reading = _pairs(group.leaving, block_axis), _pairs(group.reading, block_axis)
            low, high = (Blocks(*maps, group.ahead) for maps in zip(leaving, reading, strict=True))
            halves.append((high, low) if against else (low, high))
        g = _merged_gating(halves, *_pairs(g, block_axis - 1))
        if length < side or compose_last:
            blocks = [_composed(up, down, bool(against)) for against, (up, down) in enumerate(halves)]
    return blocks, g


def _pairs(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    """The blocks of even and those of odd number."""
    return x.unflatten(axis, (-1, 2)).unbind(axis + 1)


def _merged_gating(halves: list[tuple[Blocks, Blocks]], low: Tensor, high: Tensor) -> Tensor:
    """G of pairs: what the sources of a block mean to its own outputs, and to those of the block downstream."""
    to_high, *to_low = (_crossing(up, down) for up, down in halves)
    upper_right = to_low[0] if to_low else torch.zeros_like(to_high)
    return torch.cat([torch.cat([low, upper_right], dim=-1), torch.cat([to_high, high], dim=-1)], dim=-2)


def _crossing(up: Blocks, down: Blocks) -> Tensor:
    """Σ over directions of mark·source: (B, I, J, C·O, C·K)."""
    mark = down.reading[..., : down.ahead].movedim(1, -2).flatten(-2)
    source = up.leaving[..., : up.ahead, up.reading.shape[-1] :].movedim(1, -3).flatten(-3, -2)
    return mark @ source


def _composed(up: Blocks, down: Blocks, against: bool) -> Blocks:
    """The map of two neighbours: what leaves the one ahead enters the other.

    Cells, and states that pass by aside, keep their places in the map, whichever block is first.
    """

    def placed(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return (second, first) if against else (first, second)

    ahead, border = up.ahead, up.reading.shape[-1]
    sizes = [ahead, border - ahead, up.leaving.shape[-1] - border]
    into_second, aside = up.leaving.split(sizes[:2], dim=-2)
    passed = down.leaving[..., :ahead] @ into_second
    read = down.reading[..., :ahead] @ into_second[..., :border]

    def columns(of_first: Tensor, of_second: Tensor | None, n_parts: int) -> Tensor:
        """[ahead, first's aside, second's aside, first's cells, second's cells] of rows, zero if second is None."""
        both, *parts = of_first.split(sizes[:n_parts], dim=-1)
        if of_second is None:
            own = [torch.zeros_like(x) for x in parts]
        else:
            _, *rest = of_second.split(sizes[:n_parts], dim=-1)
            own = list(rest)
        return torch.cat([both, *(x for pair in zip(parts, own, strict=True) for x in placed(*pair))], dim=-1)

    from_second = columns(passed, down.leaving, 3)
    leaving = [from_second[..., :ahead, :], *placed(columns(aside, None, 3), from_second[..., ahead:, :])]
    reading = placed(columns(up.reading, None, 2), columns(read, down.reading, 2))
    return Blocks(torch.cat(leaving, dim=-2), torch.cat(reading, dim=-2), ahead)


def _turned(blocks: Blocks) -> Blocks:
    """The other axis is merged along next."""
    border = blocks.reading.shape[-1]
    sizes = [blocks.ahead, border - blocks.ahead]

    def exchanged(x: Tensor, dim: int) -> Tensor:
        ahead, aside, *cells = x.split([*sizes, x.shape[dim] - border] if x.shape[dim] > border else sizes, dim=dim)
        return torch.cat([aside, ahead, *cells], dim=dim)

    return Blocks(exchanged(exchanged(blocks.leaving, -1), -2), exchanged(blocks.reading, -1), sizes[1])


def _without_filling(blocks: Blocks, length: int, n_cells: int, n_state: int) -> Blocks:
    """Blocks cut to a length along the axis of the merge; a no-op for whole ones."""
    border = blocks.reading.shape[-1]
    kept = blocks.ahead + length * n_state
    if kept == border:
        return blocks
    filled = (border - blocks.ahead) // n_state
    n_outputs, n_sources = blocks.reading.shape[-2], blocks.leaving.shape[-1] - border
    per_length = n_cells // length * filled
    entering, sources = blocks.leaving[..., :kept, :].split([border, n_sources], dim=-1)
    leaving = torch.cat([entering[..., :kept], sources[..., : n_cells * (n_sources // per_length)]], dim=-1)
    return Blocks(leaving, blocks.reading[..., : n_cells * (n_outputs // per_length), :kept], blocks.ahead)


def _corner(g: Tensor, length: int, filled: int) -> Tensor:
    """G of blocks cut from `filled` cells along the slowest axis to `length`."""
    return g[..., : g.shape[-2] // filled * length, : g.shape[-1] // filled * length]


def _gated(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Σ G·(q·k) v within blocks, all (B, I, J, C, …): (B, I, J, C, DV, JO)."""
    n_q, n_k, n_v = q.shape[-1], k.shape[-1], v.shape[-1]
    n_cells = q.shape[3]
    q_rows, k_rows = q.transpose(-2, -1).flatten(3, 4), k.transpose(-2, -1).flatten(3, 4)  # (B, I, J, C·J, DK)
    scores = q_rows @ k_rows.transpose(-2, -1)
    scores = scores.unflatten(4, (n_cells, n_k, 1)).unflatten(3, (n_cells, 1, n_q))
    weights = g.unflatten(4, (n_cells, n_k, n_v)).unflatten(3, (n_cells, -1, n_q)) * scores  # (…, C, JO, JQ, C, JK, JV)
    values = v.transpose(-2, -1)[:, :, :, None, :, None]  # (B, I, J, 1, C, 1, JV, DV)
    values = values.expand(-1, -1, -1, n_q, -1, n_k, -1, -1).flatten(3, 6)
    out = weights.flatten(5).flatten(3, 4) @ values  # (B, I, J, C·JO, DV)
    return out.unflatten(3, (n_cells, -1)).transpose(-2, -1)


def _entering(
    q: Tensor, v: Tensor, given: BorderStates | None, sides: tuple[int, int], n_state: int
) -> tuple[list[Tensor], list[Tensor]]:
    """States that enter the first blocks along x, for every column of blocks, and along y, for every row of blocks."""
    entering = []
    for number, (n_blocks, side) in enumerate(((q.shape[2], sides[1]), (q.shape[1], sides[0]))):
        if given is None:
            states = q.new_zeros(q.shape[0], n_blocks * side * n_state, q.shape[-2] * v.shape[-2])
        else:
            states = pad(given[number], [0, 0] * 3 + [0, n_blocks * side - given[number].shape[1]])
            states = states.movedim(-1, 2).flatten(-2).flatten(1, 2)
        entering.append(list(states.split(side * n_state, dim=1)))
    return entering[0], entering[1]


def _carried_between_blocks(
    blocks: Blocks, q: Tensor, k: Tensor, v: Tensor, along_x: list[Tensor], along_y: list[Tensor]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What the states that enter blocks mean to their outputs, and the states that leave the grid.

    Args:
        blocks: (B, against y, against x, I, J, …), with the states along x first.
        q, k, v: (B, I, J, C, …).
        along_x, along_y: (B, border, DK·DV) states that enter the grid, by J and by I.

    Returns:
        (B, I, J, C, DV, JO), and the states that leave along x and along y, (B, border, DK·DV), of the last direction.
    """
    n_rows, n_columns = q.shape[1:3]
    places = [(i, j) for i in range(n_rows) for j in range(n_columns)]
    written = {
        (i, j): torch.einsum("ncdk,ncvl->nckldv", k[:, i, j], v[:, i, j]).flatten(1, 3).flatten(2) for i, j in places
    }
    out = dict.fromkeys(places, q.new_zeros(()))
    for against_y in range(blocks.leaving.shape[1]):
        for against_x in range(blocks.leaving.shape[2]):
            ahead, aside = list(along_x), list(along_y)
            for i in _ordered(n_rows, against_x):
                for j in _ordered(n_columns, against_y):
                    leaving, reading = (x[:, against_y, against_x, i, j] for x in blocks[:2])
                    states = torch.cat([ahead[j], aside[i]], dim=1)
                    seen = (
                        (reading @ states).unflatten(1, (q.shape[3], -1, q.shape[-1])).unflatten(-1, (q.shape[-2], -1))
                    )
                    out[i, j] = out[i, j] + torch.einsum("ncdq,ncoqdv->ncvo", q[:, i, j], seen)
                    states = leaving @ torch.cat([states, written[i, j]], dim=1)
                    ahead[j], aside[i] = states.split([blocks.ahead, states.shape[1] - blocks.ahead], dim=1)
    outputs = torch.stack([out[place] for place in places], dim=1).unflatten(1, (n_rows, n_columns))
    return outputs, (torch.cat(ahead, dim=1), torch.cat(aside, dim=1))


def _ordered(n: int, against: int) -> Iterable[int]:
    return range(n - 1, -1, -1) if against else range(n)


def _in_blocks(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """(B, X, Y, …) to (B, I, J, C, …)."""
    x = pad(x, [0, 0] * (x.ndim - 3) + [0, -x.shape[2] % sides[1], 0, -x.shape[1] % sides[0]])
    return x.unflatten(2, (-1, sides[1])).unflatten(1, (-1, sides[0])).transpose(2, 3).flatten(3, 4)


def _from_blocks(x: Tensor, sides: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The way back."""
    return x.unflatten(3, sides).transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]]
