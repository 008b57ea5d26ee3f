"""The routes of LocalMamba (arXiv 2403.09338): those that its authors found by their search, and the tables of a layer.

`h` goes by rows, `v` by columns, `w2` and `w7` go through windows of that side; `_flip` is the same from its end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from visionssm.kernels import routes

Directions = tuple[tuple[str, ...], ...]

ALL_DIRECTIONS = ("h", "h_flip", "v", "v_flip", "w2", "w2_flip", "w7", "w7_flip")


def _table(text: str) -> Directions:
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


LOCALVIM_TINY = _table("""
    h v_flip w7 w7_flip
    h_flip w2_flip w7 w7_flip
    h h_flip v w7
    h h_flip v v_flip
    h h_flip v v_flip
    h h_flip v v_flip
    h_flip v v_flip w7
    h_flip v v_flip w2_flip
    h h_flip v v_flip
    h h_flip v v_flip
    h v v_flip w2
    h v v_flip w2_flip
    h h_flip v_flip w7
    h_flip v v_flip w2
    h h_flip v v_flip
    h v w2 w2_flip
    v v_flip w2 w7
    h h_flip v w2
    h h_flip w2_flip w7
    v v_flip w2 w2_flip
""")
LOCALVMAMBA_TINY = _table("""
    h h_flip w7 w7_flip
    h_flip v_flip w2 w2_flip
    h_flip v_flip w2_flip w7
    h_flip v v_flip w2
    h h_flip v_flip w2_flip
    h_flip v_flip w2 w2_flip
    h w2_flip w7 w7_flip
    h h_flip v v_flip
    h v_flip w7 w7_flip
    h_flip v w2 w7_flip
    v v_flip w2 w7_flip
    h h_flip v_flip w2_flip
    v_flip w2_flip w7 w7_flip
    h_flip v_flip w2_flip w7_flip
    h_flip v w7 w7_flip
""")
LOCALVMAMBA_SMALL = _table("""
    h v v_flip w7_flip
    h h_flip v w7
    h_flip v v_flip w7
    h_flip v w2_flip w7
    h_flip v w2_flip w7
    h_flip v_flip w2 w7_flip
    h_flip v v_flip w7
    h v v_flip w7
    h v v_flip w7
    h v v_flip w7_flip
    h h_flip v v_flip
    h v v_flip w2
    v v_flip w2_flip w7
    h h_flip v w2
    h_flip v v_flip w7_flip
    h h_flip v v_flip
    h v v_flip w7_flip
    h v v_flip w7_flip
    h h_flip v_flip w7
    h_flip v_flip w2_flip w7
    h_flip v v_flip w7_flip
    v v_flip w7 w7_flip
    h v v_flip w7_flip
    h_flip v v_flip w2
    h v v_flip w2_flip
    h h_flip v w7
    h h_flip w7 w7_flip
    h v_flip w2 w2_flip
    h v_flip w2 w7
    h v v_flip w7_flip
    h_flip v w2_flip w7
    h_flip v_flip w7 w7_flip
    h v w7 w7_flip
""")
NO_SEARCH = ("h", "h_flip", "w2", "w2_flip")  # in every layer


def per_layer(directions: Sequence[str] | Sequence[Sequence[str]], depth: int) -> Directions:
    """The routes of each of `depth` layers.

    Args:
        directions: for each layer the names of its routes, or one list of names for all layers alike. `h` goes by rows,
            `v` by columns, `w7` through windows of 7 by 7 tokens (any side up to 99); `_flip` is the same from its end.
        depth: layers.

    Raises:
        ValueError: there is a name of no route, a layer without routes or with one twice, or another number of layers.
    """
    wanted = f"directions={directions!r} must name the routes of each of {depth} layers, or of one for all"
    if isinstance(directions, str) or not all(isinstance(layer, str | Sequence) for layer in directions):
        raise ValueError(f"{wanted}, in lists")
    names = [layer for layer in directions if isinstance(layer, str)]
    layers = (tuple(names),) * depth if names else tuple(tuple(layer) for layer in directions)
    if len(layers) != depth or not all(layers) or len(names) not in (0, len(directions)):
        raise ValueError(wanted)
    for layer in layers:
        if len(set(layer)) < len(layer):
            raise ValueError(f"directions has a layer with a route twice: {layer!r}; name each once")
    for name in {name for layer in layers for name in layer}:
        if not isinstance(name, str) or not re.fullmatch(r"(h|v|w[1-9]\d?)(_flip)?", name):
            raise ValueError(
                f"directions has {name!r}, which is no route; choose h (by rows), v (by columns), w2, w7, … (through"
                " windows of that side, at most 99), or one of them from its end, as h_flip"
            )
    return layers


def direction(name: str, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """The table (1, 1, T) of a route by its name; see `per_layer`."""
    base = name.removesuffix("_flip")
    if base == "h":
        order = routes.raster(height, width, device=device)
    elif base == "v":
        order = routes.column(height, width, device=device)
    else:
        order = routes.joined_windows(height, width, int(base[1:]), device=device)
    return order if base == name else routes.backwards(order)


def _transposed(height: int, width: int, device: torch.device | str | None) -> Tensor:
    """For each pixel the one whose result the authors put there after a route by columns: (H·W,).

    They take the results in the order of the columns for a map of H rows and transpose it, as if it had W rows. On
    square maps this is the inverse of the route.
    """
    pixel = torch.arange(height * width, device=device)
    step = pixel % height * width + pixel // height
    return step % height * width + step // height


class MapRoutes(NamedTuple):
    """The routes of a layer over a map.

    Attributes:
        order: (K, 1, T) table for the scan.
        misplaced: for each route and pixel where to take the result from, (K·L,), to get what the authors' code gets;
            None for the right results.
    """

    order: Tensor
    misplaced: Tensor | None


class TokenRoutes(NamedTuple):
    """The routes of a layer over tokens that are brought into the order of the steps.

    Attributes:
        reads: the token at each step and route, (T·K,); the number of tokens for zeros.
        order: (K, 1, T), the steps in turn.
        places: for each route and token where its result is among the results of all steps and routes.
        misplaced: as of `MapRoutes`.
    """

    reads: Tensor
    order: Tensor
    places: Tensor
    misplaced: Tensor | None


def _misplaced(
    height: int, width: int, directions: tuple[str, ...], slot: int | None, device: torch.device | str | None
) -> Tensor:
    right = torch.arange(height * width, device=device)
    sources = torch.stack([_transposed(height, width, device) if name[0] == "v" else right for name in directions])
    if slot is not None:
        sources = _with_class_token(sources[:, None], slot)[:, 0]
    tokens = sources.shape[1]
    return (sources + tokens * torch.arange(len(directions), device=device)[:, None]).flatten()


def _with_class_token(order: Tensor, slot: int) -> Tensor:
    """Numbers of patches to numbers of tokens, with the class token as step and as token number `slot`."""
    order = torch.where(order >= slot, order + 1, order)
    return torch.cat([order[..., :slot], torch.full_like(order[..., :1], slot), order[..., slot:]], dim=-1)


@routes.by_size
def map_routes(
    height: int,
    width: int,
    directions: tuple[str, ...],
    authors_inverse: bool,
    *,
    device: torch.device | str | None = None,
) -> MapRoutes:
    """The routes of a layer of `LocalVMamba`."""
    order = routes.side_by_side([direction(name, height, width, device) for name in directions])
    return MapRoutes(order, _misplaced(height, width, directions, None, device) if authors_inverse else None)


@routes.by_size
def token_routes(
    height: int,
    width: int,
    directions: tuple[str, ...],
    class_token: bool,
    authors_inverse: bool,
    *,
    device: torch.device | str | None = None,
) -> TokenRoutes:
    """The routes of a layer of `LocalVim`."""
    order = routes.side_by_side([direction(name, height, width, device) for name in directions])
    tokens, slot = height * width, None
    if class_token:
        slot = tokens // 2
        order = _with_class_token(order, slot)
        tokens += 1
    n_routes, _, steps = order.shape
    numbers = torch.arange(n_routes, device=device)
    reads = order[:, 0].long()
    return TokenRoutes(
        torch.where(reads < 0, tokens, reads).T.flatten(),
        routes.raster(1, steps, device=device).expand(n_routes, 1, steps).contiguous(),
        (routes.visits(order, tokens)[:, 0] * n_routes + numbers[:, None]).flatten(),
        _misplaced(height, width, directions, slot, device) if authors_inverse else None,
    )
