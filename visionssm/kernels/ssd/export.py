"""State-space duality in chunks of matrix products, with a loop over the chunks that exporters know (ONNX: `Scan`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan

from visionssm.kernels.ssd.reference import segment_sums


def ssd_in_chunks(
    x: Tensor,
    dt: Tensor,
    log_decay: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """`reference.ssd_reference` a chunk of steps after the other, with the number of chunks left open.

    Inside a chunk the quadratic form, from chunk to chunk the state. Steps that fill the last chunk up add
    nothing and decay nothing.
    """
    compute = torch.promote_types(x.dtype, torch.float32)
    dtype = x.dtype
    x, dt, log_decay, b, c = (tensor.to(compute) for tensor in (x, dt, log_decay, b, c))
    batch, steps, heads, width = x.shape
    groups, d_state = b.shape[2:]
    n_chunks = (steps + chunk_size - 1) // chunk_size
    missing = n_chunks * chunk_size - steps

    def chunks_first(tensor: Tensor) -> Tensor:
        """(B, L, H, ·) to (chunks, B, H, Q, ·)."""
        filled = F.pad(tensor, (0, 0, 0, 0, 0, missing))
        return filled.reshape(batch, n_chunks, chunk_size, *tensor.shape[2:]).permute(1, 0, 3, 2, 4)

    def a_group(tensor: Tensor) -> Tensor:
        """(B, H, …) to (B, G, heads per group, …)."""
        return tensor.unflatten(1, (groups, heads // groups))

    def step(state: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        driven, decays, b_chunk, c_chunk = inputs  # (B, H, Q, P), (B, H, Q, 1), (B, G, Q, N) twice
        decays = decays[..., 0]
        b_chunk, c_chunk = b_chunk[:, :, None], c_chunk[:, :, None]
        mask = segment_sums(decays).exp()  # (B, H, Q, Q)
        scores = (c_chunk @ b_chunk.transpose(-1, -2)) * a_group(mask)
        since_start = a_group(decays.cumsum(-1).exp())[..., None]
        y = scores @ a_group(driven) + since_start * (c_chunk @ a_group(state).transpose(-1, -2))
        to_end = a_group(mask[..., -1, :, None] * driven)
        state = since_start[..., -1:, :] * a_group(state) + to_end.transpose(-1, -2) @ b_chunk
        return state.flatten(1, 2), y.flatten(1, 2)

    if initial_state is None:
        initial_state = x.new_zeros(batch, heads, width, d_state)
    chunks = tuple(chunks_first(t) for t in (dt[..., None] * x, log_decay[..., None], b, c))
    state, y = scan(step, initial_state.to(compute), chunks, dim=0)
    y = y.permute(1, 0, 3, 2, 4).reshape(batch, n_chunks * chunk_size, heads, width)[:, :steps]
    if d is not None:
        y = y + d.to(compute)[:, None] * x
    return y.to(dtype), state
