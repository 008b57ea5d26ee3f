"""Compiled passes of TTT-Linear: one head of one sequence per task, a mini-batch of tokens after the other.

Rows of D channels are made of whole vectors, with zeros behind the last channel. A model is D rows of W and one of b.
With c_i the factor of token i and e_j the rate of token j, and S_j = e_j G_j the scaled gradients of the losses,

    z_i = q_i W + b − c_i Σ_{j ≤ i} (<q_i, k_j> + 1) S_j,   y_i = q_i + LN(z_i)
    W' = W − c_last Σ_j k_j S_jᵀ,   b' = b − c_last Σ_j S_j

Names: `q` is the byte address of tensor q, `q_batch q_step q_head` its strides in elements over batch, steps and heads.
"""

from __future__ import annotations

import numpy as np

from visionssm.kernels.cpu.blocks import FLOAT, clear, copy, padded
from visionssm.kernels.cpu.kernel import kernel_with
from visionssm.kernels.cpu.math import (
    LANES,
    inlined,
    load,
    multiply_add,
    put,
    scalar,
    spread,
    store,
    take_ticket,
    total,
)
from visionssm.kernels.ttt_linear.cpu_rows import (
    add_product,
    add_rows,
    called,
    inner,
    normalise,
    project,
    repeat,
    scale_rows,
    transpose,
)

KEPT = 4  # mini-batches between the models that the backward pass starts from

# mypy: disable-error-code="no-untyped-def"


def forward_memory(width: int, mini_batch: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    row, wide = padded(width), padded(mini_batch)
    rows = mini_batch * row
    return {
        "model": (width + 1) * row,
        **dict.fromkeys(("gamma", "beta", "mask"), row),
        **dict.fromkeys(("q_rows", "k_rows", "target", "z", "steps", "out"), rows),
        "inverse": mini_batch,
        "k_columns": width * wide,
        "seen": mini_batch * wide,
    }


@kernel_with(forward_memory)
def ttt_forward(
    tasks, counter,
    model, gamma, beta, mask, q_rows, k_rows, target, z, steps, out, inverse, k_columns, seen,
    n_steps, n_heads, width, mini_batch,
    q, q_batch, q_step, q_head,
    k, k_batch, k_step, k_head,
    v, v_batch, v_step, v_head,
    eta, scale, weight, bias, norm_weight, norm_bias, eps, y, models,
):  # fmt: skip
    """Take heads from `counter` until none is left.

    eta: (B, L, H); y: (B, L, H, D); models: (B, ceil(mini-batches / KEPT), H, D + 1, D).
    """
    row = padded(width)
    wide = padded(mini_batch)
    fill_mask(mask, width)
    n_kept = ((n_steps + mini_batch - 1) // mini_batch + KEPT - 1) // KEPT
    small = scalar(eps, 0)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, head = task // n_heads, task % n_heads
        q_first = q + (batch * q_batch + head * q_head) * FLOAT
        k_first = k + (batch * k_batch + head * k_head) * FLOAT
        v_first = v + (batch * v_batch + head * v_head) * FLOAT
        load_model(weight, bias, model, head, width, row)
        copy(norm_weight + head * width * FLOAT, gamma, width)
        copy(norm_bias + head * width * FLOAT, beta, width)
        for t in range(0, n_steps, mini_batch):
            count = min(mini_batch, n_steps - t)
            number = t // mini_batch
            if models != 0 and number % KEPT == 0:
                kept = models + ((batch * n_kept + number // KEPT) * n_heads + head) * (width + 1) * width * FLOAT
                for n in range(width + 1):
                    copy(model + n * row * FLOAT, kept + n * width * FLOAT, width)
            rates = eta + ((batch * n_steps + t) * n_heads + head) * FLOAT
            load_rows(q_first + t * q_step * FLOAT, q_step, q_rows, count, width, row)
            load_rows(k_first + t * k_step * FLOAT, k_step, k_rows, count, width, row)
            load_rows(v_first + t * v_step * FLOAT, v_step, target, count, width, row)
            loss_gradients(k_rows, target, model, gamma, beta, mask, small, z, inverse, steps, count, width, row)
            scale_rows(steps, rates, n_heads, np.float32(1), steps, count, row)
            repeat(model + width * row * FLOAT, out, count, row)
            add_product(q_rows, row, 1, model, out, count, width, row)
            transpose(k_rows, k_columns, count, width, row, wide)
            clear(seen, mini_batch * wide)
            add_product(q_rows, row, 1, k_columns, seen, count, width, wide)
            weigh(seen, seen, scale, count, wide)
            add_product(seen, wide, 1, steps, out, count, count, row)
            normalise(out, inverse, mask, small, count, width, row)
            for i in range(count):
                for p in range(0, row, LANES):
                    normed = multiply_add(load(gamma, p), load(out, i * row + p), load(beta, p))
                    store(out, i * row + p, load(q_rows, i * row + p) + normed)
                copy(out + i * row * FLOAT, y + ((batch * n_steps + t + i) * n_heads + head) * width * FLOAT, width)
            learn(k_rows, steps, scalar(scale, count - 1), model, count, width, row)


def backward_memory(width: int, mini_batch: int) -> dict[str, int]:
    """Floats of the blocks in which a thread works."""
    row, wide = padded(width), padded(mini_batch)
    model, rows = (width + 1) * row, mini_batch * row
    return {
        "slots": KEPT * model,
        "flow": model,
        **dict.fromkeys(("gamma", "beta", "mask", "d_gamma", "d_beta", "d_normed"), row),
        **dict.fromkeys(("q_rows", "k_rows", "target", "dy_rows", "normed", "gradients", "steps", "out"), rows),
        **dict.fromkeys(("d_q", "d_k", "d_out", "d_steps"), rows),
        **dict.fromkeys(("inverse", "inverse_out", "d_scale"), mini_batch),
        "columns": width * wide,
        "turned": width * row,
        **dict.fromkeys(("scores", "seen", "d_scores"), mini_batch * wide),
    }


@kernel_with(backward_memory)
def ttt_backward(
    tasks, counter,
    slots, flow, gamma, beta, mask, d_gamma, d_beta, d_normed,
    q_rows, k_rows, target, dy_rows, normed, gradients, steps, out, d_q, d_k, d_out, d_steps,
    inverse, inverse_out, d_scale, columns, turned, scores, seen, d_scores,
    n_steps, n_heads, width, mini_batch,
    q, q_batch, q_step, q_head,
    k, k_batch, k_step, k_head,
    v, v_batch, v_step, v_head,
    g_y, g_y_batch, g_y_step, g_y_head,
    eta, scale, norm_weight, norm_bias, eps, models,
    grad_q, grad_k, grad_v, grad_eta, grad_scale, grad_model, grad_norm_weight, grad_norm_bias,
):  # fmt: skip
    """Walk the mini-batches of a head from the last to the first; models are made again from those that were kept.

    grad_q, grad_k, grad_v: (B, L, H, D); grad_eta: (B, L, H); grad_scale: (B, H, T); grad_model: (B, H, D + 1, D);
    grad_norm_weight, grad_norm_bias: (B, H, D), a part of every head and sequence.

    Blocks: `slots` are the models of neighbouring mini-batches, `flow` the gradient that reaches the next model.
    """
    row = padded(width)
    wide = padded(mini_batch)
    size = (width + 1) * row * FLOAT
    fill_mask(mask, width)
    n_batches = (n_steps + mini_batch - 1) // mini_batch
    n_kept = (n_batches + KEPT - 1) // KEPT
    small = scalar(eps, 0)
    one = np.float32(1)
    while True:
        task = take_ticket(counter)
        if task >= tasks:
            break
        batch, head = task // n_heads, task % n_heads
        q_first = q + (batch * q_batch + head * q_head) * FLOAT
        k_first = k + (batch * k_batch + head * k_head) * FLOAT
        v_first = v + (batch * v_batch + head * v_head) * FLOAT
        g_y_first = g_y + (batch * g_y_batch + head * g_y_head) * FLOAT
        copy(norm_weight + head * width * FLOAT, gamma, width)
        copy(norm_bias + head * width * FLOAT, beta, width)
        clear(flow, (width + 1) * row)
        clear(d_gamma, row)
        clear(d_beta, row)
        clear(d_scale, mini_batch)
        for behind in range(n_batches):
            number = n_batches - 1 - behind
            t = number * mini_batch
            count = min(mini_batch, n_steps - t)
            slot = number % KEPT
            if behind == 0 or slot == KEPT - 1:  # the models of these mini-batches again, up to this one's
                kept = models + ((batch * n_kept + number // KEPT) * n_heads + head) * (width + 1) * width * FLOAT
                for n in range(width + 1):
                    copy(kept + n * width * FLOAT, slots + n * row * FLOAT, width)
                for i in range(slot):
                    before, first = slots + i * size, t - (slot - i) * mini_batch
                    rates = eta + ((batch * n_steps + first) * n_heads + head) * FLOAT
                    load_rows(k_first + first * k_step * FLOAT, k_step, k_rows, mini_batch, width, row)
                    load_rows(v_first + first * v_step * FLOAT, v_step, target, mini_batch, width, row)
                    loss_gradients(
                        k_rows, target, before, gamma, beta, mask, small,
                        normed, inverse, gradients, mini_batch, width, row,
                    )  # fmt: skip
                    scale_rows(gradients, rates, n_heads, one, steps, mini_batch, row)
                    copy(before, before + size, (width + 1) * row)
                    learn(k_rows, steps, scalar(scale, mini_batch - 1), before + size, mini_batch, width, row)
            model = slots + slot * size
            last = scalar(scale, count - 1)
            rates = eta + ((batch * n_steps + t) * n_heads + head) * FLOAT
            load_rows(q_first + t * q_step * FLOAT, q_step, q_rows, count, width, row)
            load_rows(k_first + t * k_step * FLOAT, k_step, k_rows, count, width, row)
            load_rows(v_first + t * v_step * FLOAT, v_step, target, count, width, row)
            load_rows(g_y_first + t * g_y_step * FLOAT, g_y_step, dy_rows, count, width, row)

            # What the forward pass had.
            loss_gradients(
                k_rows, target, model, gamma, beta, mask, small, normed, inverse, gradients, count, width, row
            )
            scale_rows(gradients, rates, n_heads, one, steps, count, row)
            repeat(model + width * row * FLOAT, out, count, row)
            add_product(q_rows, row, 1, model, out, count, width, row)
            transpose(k_rows, columns, count, width, row, wide)
            clear(scores, mini_batch * wide)
            add_product(q_rows, row, 1, columns, scores, count, width, wide)
            weigh(scores, seen, scale, count, wide)
            add_product(seen, wide, 1, steps, out, count, count, row)
            normalise(out, inverse_out, mask, small, count, width, row)

            # Through y_i = q_i + LN(z_i): d_out is the gradient of z.
            for i in range(count):
                place = i * row * FLOAT
                for p in range(0, row, LANES):
                    dy = load(dy_rows + place, p)
                    store(d_gamma, p, multiply_add(dy, load(out + place, p), load(d_gamma, p)))
                    store(d_beta, p, load(d_beta, p) + dy)
                    store(d_normed, p, dy * load(gamma, p))
                project(d_normed, out + place, scalar(inverse_out, i), mask, d_out + place, width, row)
            copy(dy_rows, d_q, count * row)
            transpose(model, turned, width, width, row, row)
            add_product(d_out, row, 1, turned, d_q, count, width, row)

            # Through what the mini-batch has seen of itself.
            transpose(steps, columns, count, width, row, wide)
            clear(d_scores, mini_batch * wide)
            add_product(d_out, row, 1, columns, d_scores, count, width, wide)
            weigh_gradients(scores, d_scores, scale, d_scale, count, wide)
            clear(d_steps, count * row)
            add_product(seen, 1, wide, d_out, d_steps, count, count, row)
            add_product(d_scores, wide, 1, k_rows, d_q, count, count, row)
            clear(d_k, count * row)
            add_product(d_scores, 1, wide, q_rows, d_k, count, count, row)

            # Through the next model; `out` is free again.
            repeat(flow + width * row * FLOAT, out, count, row)
            add_product(k_rows, row, 1, flow, out, count, width, row)
            through = np.float32(0)
            for i in range(count):
                place = i * row * FLOAT
                through += inner(steps + place, out + place, row)
                for p in range(0, row, LANES):
                    store(d_steps + place, p, load(d_steps + place, p) - spread(last) * load(out + place, p))
            put(d_scale, count - 1, scalar(d_scale, count - 1) - through)
            for i in range(count):
                put(grad_eta, (batch * n_steps + t + i) * n_heads + head,
                    inner(d_steps + i * row * FLOAT, gradients + i * row * FLOAT, row))  # fmt: skip
            negate_scaled(steps, last, out, count, row)
            transpose(flow, turned, width, width, row, row)
            add_product(out, row, 1, turned, d_k, count, width, row)

            # Through the gradients of the losses; `out` is the gradient of their z, `target` that of the values.
            scale_rows(d_steps, rates, n_heads, one, d_steps, count, row)
            for i in range(count):
                place = i * row * FLOAT
                through_gradient(
                    d_steps + place, gradients + place, normed + place, scalar(inverse, i), target + place,
                    gamma, beta, mask, d_gamma, d_beta, d_normed, out + place, width, row,
                )  # fmt: skip
                for p in range(0, row, LANES):
                    store(d_k + place, p, load(d_k + place, p) - load(target + place, p))
            transpose(model, turned, width, width, row, row)
            add_product(out, row, 1, turned, d_k, count, width, row)

            add_product(q_rows, 1, row, d_out, flow, width, count, row)
            add_product(k_rows, 1, row, out, flow, width, count, row)
            add_rows(d_out, flow + width * row * FLOAT, count, row)
            add_rows(out, flow + width * row * FLOAT, count, row)
            for i in range(count):
                place = ((batch * n_steps + t + i) * n_heads + head) * width * FLOAT
                copy(d_q + i * row * FLOAT, grad_q + place, width)
                copy(d_k + i * row * FLOAT, grad_k + place, width)
                copy(target + i * row * FLOAT, grad_v + place, width)
        for n in range(width + 1):
            copy(flow + n * row * FLOAT, grad_model + (task * (width + 1) + n) * width * FLOAT, width)
        copy(d_gamma, grad_norm_weight + task * width * FLOAT, width)
        copy(d_beta, grad_norm_bias + task * width * FLOAT, width)
        copy(d_scale, grad_scale + task * mini_batch * FLOAT, mini_batch)


@inlined
def fill_mask(mask, width):
    """Ones for the channels that there are; what is behind them stays zero."""
    for p in range(width):
        put(mask, p, np.float32(1))


@inlined
def load_model(weight, bias, model, head, width, row):
    """W and b of a head, before the first token."""
    for n in range(width):
        copy(weight + (head * width + n) * width * FLOAT, model + n * row * FLOAT, width)
    copy(bias + head * width * FLOAT, model + width * row * FLOAT, width)


@inlined
def load_rows(source, step, target, count, width, row):
    """The rows of `count` tokens, `step` floats apart in memory."""
    for i in range(count):
        copy(source + i * step * FLOAT, target + i * row * FLOAT, width)


@called
def loss_gradients(
    k_rows, target, model, gamma, beta, mask, eps, normed, inverse, gradients, count, width, row
):  # fmt: skip
    """Gradients G of |LN(z) − (v − k)|² / 2 in z = k W + b, which `normed` holds normalised.

    `target` is v, and then v − k.
    """
    repeat(model + width * row * FLOAT, normed, count, row)
    add_product(k_rows, row, 1, model, normed, count, width, row)
    normalise(normed, inverse, mask, eps, count, width, row)
    for i in range(count):
        for p in range(0, row, LANES):
            place = i * row + p
            wanted = load(target, place) - load(k_rows, place)
            store(target, place, wanted)
            error = multiply_add(load(gamma, p), load(normed, place), load(beta, p)) - wanted
            store(gradients, place, error * load(gamma, p))
        first = i * row * FLOAT
        project(gradients + first, normed + first, scalar(inverse, i), mask, gradients + first, width, row)


@called
def weigh(scores, seen, scale, count, wide):
    """seen_ij = −c_i (scores_ij + 1) for j ≤ i, else 0."""
    for i in range(count):
        factor = -scalar(scale, i)
        for j in range(count):
            if j <= i:
                put(seen, i * wide + j, factor * (scalar(scores, i * wide + j) + np.float32(1)))
            else:
                put(seen, i * wide + j, np.float32(0))


@called
def weigh_gradients(scores, d_scores, scale, d_scale, count, wide):
    """From <dz_i, S_j> to the gradients of the scores, in their place, and of the factors, which are added."""
    for i in range(count):
        factor, found = scalar(scale, i), np.float32(0)
        for j in range(count):
            place = i * wide + j
            if j <= i:
                met = scalar(d_scores, place)
                found += (scalar(scores, place) + np.float32(1)) * met
                put(d_scores, place, -factor * met)
            else:
                put(d_scores, place, np.float32(0))
        put(d_scale, i, scalar(d_scale, i) - found)


@called
def learn(k_rows, steps, factor, model, count, width, row):
    """W −= factor Σ_j k_j S_jᵀ and b −= factor Σ_j S_j; `steps` becomes −factor S."""
    negate_scaled(steps, factor, steps, count, row)
    add_product(k_rows, 1, row, steps, model, width, count, row)
    add_rows(steps, model + width * row * FLOAT, count, row)


@inlined
def negate_scaled(source, factor, target, count, row):
    """target = −factor·source."""
    for p in range(0, count * row, LANES):
        store(target, p, load(source, p) * spread(-factor))


@called
def through_gradient(
    d_gradient, gradient, normed, inverse, target, gamma, beta, mask, d_gamma, d_beta, scratch, dz, width, row
):  # fmt: skip
    """From the gradient a of one row of G to that of its z, in `dz`, and of its target, in the target's place.

    With x the normalised row, e = gamma x + beta − target, g = gamma e, G = inverse (g − mean(g) − x mean(g x)):
    dg is a projected as g was; dx = gamma² dg − inverse (a mean(g x) + g mean(a x)); d inverse = <a, G> / inverse, and
    inverse itself falls with z by inverse² x / D.
    """
    along_g = spread(np.float32(0))
    for p in range(0, row, LANES):
        error = multiply_add(load(gamma, p), load(normed, p), load(beta, p)) - load(target, p)
        along_g = multiply_add(error * load(gamma, p), load(normed, p), along_g)
    mean_g = total(along_g) / np.float32(width)
    of_inverse = inner(d_gradient, gradient, row) * inverse / np.float32(width)
    mean_a = project(d_gradient, normed, inverse, mask, scratch, width, row)  # scratch: dg
    for p in range(0, row, LANES):
        x, scale = load(normed, p), load(gamma, p)
        error = multiply_add(scale, x, load(beta, p)) - load(target, p)
        dg = load(scratch, p)
        d_error = scale * dg
        store(d_gamma, p, load(d_gamma, p) + dg * error + d_error * x)
        store(d_beta, p, load(d_beta, p) + d_error)
        store(target, p, spread(np.float32(0)) - d_error)
        rest = load(d_gradient, p) * spread(mean_g) + scale * error * spread(mean_a)
        store(scratch, p, scale * d_error - rest * spread(inverse))
    project(scratch, normed, inverse, mask, dz, width, row)
    for p in range(0, row, LANES):
        store(dz, p, load(dz, p) - load(normed, p) * spread(of_inverse))
