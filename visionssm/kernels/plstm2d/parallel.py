"""The two-dimensional recurrence of pLSTM in logarithmic depth, as matrix products.

A block of cells is a linear map: from the states that enter it and the sources inside to the states that leave it and
the outputs inside. Two neighbours compose to the map of both, so log2(X) rounds of pairs along x and log2(Y) along y
give the map of the whole grid (Pöppel et al. 2025, arXiv 2506.11997, section 4; there both axes merge in one round).

The part from sources to outputs, the pairwise gating matrix G, is the only large one, and the only one that is the same
thing for all four directions: seen in map coordinates their matrices add, so that a single one is ever built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from visionssm.kernels.plstm2d.gates import Gates, with_turns
from visionssm.kernels.plstm2d.reference import BorderStates

Flip = tuple[bool, bool]
"""Whether a direction runs against the x axis, and against the y axis."""


class Blocks(NamedTuple):
    """Blocks of a by b cells, as maps between their borders and cells, in the coordinates of the flow.

    Leading axes are (B, P, I, J): directions, and blocks along x and y. `along_x` borders have b·JT entries, `along_y`
    borders a·JT. K = JK·JV and O = JO·JQ.
    """

    rl: Tensor  # (…, along_x, along_x)
    ru: Tensor  # (…, along_x, along_y)
    du: Tensor  # (…, along_y, along_y)
    dl: Tensor  # (…, along_y, along_x)
    source_r: Tensor  # (…, along_x, a, b, K)
    source_d: Tensor  # (…, along_y, a, b, K)
    mark_l: Tensor  # (…, a, b, O, along_x)
    mark_u: Tensor  # (…, a, b, O, along_y)

    def transposed(self) -> Blocks:
        """The same blocks of the grid with x and y exchanged."""
        rl, ru, du, dl, source_r, source_d, mark_l, mark_u = (x.transpose(2, 3) for x in self)
        sources = (source_d.transpose(-3, -2), source_r.transpose(-3, -2))
        marks = (mark_u.transpose(-4, -3), mark_l.transpose(-4, -3))
        return Blocks(du, dl, rl, ru, *sources, *marks)


def plstm2d_parallel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gates: Gates,
    direct: Tensor | None,
    *,
    flips: Sequence[Flip],
    max_block: int,
    initial_state: BorderStates | None = None,
    return_final_state: bool = False,
) -> tuple[Tensor, BorderStates | None]:
    """The sum over `flips` of `visionssm.kernels.plstm2d`; the gates have an axis for them after the batch.

    Grids of up to `max_block` cells a side are one block. Larger ones are cut into such blocks, between which the
    states themselves are passed: memory then grows with the cells, not with their square. Border states are those of
    a single direction without a flip.
    """
    rows, columns = q.shape[1:3]
    sides = (min(_power_of_two(rows), max_block), min(_power_of_two(columns), max_block))
    q = q / q.shape[3] ** 0.5
    blocks, g = _single_cells(q, gates, direct, flips, sides)
    blocks, g = _merged_along_x(blocks.transposed(), _transposed(g), [(y, x) for x, y in flips], sides[1], columns)
    blocks, g = _merged_along_x(blocks.transposed(), _transposed(g), flips, sides[0], rows)

    kept = (g.shape[3], g.shape[4])  # a block's cells, or those of the grid if it is one block
    out = _from_blocks(_gated(*(_in_blocks(x, kept) for x in (q, k, v)), g))[:, :rows, :columns]
    if g.shape[1:3] == (1, 1) and initial_state is None and not return_final_state:
        return out, None
    along_flow = (
        _in_blocks(_directed(x[:, None].expand(-1, len(flips), *x.shape[1:]), flips, sides), sides, axis=2)
        for x in (q, k, v)
    )
    entering = _entering(q, v, gates, sides, initial_state)
    carried, final_state = _carried_between_blocks(blocks, *along_flow, *entering)
    carried = _from_blocks(carried, axis=2)
    for direction, flip in enumerate(flips):
        out = out + _flip(carried[:, direction], flip)[:, :rows, :columns]
    return out, (final_state[0][:, :columns], final_state[1][:, :rows])


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below n."""
    return 1 << (n - 1).bit_length()


def _single_cells(
    q: Tensor, gates: Gates, direct: Tensor | None, flips: Sequence[Flip], sides: tuple[int, int]
) -> tuple[Blocks, Tensor]:
    """Blocks of one cell, in whole larger blocks of `sides`; and their G, which is the direct part.

    Cells that fill up the last block write and read nothing, and hand on straight what enters them.
    """
    gates = with_turns(gates)
    assert gates.transition_ru is not None
    assert gates.transition_dl is not None
    n_state = gates.transition_rl.shape[-1]
    hole = _directed(q.new_zeros(1, len(flips), *q.shape[1:3], 1, 1), flips, sides, value=1.0)
    hand_on = hole * torch.eye(n_state, dtype=q.dtype, device=q.device)
    rl, ru, du, dl, source_r, source_d, mark_l, mark_u = (
        _directed(x, flips, sides)
        for x in (
            gates.transition_rl,
            gates.transition_ru,
            gates.transition_du,
            gates.transition_dl,
            gates.source_r.flatten(-2)[..., None, None, :],  # (B, P, X, Y, JT, 1, 1, K)
            gates.source_d.flatten(-2)[..., None, None, :],
            gates.mark_l.flatten(-3, -2)[..., None, None, :, :],  # (B, P, X, Y, 1, 1, O, JT)
            gates.mark_u.flatten(-3, -2)[..., None, None, :, :],
        )
    )
    blocks = Blocks(rl + hand_on, ru, du + hand_on, dl, source_r, source_d, mark_l, mark_u)
    shape = (q.shape[0], *rl.shape[2:4], 1, 1, mark_l.shape[-2], 1, 1, source_r.shape[-1])
    g = q.new_zeros(shape) if direct is None else _filled_up(direct, sides).reshape(shape)
    return blocks, g


def _merged_along_x(blocks: Blocks, g: Tensor, flips: Sequence[Flip], side: int, rows: int) -> tuple[Blocks, Tensor]:
    """Pairs of neighbours along x merged until blocks have `side` cells; the only block's G keeps the grid's `rows`."""
    while (merged := 2 * blocks.source_r.shape[-3]) <= side:
        is_last_of_one = merged == side and blocks.rl.shape[2] == 2
        g = _merged_gating(blocks, g, flips, keep=rows if is_last_of_one else merged)
        blocks = _merged_blocks(blocks)
    return blocks, g


def _merged_blocks(blocks: Blocks) -> Blocks:
    """Every block of even number along x with the one that follows it."""
    up, down = (Blocks(*(x[:, :, start::2] for x in blocks)) for start in (0, 1))
    return Blocks(
        rl=down.rl @ up.rl,
        ru=torch.cat([down.rl @ up.ru, down.ru], dim=-1),
        du=_lower_triangle(up.du, down.dl @ up.ru, down.du, -2, -1),
        dl=torch.cat([up.dl, down.dl @ up.rl], dim=-2),
        source_r=torch.cat([_after_source(down.rl, up.source_r), down.source_r], dim=-3),
        source_d=_lower_triangle(up.source_d, _after_source(down.dl, up.source_r), down.source_d, -4, -3),
        mark_l=torch.cat([up.mark_l, _before_mark(down.mark_l, up.rl)], dim=-4),
        mark_u=_lower_triangle(up.mark_u, _before_mark(down.mark_l, up.ru), down.mark_u, -4, -1),
    )


def _lower_triangle(first: Tensor, below: Tensor, second: Tensor, row_axis: int, column_axis: int) -> Tensor:
    """[[first, 0], [below, second]] along two axes."""
    lower = torch.cat([below, second], dim=column_axis)
    padding = [0, 0] * (-column_axis - 1) + [0, second.shape[column_axis]]
    return torch.cat([pad(first, padding), lower], dim=row_axis)


def _after_source(transition: Tensor, source: Tensor) -> Tensor:
    return (transition @ source.flatten(-3)).unflatten(-1, source.shape[-3:])


def _before_mark(mark: Tensor, transition: Tensor) -> Tensor:
    return (mark.flatten(-4, -2) @ transition).unflatten(-2, mark.shape[-4:-1])


def _merged_gating(blocks: Blocks, g: Tensor, flips: Sequence[Flip], keep: int) -> Tensor:
    """G of the pairs: what the sources of either block mean to the outputs of the other, beside their own two.

    Args:
        blocks: before the merge, in the coordinates of the flow.
        g: (B, I, J, a, b, O, a, b, K) in map coordinates, summed over directions.
        flips: of the directions.
        keep: cells along x that the merged G has.
    """
    low, high = g[:, 0::2], g[:, 1::2]
    b_kept, high_kept = g.shape[4], keep - g.shape[3]
    ends: dict[bool, tuple[list[Tensor], list[Tensor]]] = {False: ([], []), True: ([], [])}
    for p, (against_x, against_y) in enumerate(flips):
        marks = _flip_blocks(blocks.mark_l[:, p, 1::2], against_x, against_y, cells=(3, 4))
        sources = _flip_blocks(blocks.source_r[:, p, 0::2], against_x, against_y, cells=(4, 5))
        reader, writer = (g.shape[3], high_kept) if against_x else (high_kept, g.shape[3])
        ends[against_x][0].append(marks[:, :, :, :reader, :b_kept])
        ends[against_x][1].append(sources[:, :, :, :, :writer, :b_kept])
    shape = (*low.shape[:3], high_kept, *g.shape[4:])
    low_to_high = _product(*ends[False]) if ends[False][0] else g.new_zeros(shape)
    shape = (*low.shape[:6], high_kept, *g.shape[7:])
    high_to_low = _product(*ends[True]) if ends[True][0] else g.new_zeros(shape)
    high = high[:, :, :, :high_kept, :, :, :high_kept]
    return torch.cat(
        [torch.cat([low, high_to_low], dim=-3), torch.cat([low_to_high, high], dim=-3)],
        dim=3,
    )


def _product(marks: list[Tensor], sources: list[Tensor]) -> Tensor:
    """Σ over directions of mark·source: (B, I, J, a, b, O, a, b, K)."""
    mark, source = torch.cat(marks, dim=-1), torch.cat(sources, dim=3)
    product = mark.flatten(-4, -2) @ source.flatten(-3)
    return product.unflatten(-1, source.shape[-3:]).unflatten(3, mark.shape[3:6])


def _flip_blocks(x: Tensor, against_x: bool, against_y: bool, cells: tuple[int, int]) -> Tensor:
    """(B, I, J, …) from flow to map coordinates: the blocks and, at the axes `cells`, what is in them."""
    axes = [1, cells[0]] * against_x + [2, cells[1]] * against_y
    return x.flip(axes) if axes else x


def _transposed(g: Tensor) -> Tensor:
    return g.transpose(1, 2).transpose(3, 4).transpose(6, 7)


def _gated(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Σ G·(q·k) v within blocks, all (B, I, J, a, b, …): (B, I, J, a, b, DV, JO)."""
    n_q, n_k, n_v = q.shape[-1], k.shape[-1], v.shape[-1]
    q_rows = q.transpose(-2, -1).flatten(3, 5)  # (B, I, J, a·b·JQ, DK)
    k_rows = k.transpose(-2, -1).flatten(3, 5)  # (B, I, J, a·b·JK, DK)
    scores = (q_rows @ k_rows.transpose(-2, -1)).unflatten(3, (-1, 1, n_q)).unflatten(-1, (-1, n_k, 1))
    gates = g.flatten(6, 7).flatten(3, 4).unflatten(4, (-1, n_q)).unflatten(-1, (n_k, n_v))
    weights = gates * scores  # (B, I, J, a·b, JO, JQ, a·b, JK, JV)
    values = v.flatten(3, 4).movedim(-1, -2)[:, :, :, None, :, None]  # (B, I, J, 1, a·b, 1, JV, DV)
    values = values.expand(-1, -1, -1, n_q, -1, n_k, -1, -1).flatten(3, 6)
    out = weights.flatten(5).flatten(3, 4) @ values  # (B, I, J, a·b·JO, DV)
    return out.unflatten(3, (q.shape[3], q.shape[4], -1)).transpose(-2, -1)


def _entering(
    q: Tensor, v: Tensor, gates: Gates, sides: tuple[int, int], given: BorderStates | None
) -> tuple[list[Tensor], list[Tensor]]:
    """States that enter the first blocks, for every column and every row of blocks: (B, P, border, DK·DV) each."""
    n_state, n_flips = gates.transition_rl.shape[-1], gates.transition_rl.shape[1]
    missing = _missing(q.shape[1:3], sides)
    lists = []
    for number, axis in enumerate((1, 0)):  # the states along x are counted by y, and those along y by x
        if given is None:
            length = q.shape[1 + axis] + missing[axis]
            border = q.new_zeros(q.shape[0], n_flips, length * n_state, q.shape[3] * v.shape[3])
        else:
            grown = pad(given[number], [0, 0] * 3 + [0, missing[axis]])
            border = grown.movedim(-1, 2).flatten(-2).flatten(1, 2).unsqueeze(1)
        lists.append(list(border.split(sides[axis] * n_state, dim=2)))
    return lists[0], lists[1]


def _carried_between_blocks(
    blocks: Blocks, q: Tensor, k: Tensor, v: Tensor, along_x: list[Tensor], along_y: list[Tensor]
) -> tuple[Tensor, BorderStates]:
    """What the states that enter a block mean to its outputs, and the states that leave the grid.

    Args:
        blocks: (B, P, I, J, …) in the coordinates of the flow, as are q, k, v (B, P, I, J, a, b, …).
        along_x, along_y: states that enter, as `_entering` gives them.

    Returns:
        (B, P, I, J, a, b, DV, JO), and the states (B, Y, DK, DV, JT) and (B, X, DK, DV, JT) of the first direction.
    """
    along_x, along_y = list(along_x), list(along_y)
    n_rows, n_columns = blocks.rl.shape[2:4]
    outputs = []
    for i in range(n_rows):
        for j in range(n_columns):
            here = Blocks(*(x[:, :, i, j] for x in blocks))
            left, up = along_x[j], along_y[i]
            seen = here.mark_l.flatten(2, 4) @ left + here.mark_u.flatten(2, 4) @ up
            seen = seen.unflatten(2, (*q.shape[4:6], -1, q.shape[-1])).unflatten(-1, (q.shape[-2], -1))
            outputs.append(torch.einsum("npabdq,npaboqdv->npabvo", q[:, :, i, j], seen))
            written = torch.einsum("npabdk,npabvl->npabkldv", k[:, :, i, j], v[:, :, i, j]).flatten(2, 5).flatten(3)
            along_x[j] = here.rl @ left + here.ru @ up + here.source_r.flatten(3) @ written
            along_y[i] = here.du @ up + here.dl @ left + here.source_d.flatten(3) @ written
    out = torch.stack(outputs, dim=2).unflatten(2, (n_rows, n_columns))
    n_state = blocks.rl.shape[-1] // q.shape[5]
    leaving = (
        torch.cat(border, dim=2)[:, 0].unflatten(1, (-1, n_state)).unflatten(-1, (q.shape[-2], -1)).movedim(2, -1)
        for border in (along_x, along_y)
    )
    return out, (next(leaving), next(leaving))


def _missing(grid: Sequence[int], sides: tuple[int, int]) -> tuple[int, int]:
    """Cells a side that make the grid whole blocks."""
    return -grid[0] % sides[0], -grid[1] % sides[1]


def _filled_up(x: Tensor, sides: tuple[int, int], axis: int = 1, value: float = 0.0) -> Tensor:
    """A grid at `axis` and the next one, made whole blocks."""
    missing = _missing(x.shape[axis : axis + 2], sides)
    return pad(x, [0, 0] * (x.ndim - axis - 2) + [0, missing[1], 0, missing[0]], value=value)


def _directed(x: Tensor, flips: Sequence[Flip], sides: tuple[int, int], value: float = 0.0) -> Tensor:
    """(B, P, X, Y, …) of map to that of flow coordinates, made whole blocks before."""
    filled = _filled_up(x, sides, axis=2, value=value)
    return torch.stack([_flip(filled[:, p], flip) for p, flip in enumerate(flips)], dim=1)


def _flip(x: Tensor, flip: Flip) -> Tensor:
    """(B, X, Y, …) of map to flow coordinates, or back."""
    axes = [axis for axis, against in zip((1, 2), flip, strict=True) if against]
    return x.flip(axes) if axes else x


def _in_blocks(x: Tensor, sides: tuple[int, int], axis: int = 1) -> Tensor:
    """(…, X, Y, …) at `axis` to (…, I, J, a, b, …)."""
    x = _filled_up(x, sides, axis)
    return x.unflatten(axis + 1, (-1, sides[1])).unflatten(axis, (-1, sides[0])).transpose(axis + 1, axis + 2)


def _from_blocks(x: Tensor, axis: int = 1) -> Tensor:
    """The way back."""
    return x.transpose(axis + 1, axis + 2).flatten(axis, axis + 1).flatten(axis + 1, axis + 2)
