"""The end of LocalMamba's search (Huang et al. 2024, arXiv 2403.09338, section 3.4): routes from a trained supernet.

Every layer of a supernet scans along all routes, and a softmax of learned numbers weighs them against each other, as in
DARTS (arXiv 1806.09055). A layer keeps the routes of the largest weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visionssm.backbones._localmamba_routes import Directions
from visionssm.backbones.localmamba import LocalSS2D, LocalTokenMixer
from visionssm.files import complete_or_absent


@dataclass(frozen=True)
class RouteShares:
    """What a supernet has learned of its routes.

    Attributes:
        directions: names of the routes of each layer.
        shares: of each layer, the weight of each route after the softmax; they add up to 1.
    """

    directions: Directions
    shares: tuple[tuple[float, ...], ...]

    def chosen(self, count: int = 4) -> Directions:
        """The routes of the largest weights of each layer, in the order of its list; of equal ones the first.

        Args:
            count: routes of a layer; the published models have four.
        Raises:
            ValueError: a layer has fewer routes.
        """
        fewest = min(map(len, self.directions))
        if not 1 <= count <= fewest:
            raise ValueError(f"count={count} must be from 1 to {fewest}, the routes of the supernet's layers")
        chosen = []
        for names, row in zip(self.directions, self.shares, strict=True):
            largest = torch.tensor(row, dtype=torch.float64).argsort(descending=True, stable=True)[:count]
            chosen.append(tuple(names[k] for k in sorted(largest.tolist())))
        return tuple(chosen)

    def rows(self, count: int = 4) -> tuple[list[str], list[list[str]]]:
        """Head and rows of a table: a layer's shares in per cent, and a star at those that are chosen."""
        names = list(dict.fromkeys(name for layer in self.directions for name in layer))
        rows = []
        for i, (kept, layer, row) in enumerate(zip(self.chosen(count), self.directions, self.shares, strict=True)):
            share = dict(zip(layer, row, strict=True))
            cells = [
                f"{100 * share[name]:.1f}{'*' if name in kept else ' '}" if name in share else "" for name in names
            ]
            rows.append([str(i), *cells])
        return ["layer", *names], rows

    def save(self, path: str | Path, count: int = 4) -> None:
        """Write `directions`, which the models take as they are, and what they were chosen from, as JSON.

        Raises:
            OSError: the file cannot be written.
        """
        content: Mapping[str, Any] = {
            "directions": self.chosen(count),
            "supernet": {"directions": self.directions, "shares": self.shares},
        }
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def route_shares(model: nn.Module) -> RouteShares:
    """The weights that a LocalVim or LocalVMamba supernet gives the routes of its layers.

    Raises:
        ValueError: it is no supernet (a model made with `weighted=True`), or a weight is not finite.

    Examples:
        >>> import timm
        >>> from visionssm.backbones.localmamba_search import route_shares
        >>> model = timm.create_model("localvim_nano_test", directions=("h", "v", "w2"), weighted=True)
        >>> route_shares(model).chosen(2)  # untrained, all weigh the same
        (('h', 'v'), ('h', 'v'), ('h', 'v'), ('h', 'v'))
    """
    mixers = [module for module in model.modules() if isinstance(module, LocalTokenMixer | LocalSS2D)]
    weights = [mixer.multi_scan.weights for mixer in mixers]
    learned = [x.flatten().double().softmax(0) for x in weights if x is not None]
    if not learned or len(learned) != len(mixers):
        raise ValueError(
            f"{type(model).__name__} is no supernet of LocalMamba: its routes have no weights. Train one with"
            " weighted=True and all routes in `directions`, as localvim_nano_supernet_digits does"
        )
    if not all(bool(x.isfinite().all()) for x in learned):
        raise ValueError("the weights of the supernet's routes are not finite; it was not trained to the end")
    return RouteShares(tuple(mixer.directions for mixer in mixers), tuple(tuple(x.tolist()) for x in learned))
