"""Names in the authors' files to ours.

Their network is a list of numbered layers: the backbone's eight, pooling, and the neck with the layers in between that
have no weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from visionssm.backbones._base import StateDict
from visionssm.backbones._keys import Rename, convolutions_to_linear, rename_keys
from visionssm.backbones.mambayolo import BLOCK_RENAMES, N_LAYERS, layer_names_to_ours
from visionssm.checkpoints import CheckpointError

_NECK = {
    8: "neck.pool",
    11: "neck.top_down.0",
    14: "neck.top_down.1",
    15: "neck.downsample.0",
    17: "neck.bottom_up.0",
    18: "neck.downsample.1",
    20: "neck.bottom_up.1",
}
_HEAD: tuple[Rename, ...] = (
    (r"^21\.cv2\.", "head.boxes."),
    (r"^21\.cv3\.", "head.classes."),
    (r"(?<=\.)bn\.", "norm."),
    (r"(?<=\.)ss2d\.", "op."),
    *((rf"^{number}\.", f"{name}.") for number, name in _NECK.items()),
)
_BINS = "21.dfl.conv.weight"
"""Of a layer that is not trained: the distances that the bins stand for."""


def checkpoint_filter_fn(state_dict: StateDict, model: nn.Module) -> StateDict:
    """The authors' keys, with or without "model." before them, to ours.

    Raises:
        CheckpointError: the bins of the distances are others than 0, 1, 2, …
    """
    bare = {name.removeprefix("model."): value for name, value in state_dict.items()}
    bins = bare.pop(_BINS, None)
    if bins is not None:
        _check_bins(bins)
    first = tuple(f"{number}." for number in range(N_LAYERS))
    backbone = layer_names_to_ours({name: value for name, value in bare.items() if name.startswith(first)})
    others = {name: value for name, value in bare.items() if not name.startswith(first)}
    ours = {f"backbone.{name}": value for name, value in backbone.items()}
    return convolutions_to_linear({**ours, **rename_keys(others, [*BLOCK_RENAMES, *_HEAD])}, model)


def _check_bins(bins: Tensor) -> None:
    if not torch.equal(bins.flatten().float(), torch.arange(bins.numel(), dtype=torch.float32)):
        raise CheckpointError(
            f"{_BINS!r} must hold the distances 0, 1, 2, … that the bins stand for, got {bins.flatten().tolist()[:4]}…"
        )
