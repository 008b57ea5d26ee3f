"""Compiled backward pass of the selective scan.

A task is a group of images and a range of channels. Chunks of a sequence are visited from the last to the first,
sixteen channels and four states at a time: decays and decayed states are computed again from the state saved before the
chunk, then its steps are walked backwards. Meanwhile all that belongs to these states alone stays in registers, what
states share is read once for four, and the sums over channels of four vectors begin as one vector.

Sums over channels (b, c, low-rank dt) are kept for each range of channels, sums over images (a, weight, skip, bias) for
each group of images; the caller adds them up.

Names are those of `cpu_forward`; `g…` is the gradient of the loss with respect to …. With h_t = w_t + Δ_t u_t b_t and
w_t = e_t h_{t−1}, e_t = exp(Δ_t a), and gh_t = e_{t+1} gh_{t+1} + gy_t c_t:
    gc = Σ_d gy h,  gb = Σ_d gh Δ u,  ga = Σ_t gh w Δ,  gu = Δ Σ_n gh b + skip gy,  gΔ = Σ_n gh w a + u Σ_n gh b.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, add, clear, copy, gather_transposed, scatter_transposed
from visionssm.kernels.cpu.half import item_size, narrow
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import (
    LANES,
    LN_2,
    LOG2_E,
    exp2,
    inlined,
    integer,
    load,
    load_spread,
    multiply_add,
    put,
    scalar,
    sigmoid,
    softplus,
    spread,
    store,
    take_ticket,
    total,
)
from visionssm.kernels.cpu.sums import add_four, sums_by_four
from visionssm.kernels.selective_scan.cpu_forward import CHUNK, QUAD, step_inputs, widen_vectors, widened

FOUR = 4  # states, or ranks, that share a read of what all of them need

# mypy: disable-error-code="no-untyped-def"


def backward_memory(
    tile: int, d_state: int, rank: int, n_images: int, groups: int, n_pixels: int, sums_apart: int
) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    longest_row = max(tile, d_state, rank)
    largest_group = (n_images + groups - 1) // groups
    of_block = CHUNK * LANES
    sums = (d_state // FOUR + d_state % FOUR) * of_block
    return {
        "zeros": longest_row,
        "unread": longest_row,
        "sums_b": sums,
        "sums_c": sums,
        "a_tile": d_state * tile,
        "h": d_state * tile,
        "gh": d_state * tile,
        "ga_tile": d_state * tile,
        "w_tile": rank * tile,
        "gw_tile": rank * tile,
        "bias_tile": tile,
        "gbias_tile": tile,
        "skip_tile": tile,
        "gskip_tile": tile,
        "delta": of_block,
        "drive": of_block,
        "gy_block": of_block,
        "gdrive": of_block,
        "gdecay": of_block,
        "decays": FOUR * of_block,
        "decayed": FOUR * of_block,
        "slope": CHUNK * tile,
        "u_copy": CHUNK * tile,
        "dt_copy": CHUNK * tile,
        "gy_copy": CHUNK * tile,
        "vectors": CHUNK * (rank + 2 * d_state),
        "gu_sums": largest_group * n_pixels * tile if sums_apart else 0,
    }


@kernel_with(backward_memory, unset=["gu_sums"])
def scan_backward(
    tasks, counter,
    zeros, unread, sums_b, sums_c, a_tile, h, gh, ga_tile, w_tile, gw_tile, bias_tile, gbias_tile, skip_tile,
    gskip_tile, delta, drive, gy_block, gdrive, gdecay, decays, decayed, slope, u_copy, dt_copy, gy_copy, vectors,
    gu_sums,
    tile, map_kind, vector_kind, sums_apart,
    n_images, groups, range_size,
    n_pixels, n_routes, n_sequences, n_steps, n_channels, d_state, rank, order,
    u, u_batch, u_pixel, u_route,
    dt, dt_batch, dt_pixel, dt_route,
    b, b_batch, b_pixel, b_route,
    c, c_batch, c_pixel, c_route,
    gy, gy_batch, gy_pixel, gy_route,
    gu, gu_batch, gu_pixel, gu_route,
    weight, a, skip, bias, initial, states, gfinal,
    gdt, gb, gc, ga, gweight, gskip, gbias, ginitial,
):  # fmt: skip
    """Take tasks from `counter` until none is left.

    gdt is (B, L, K, Dk), or (ranges, B, L, K, R) for low-rank steps; gb and gc are (ranges, B, L, K, N); ga, gweight,
    gskip and gbias are (groups, K, …, Dk). Nothing needs to be zeroed by the caller. `slope` is dΔ/dx, then gx, of
    Δ = softplus(x).
    """
    block_floats, of_block = d_state * tile, CHUNK * LANES
    fours = d_state // FOUR * FOUR  # states that go four at a time
    map_item, vector_item = item_size(map_kind), item_size(vector_kind)
    # Addresses of a step's u, dt, b, c, gy, gu, gdt, gb, gc.
    rows = np.empty((9, CHUNK), np.int64)
    n_chunks = (n_steps + CHUNK - 1) // CHUNK
    n_saved = n_steps // CHUNK
    ranges = (n_channels + range_size - 1) // range_size

    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        group, part = task // ranges, task % ranges
        first_image, last_image = group * n_images // groups, (group + 1) * n_images // groups
        range_end = min((part + 1) * range_size, n_channels)
        for image in range(first_image, last_image):
            visited = n_pixels * n_routes
            place = (part * n_images + image) * visited
            clear(gb + place * d_state * FLOAT, visited * d_state)
            clear(gc + place * d_state * FLOAT, visited * d_state)
            clear(gdt + place * rank * FLOAT, visited * rank)
            if rank == 0:
                for place in range(image * visited, (image + 1) * visited):
                    start = place * n_channels + part * range_size
                    clear(gdt + start * FLOAT, range_end - part * range_size)
        for first in range(part * range_size, range_end, tile):
            count = min(tile, range_end - first)
            width = (count + LANES - 1) // LANES * LANES
            ragged = count != width
            group_pixels = (last_image - first_image) * n_pixels
            for k in range(n_routes):
                if sums_apart != 0 and (k == 0 or gu_route != 0):
                    clear(gu_sums, group_pixels * tile)
                elif k == 0 or gu_route != 0:
                    for place in range(first_image * n_pixels, last_image * n_pixels):
                        image, pixel = place // n_pixels, place % n_pixels
                        clear(gu + (image * gu_batch + pixel * gu_pixel + k * gu_route + first) * FLOAT, count)
                clear(a_tile, block_floats)
                rate = a + (k * n_channels + first) * d_state * FLOAT
                gather_transposed(rate, a_tile, count, d_state, tile, np.float32(LOG2_E))
                for r in range(rank):
                    copy(weight + ((k * rank + r) * n_channels + first) * FLOAT, w_tile + r * tile * FLOAT, count)
                if bias != 0:
                    copy(bias + (k * n_channels + first) * FLOAT, bias_tile, count)
                if skip != 0:
                    copy(skip + (k * n_channels + first) * FLOAT, skip_tile, count)
                clear(ga_tile, block_floats)
                clear(gw_tile, rank * tile)
                clear(gbias_tile, tile)
                clear(gskip_tile, tile)
                for image_sequence in range((last_image - first_image) * n_sequences):
                    image = first_image + image_sequence // n_sequences
                    s = image_sequence % n_sequences
                    sequence = (image * n_routes + k) * n_sequences + s
                    edge = (sequence * n_channels + first) * d_state * FLOAT
                    clear(gh, block_floats)
                    if gfinal != 0:
                        gather_transposed(gfinal + edge, gh, count, d_state, tile, np.float32(1))
                    for chunk in range(n_chunks - 1, -1, -1):
                        clear(h, block_floats)
                        if chunk > 0:
                            for n in range(d_state):
                                place = ((sequence * n_saved + chunk - 1) * d_state + n) * n_channels + first
                                copy(states + place * FLOAT, h + n * tile * FLOAT, count)
                        elif initial != 0:
                            gather_transposed(initial + edge, h, count, d_state, tile, np.float32(1))
                        t = chunk * CHUNK
                        steps = min(CHUNK, n_steps - t)
                        visits = order + ((k * n_sequences + s) * n_steps + t) * 4
                        for j in range((steps + QUAD - 1) // QUAD * QUAD):
                            pixel = -1
                            if j < steps:
                                pixel = integer(visits, j)
                            if pixel < 0 or pixel >= n_pixels:  # also where the table has changed since it was checked
                                for row in range(5):
                                    rows[row, j] = zeros
                                for row in range(5, 9):
                                    rows[row, j] = unread
                            else:
                                rows[0, j] = u + (image * u_batch + pixel * u_pixel + k * u_route + first) * map_item
                                rows[1, j] = dt + (image * dt_batch + pixel * dt_pixel + k * dt_route) * vector_item
                                rows[2, j] = b + (image * b_batch + pixel * b_pixel + k * b_route) * vector_item
                                rows[3, j] = c + (image * c_batch + pixel * c_pixel + k * c_route) * vector_item
                                rows[4, j] = (
                                    gy + (image * gy_batch + pixel * gy_pixel + k * gy_route + first) * map_item
                                )
                                place = ((part * n_images + image) * n_pixels + pixel) * n_routes + k
                                rows[7, j] = gb + place * d_state * FLOAT
                                rows[8, j] = gc + place * d_state * FLOAT
                                if rank == 0:
                                    rows[1, j] += first * vector_item
                                    place = (image * n_pixels + pixel) * n_routes + k
                                    rows[6, j] = gdt + (place * n_channels + first) * FLOAT
                                else:
                                    rows[6, j] = gdt + place * rank * FLOAT
                                offset = j * tile * FLOAT
                                if sums_apart != 0:
                                    place = (image - first_image) * n_pixels + pixel
                                    rows[5, j] = gu_sums + place * tile * FLOAT
                                else:
                                    rows[5, j] = (
                                        gu + (image * gu_batch + pixel * gu_pixel + k * gu_route + first) * FLOAT
                                    )
                                if ragged or map_kind != 0:
                                    rows[0, j] = widened(rows[0, j], u_copy + offset, count, map_kind)
                                    rows[4, j] = widened(rows[4, j], gy_copy + offset, count, map_kind)
                                if rank == 0 and (ragged or vector_kind != 0):
                                    rows[1, j] = widened(rows[1, j], dt_copy + offset, count, vector_kind)
                                if vector_kind != 0:
                                    widen_vectors(rows, j, vectors, rank, d_state, vector_kind)
                        clear(sums_b, (fours // FOUR + d_state - fours) * of_block)
                        clear(sums_c, (fours // FOUR + d_state - fours) * of_block)
                        for block in range(0, width, LANES):
                            gx = slope + block * CHUNK * FLOAT
                            _step_sizes(rows, steps, w_tile, rank, bias_tile, tile, block, delta, drive, gx)
                            _start_block(rows, steps, block, gy_block, gdrive, gdecay)
                            for n in range(0, fours, FOUR):
                                sums = n // FOUR * of_block * FLOAT
                                _states_of_four(
                                    rows, steps, n, a_tile, h, tile, block, delta, drive, gy_block, decays, decayed,
                                    sums_c + sums,
                                )  # fmt: skip
                                _gradients_of_four(
                                    rows, steps, n, a_tile, gh, ga_tile, tile, block, delta, drive, gy_block, decays,
                                    decayed, gdrive, gdecay, sums_b + sums,
                                )  # fmt: skip
                            for n in range(fours, d_state):
                                sums = (fours // FOUR + n - fours) * of_block * FLOAT
                                _states_of_one(
                                    rows, steps, n, a_tile, h, tile, block, delta, drive, gy_block, decays, decayed,
                                    sums_c + sums,
                                )  # fmt: skip
                                _gradients_of_one(
                                    rows, steps, n, a_tile, gh, ga_tile, tile, block, delta, drive, gy_block, decays,
                                    decayed, gdrive, gdecay, sums_b + sums,
                                )  # fmt: skip
                            _end_block(
                                rows, steps, block, skip_tile, gskip_tile, gbias_tile, delta, gy_block, gdrive, gdecay,
                                gx,
                            )  # fmt: skip
                        _add_sums(rows, 7, steps, d_state, sums_b)
                        _add_sums(rows, 8, steps, d_state, sums_c)
                        if rank == 0:
                            for block in range(0, count, LANES):
                                for j in range(steps):
                                    gx = slope + (block * CHUNK + j * LANES) * FLOAT
                                    add(gx, rows[6, j] + block * FLOAT, min(LANES, count - block))
                        else:
                            _chunk_low_rank(rows, steps, w_tile, gw_tile, rank, tile, width, slope)
                    scatter_transposed(gh, ginitial + edge, count, d_state, tile)
                place = group * n_routes + k
                for n in range(d_state):
                    target = ga + ((place * d_state + n) * n_channels + first) * FLOAT
                    copy(ga_tile + n * tile * FLOAT, target, count)
                for r in range(rank):
                    target = gweight + ((place * rank + r) * n_channels + first) * FLOAT
                    copy(gw_tile + r * tile * FLOAT, target, count)
                if sums_apart != 0 and (gu_route != 0 or k == n_routes - 1):
                    for row in range(group_pixels):
                        image, pixel = first_image + row // n_pixels, row % n_pixels
                        target = gu + (image * gu_batch + pixel * gu_pixel + k * gu_route + first) * map_item
                        narrow(gu_sums + row * tile * FLOAT, target, count, map_kind)
                copy(gskip_tile, gskip + (place * n_channels + first) * FLOAT, count)
                copy(gbias_tile, gbias + (place * n_channels + first) * FLOAT, count)


@inlined
def _step_sizes(rows, steps, weight, rank, bias, tile, block, delta, drive, slope):
    """Δ, Δ·u and dΔ/dx of sixteen channels."""
    for j in range(0, steps, QUAD):
        x0, x1, x2, x3 = step_inputs(rows, j, weight, rank, bias, tile, block)
        step0, step1, step2, step3 = softplus(x0), softplus(x1), softplus(x2), softplus(x3)
        place = j * LANES
        _store_four(delta, place, LANES, step0, step1, step2, step3)
        store(drive, place, step0 * load(rows[0, j], block))
        store(drive, place + LANES, step1 * load(rows[0, j + 1], block))
        store(drive, place + 2 * LANES, step2 * load(rows[0, j + 2], block))
        store(drive, place + 3 * LANES, step3 * load(rows[0, j + 3], block))
        _store_four(slope, place, LANES, sigmoid(x0), sigmoid(x1), sigmoid(x2), sigmoid(x3))


@inlined
def _start_block(rows, steps, block, gy, gdrive, gdecay):
    """gy of sixteen channels side by side; no gradients of Δ·u and of the exponents yet."""
    zero = spread(np.float32(0))
    for j in range(steps):
        store(gy, j * LANES, load(rows[4, j], block))
        store(gdrive, j * LANES, zero)
        store(gdecay, j * LANES, zero)


@inlined
def _states_of_four(rows, steps, n, a, h, tile, block, delta, drive, gy, decays, decayed, sums_c):
    """Decays e and decayed states w of states n to n+3 of sixteen channels, (steps, 4, 16), and their part of gc."""
    place = n * tile + block
    a0, a1, a2, a3 = _load_four(a, place, tile)
    h0, h1, h2, h3 = _load_four(h, place, tile)
    for j in range(steps):
        at, b = j * LANES, rows[2, j]
        step, du, g = load(delta, at), load(drive, at), load(gy, at)
        e0, e1, e2, e3 = exp2(step * a0), exp2(step * a1), exp2(step * a2), exp2(step * a3)
        w0, w1, w2, w3 = e0 * h0, e1 * h1, e2 * h2, e3 * h3
        h0, h1 = multiply_add(du, load_spread(b, n), w0), multiply_add(du, load_spread(b, n + 1), w1)
        h2, h3 = multiply_add(du, load_spread(b, n + 2), w2), multiply_add(du, load_spread(b, n + 3), w3)
        _store_four(decays, FOUR * at, LANES, e0, e1, e2, e3)
        _store_four(decayed, FOUR * at, LANES, w0, w1, w2, w3)
        store(sums_c, at, load(sums_c, at) + sums_by_four(g * h0, g * h1, g * h2, g * h3))


@inlined
def _store_four(target, place, apart, x0, x1, x2, x3):
    store(target, place, x0)
    store(target, place + apart, x1)
    store(target, place + 2 * apart, x2)
    store(target, place + 3 * apart, x3)


@inlined
def _load_four(source, place, apart):
    return (
        load(source, place),
        load(source, place + apart),
        load(source, place + 2 * apart),
        load(source, place + 3 * apart),
    )


@inlined
def _states_of_one(rows, steps, n, a, h, tile, block, delta, drive, gy, decays, decayed, sums_c):
    """`_states_of_four`, of state n alone, (steps, 16)."""
    rate, state = load(a, n * tile + block), load(h, n * tile + block)
    for j in range(steps):
        at = j * LANES
        decay = exp2(load(delta, at) * rate)
        w = decay * state
        state = multiply_add(load(drive, at), load_spread(rows[2, j], n), w)
        store(decays, at, decay)
        store(decayed, at, w)
        store(sums_c, at, multiply_add(load(gy, at), state, load(sums_c, at)))


@inlined
def _gradients_of_four(
    rows, steps, n, a, gh, ga, tile, block, delta, drive, gy, decays, decayed, gdrive, gdecay, sums_b
):  # fmt: skip
    """Walk a chunk backwards, for states n to n+3 of sixteen channels."""
    place = n * tile + block
    a0, a1, a2, a3 = _load_four(a, place, tile)
    gh0, gh1, gh2, gh3 = _load_four(gh, place, tile)
    ga0, ga1, ga2, ga3 = _load_four(ga, place, tile)
    for j in range(steps - 1, -1, -1):
        at, b, c = j * LANES, rows[2, j], rows[3, j]
        step, du, g = load(delta, at), load(drive, at), load(gy, at)
        sum_b, sum_a = load(gdrive, at), load(gdecay, at)
        e0, e1, e2, e3 = _load_four(decays, FOUR * at, LANES)
        w0, w1, w2, w3 = _load_four(decayed, FOUR * at, LANES)
        g0, sum_b, sum_a, ga0, gh0 = _back(b, c, n, a0, e0, w0, step, g, sum_b, sum_a, ga0, gh0)
        g1, sum_b, sum_a, ga1, gh1 = _back(b, c, n + 1, a1, e1, w1, step, g, sum_b, sum_a, ga1, gh1)
        g2, sum_b, sum_a, ga2, gh2 = _back(b, c, n + 2, a2, e2, w2, step, g, sum_b, sum_a, ga2, gh2)
        g3, sum_b, sum_a, ga3, gh3 = _back(b, c, n + 3, a3, e3, w3, step, g, sum_b, sum_a, ga3, gh3)
        store(gdrive, at, sum_b)
        store(gdecay, at, sum_a)
        store(sums_b, at, load(sums_b, at) + sums_by_four(g0 * du, g1 * du, g2 * du, g3 * du))
    _store_four(gh, place, tile, gh0, gh1, gh2, gh3)
    _store_four(ga, place, tile, ga0, ga1, ga2, ga3)


@inlined
def _back(b, c, n, rate, decay, w, step, gy, sum_b, sum_a, ga, gh):
    """One step of state n backwards: its gradient, the three sums with what it adds to them, and the next `gh`."""
    g = multiply_add(gy, load_spread(c, n), gh)
    gw = g * w
    return (
        g,
        multiply_add(g, load_spread(b, n), sum_b),
        multiply_add(gw, rate, sum_a),
        multiply_add(gw, step, ga),
        g * decay,
    )


@inlined
def _gradients_of_one(
    rows, steps, n, a, gh, ga, tile, block, delta, drive, gy, decays, decayed, gdrive, gdecay, sums_b
):  # fmt: skip
    """`_gradients_of_four`, for state n alone."""
    place = n * tile + block
    rate, next_gh, sum_ga = load(a, place), load(gh, place), load(ga, place)
    for j in range(steps - 1, -1, -1):
        at = j * LANES
        g, sum_b, sum_a, sum_ga, next_gh = _back(
            rows[2, j], rows[3, j], n, rate, load(decays, at), load(decayed, at), load(delta, at), load(gy, at),
            load(gdrive, at), load(gdecay, at), sum_ga, next_gh,
        )  # fmt: skip
        store(gdrive, at, sum_b)
        store(gdecay, at, sum_a)
        store(sums_b, at, multiply_add(g, load(drive, at), load(sums_b, at)))
    store(gh, place, next_gh)
    store(ga, place, sum_ga)


@inlined
def _end_block(rows, steps, block, skip, gskip, gbias, delta, gy, gdrive, gdecay, slope):
    """Gradients of u, skip and bias. Turns `slope` into the gradient of the step sizes before softplus."""
    ln_2, factor = spread(np.float32(LN_2)), load(skip, block)
    sum_skip, sum_bias = load(gskip, block), load(gbias, block)
    for j in range(steps):
        at = j * LANES
        x, g, sum_b = load(rows[0, j], block), load(gy, at), load(gdrive, at)
        gu = multiply_add(load(delta, at), sum_b, load(rows[5, j], block))
        store(rows[5, j], block, multiply_add(g, factor, gu))
        sum_skip = multiply_add(g, x, sum_skip)
        gx = multiply_add(load(gdecay, at), ln_2, sum_b * x) * load(slope, at)
        store(slope, at, gx)
        sum_bias = sum_bias + gx
    store(gskip, block, sum_skip)
    store(gbias, block, sum_bias)


@inlined
def _add_sums(rows, row, steps, d_state, sums):
    """Add the sums over a tile's channels to the rows of gb or gc."""
    fours = d_state // FOUR * FOUR
    for j in range(steps):
        for n in range(0, fours, FOUR):
            add_four(rows[row, j], n, load(sums, (n // FOUR * CHUNK + j) * LANES))
        for n in range(fours, d_state):
            lanes = load(sums, ((fours // FOUR + n - fours) * CHUNK + j) * LANES)
            put(rows[row, j], n, scalar(rows[row, j], n) + total(lanes))


@inlined
def _chunk_low_rank(rows, steps, weight, gweight, rank, tile, width, gx):
    """Gradients of both factors of the low-rank step sizes, from that of their product."""
    zero = spread(np.float32(0))
    for j in range(steps):
        low = gx + j * LANES * FLOAT
        for r in range(0, rank // FOUR * FOUR, FOUR):
            x0 = x1 = x2 = x3 = zero
            for block in range(0, width, LANES):
                g, place = load(low, block * CHUNK), r * tile + block
                x0 = multiply_add(g, load(weight, place), x0)
                x1 = multiply_add(g, load(weight, place + tile), x1)
                x2 = multiply_add(g, load(weight, place + 2 * tile), x2)
                x3 = multiply_add(g, load(weight, place + 3 * tile), x3)
            add_four(rows[6, j], r, sums_by_four(x0, x1, x2, x3))
        for r in range(rank // FOUR * FOUR, rank):
            x0 = zero
            for block in range(0, width, LANES):
                x0 = multiply_add(load(low, block * CHUNK), load(weight, r * tile + block), x0)
            put(rows[6, j], r, scalar(rows[6, j], r) + total(x0))
    for block in range(0, width, LANES):
        of_block = gx + block * CHUNK * FLOAT
        for r in range(0, rank // FOUR * FOUR, FOUR):
            place = r * tile + block
            x0, x1, x2, x3 = _load_four(gweight, place, tile)
            for j in range(steps):
                g, low = load(of_block, j * LANES), rows[1, j]
                x0 = multiply_add(g, load_spread(low, r), x0)
                x1 = multiply_add(g, load_spread(low, r + 1), x1)
                x2 = multiply_add(g, load_spread(low, r + 2), x2)
                x3 = multiply_add(g, load_spread(low, r + 3), x3)
            _store_four(gweight, place, tile, x0, x1, x2, x3)
        for r in range(rank // FOUR * FOUR, rank):
            x0 = load(gweight, r * tile + block)
            for j in range(steps):
                x0 = multiply_add(load(of_block, j * LANES), load_spread(rows[1, j], r), x0)
            store(gweight, r * tile + block, x0)
