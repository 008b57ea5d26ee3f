"""One count of floating-point operations for every model: PyTorch's counter, and formulas for what it does not know.

It agrees with what the authors publish to 3 %, but for five families:

- VSSD's figures are what a counter gives that takes the products with the state for those of one head, because the
  input and output vectors are broadcast over the heads, and that counts the norms: so for all four sizes.
- GroupMamba's, whose counter is not known, agree to 1 % if depth-wise convolutions and scans with their projections to
  steps, input and output vectors are left out (4 % more with them).
- MambaVision's, of 1 to 5 % less, leave out the two products of attention (queries with keys, weights with values).
- LocalVim's are 1.5 and 4.8 for its two widths, where ours are 2.13 and 6.30. Without the scans ours are smaller, both
  by 0.24; the authors' counter is not known. (LocalVMamba's agree.)
- pLSTM's are 11, 7 and 4 % larger than ours for its three sizes. The difference is the same number per head and layer
  whatever the width, so it lies in the weights of the pairs of cells: the authors' code makes them by matrix products
  of blocks, our operator by the recurrence itself, which takes less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import visionssm.backbones  # noqa: F401  registers the models and the operators

Shape = Sequence[int]

STATE_OPERATIONS = 9  # per state and step: the published convention of vision state-space models
CORNERS = 4  # of a bilinear sample, one multiply-add each


def scan_multiply_adds(
    u: Shape, dt: Shape, dt_weight: Shape | None, a: Shape, b: Shape, c: Shape, d: Shape | None, order: Shape
) -> int:
    """Operations of one selective scan, from the shapes of `visionssm.kernels.selective_scan`'s arguments.

    9·B·L·D·N per route, and B·L·D for the skip, with L the steps of a route (VMamba, arXiv 2401.10166, and its
    successors count so); the expansion of low-rank steps is a matrix product and counts B·L·K·R·D.
    """
    batch, (n_routes, route_channels, d_state) = u[0], a
    steps = batch * n_routes * order[1] * order[2] * route_channels  # B·K·L·D
    expansion = 0 if dt_weight is None else batch * u[1] * n_routes * dt[-1] * route_channels
    return STATE_OPERATIONS * steps * d_state + (0 if d is None else steps) + expansion


def _scan_flops(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
    u, dt, dt_weight, a, b, c, d, _dt_bias, order = shapes[:9]
    return 2 * scan_multiply_adds(u, dt, dt_weight, a, b, c, d, order)  # the counter's unit is half a multiply-add


def pairs_multiply_adds(gates: Shape, n_turns: int) -> int:
    """Operations of the weights of all pairs of cells in `visionssm.kernels.plstm2d`.

    From a source, a direction's two states walk the cells of one quadrant: a transition each, one for every turn that
    the mode has, and the two marks with which a cell reads them.

    Args:
        gates: (B, K, X, Y, …), a gate of K directions.
        n_turns: gates of turns, 0 to 2.
    """
    batch, directions, rows, columns = gates[:4]
    pairs = rows * (rows + 1) // 2 * (columns * (columns + 1) // 2)
    return (2 + n_turns + 2) * batch * directions * pairs


def _pairs_flops(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
    turns = [shape for shape in shapes[6:8] if shape is not None]
    return 2 * pairs_multiply_adds(shapes[0], len(turns))


def _sample_flops(maps: Any, grid: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * CORNERS * math.prod(out_shape)


def _deformable_flops(value: Any, offset: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * CORNERS * offset[-2] * math.prod(value)  # what `grid_sampler_2d` counts of all points' samples


FORMULAS: dict[Any, Any] = {
    torch.ops.visionssm.selective_scan: _scan_flops,
    torch.ops.visionssm.plstm2d_pairs: _pairs_flops,
    torch.ops.visionssm.deformable_sum: _deformable_flops,
    torch.ops.aten.grid_sampler_2d: _sample_flops,
}


def count_multiply_adds(model: nn.Module, input_size: tuple[int, ...], *, device: str = "meta") -> int:
    """Multiply-adds of a forward pass over one image or clip, as published "FLOPs" are counted.

    Convolutions, matrix products, attention, scans and bilinear samples count; norms, activations and sums do not, for
    any model.

    Args:
        model: a model on `device`; on the meta device nothing is computed.
        input_size: (C, H, W), or (C, T, H, W).
        device: where the model is.
    """
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:  # the counter hooks backward passes, which stumbles over a parameter given to a module
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), counter:
            model.eval()(torch.empty(1, *input_size, device=device))
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return counter.get_total_flops() // 2


def create_for_size(name: str, size: int, *, device: str = "cpu") -> nn.Module:
    """A registered or timm model, untrained, in evaluation mode, that takes size × size images.

    Raises:
        ValueError: there is no such model.
    """
    if not timm.is_model(name):
        raise ValueError(f"there is no model {name!r}; see visionssm.list_models() and timm.list_models()")
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    fixed = config is not None and config.fixed_input_size
    options: dict[str, Any] = {"img_size": size} if fixed else {}
    with torch.device(device):
        return timm.create_model(name, **options).eval()


def multiply_adds_of(name: str, size: int) -> tuple[int, int]:
    """Multiply-adds for one size × size image, and parameters, of a model that is never given memory."""
    model = create_for_size(name, size, device="meta")
    channels = int(model.default_cfg["input_size"][0])  # type: ignore[index,arg-type]
    parameters = sum(p.numel() for p in model.parameters())
    return count_multiply_adds(model, (channels, size, size)), parameters
