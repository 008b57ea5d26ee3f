"""Compiled backward pass of the selective scan.

A task is a group of images and a range of channels. Chunks of a sequence are visited from the last to the first: a
chunk's decays and decayed states are computed again from the state saved before it, then its steps are walked
backwards. Sums over channels (b, c, low-rank dt) are kept for each range of channels, sums over images (a, weight,
skip, bias) for each group of images; the caller adds them up.

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
from visionssm.kernels.selective_scan.cpu_forward import CHUNK, QUAD, step_inputs, widen_vectors, widened

# mypy: disable-error-code="no-untyped-def"


def backward_memory(
    tile: int, d_state: int, rank: int, n_images: int, groups: int, n_pixels: int, sums_apart: int
) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    longest_row = max(tile, d_state, rank)
    largest_group = (n_images + groups - 1) // groups
    return {
        "zeros": longest_row,
        "unread": longest_row,
        "sums_b": d_state * LANES,
        "sums_c": d_state * LANES,
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
        "delta": CHUNK * tile,
        "slope": CHUNK * tile,
        "decays": CHUNK * d_state * tile,
        "decayed": CHUNK * d_state * tile,
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
    gskip_tile, delta, slope, decays, decayed, u_copy, dt_copy, gy_copy, vectors, gu_sums,
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
    block_floats = d_state * tile
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
                        _chunk_step_sizes(rows, steps, w_tile, rank, bias_tile, tile, width, delta, slope)
                        _chunk_states(rows, steps, a_tile, h, d_state, tile, width, delta, decays, decayed)
                        _chunk_gradients(
                            rows, steps, a_tile, skip_tile, d_state, tile, width, delta, slope, decays, decayed,
                            gh, ga_tile, gbias_tile, gskip_tile, sums_b, sums_c,
                        )  # fmt: skip
                        if rank == 0:
                            for j in range(steps):
                                add(slope + j * tile * FLOAT, rows[6, j], count)
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
def _chunk_step_sizes(rows, steps, weight, rank, bias, tile, width, delta, slope):
    for block in range(0, width, LANES):
        for j in range(0, steps, QUAD):
            x0, x1, x2, x3 = step_inputs(rows, j, weight, rank, bias, tile, block)
            place = j * tile + block
            store(delta, place, softplus(x0))
            store(delta, place + tile, softplus(x1))
            store(delta, place + 2 * tile, softplus(x2))
            store(delta, place + 3 * tile, softplus(x3))
            store(slope, place, sigmoid(x0))
            store(slope, place + tile, sigmoid(x1))
            store(slope, place + 2 * tile, sigmoid(x2))
            store(slope, place + 3 * tile, sigmoid(x3))


@inlined
def _chunk_states(rows, steps, a, h, d_state, tile, width, delta, decays, decayed):
    """Decays e_t and decayed states w_t of a chunk, (steps, blocks, N, 16)."""
    for block in range(0, width, LANES):
        for j in range(steps):
            step = load(delta, j * tile + block)
            du = step * load(rows[0, j], block)
            b = rows[2, j]
            saved = (j * tile + block) * d_state
            for n in range(d_state):
                place = n * tile + block
                decay = exp2(step * load(a, place))
                w = decay * load(h, place)
                store(decays, saved + n * LANES, decay)
                store(decayed, saved + n * LANES, w)
                store(h, place, multiply_add(du, load_spread(b, n), w))


@inlined
def _chunk_gradients(
    rows, steps, a, skip, d_state, tile, width, delta, slope, decays, decayed, gh, ga, gbias, gskip, sums_b, sums_c
):  # fmt: skip
    """Walk a chunk backwards. Turns `slope` into the gradient of the step sizes before softplus."""
    ln_2, zero = spread(np.float32(LN_2)), np.float32(0)
    for j in range(steps - 1, -1, -1):
        b, c = rows[2, j], rows[3, j]
        clear(sums_b, d_state * LANES)
        clear(sums_c, d_state * LANES)
        for block in range(0, width, LANES):
            x, gy, step = load(rows[0, j], block), load(rows[4, j], block), load(delta, j * tile + block)
            du = step * x
            sum_b, sum_a = spread(zero), spread(zero)
            saved = (j * tile + block) * d_state
            for n in range(d_state):
                place, lane = n * tile + block, n * LANES
                w, bn = load(decayed, saved + lane), load_spread(b, n)
                g = multiply_add(gy, load_spread(c, n), load(gh, place))
                state = multiply_add(du, bn, w)
                store(sums_c, lane, multiply_add(gy, state, load(sums_c, lane)))
                store(sums_b, lane, multiply_add(g, du, load(sums_b, lane)))
                sum_b = multiply_add(g, bn, sum_b)
                gw = g * w
                sum_a = multiply_add(gw, load(a, place), sum_a)
                store(ga, place, multiply_add(gw, step, load(ga, place)))
                store(gh, place, g * load(decays, saved + lane))
            gu = multiply_add(step, sum_b, load(rows[5, j], block))
            store(rows[5, j], block, multiply_add(gy, load(skip, block), gu))
            store(gskip, block, multiply_add(gy, x, load(gskip, block)))
            gx = multiply_add(sum_a, ln_2, sum_b * x) * load(slope, j * tile + block)
            store(slope, j * tile + block, gx)
            store(gbias, block, load(gbias, block) + gx)
        for n in range(d_state):
            put(rows[7, j], n, scalar(rows[7, j], n) + total(load(sums_b, n * LANES)))
            put(rows[8, j], n, scalar(rows[8, j], n) + total(load(sums_c, n * LANES)))


@inlined
def _chunk_low_rank(rows, steps, weight, gweight, rank, tile, width, gx):
    """Gradients of both factors of the low-rank step sizes, from that of their product."""
    for r in range(rank):
        for j in range(steps):
            dot = spread(np.float32(0))
            for block in range(0, width, LANES):
                dot = multiply_add(load(gx, j * tile + block), load(weight, r * tile + block), dot)
            put(rows[6, j], r, scalar(rows[6, j], r) + total(dot))
        for block in range(0, width, LANES):
            sums = load(gweight, r * tile + block)
            for j in range(steps):
                sums = multiply_add(load(gx, j * tile + block), load_spread(rows[1, j], r), sums)
            store(gweight, r * tile + block, sums)
