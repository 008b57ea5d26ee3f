"""Names in the authors' files that several networks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from visionssm.backbones._keys import Rename, rename_keys
from visionssm.checkpoints import CheckpointError
from visionssm.checkpoints.fitting import check_values, compare


def rename_aliases(state_dict: Mapping[str, Tensor], renames: Sequence[Rename]) -> dict[str, Tensor]:
    """Send every key through the substitutions, where several keys of one tensor may get the same name.

    Raises:
        CheckpointError: tensors of one name have different values.
    """
    out: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        (name,) = rename_keys({key: value}, renames)
        if name in out and not _same(out[name], value):
            raise CheckpointError(
                f"{key!r} is another name of {name!r}, but the file has other values under it: it is damaged or mixed"
            )
        out[name] = value
    return out


def start_from(model: nn.Module, state: Mapping[str, Tensor], kept: frozenset[str], which: str) -> None:
    """Load a classifier's weights into the part of a network that it has in common with it.

    Args:
        state: in the layout of `model`.
        kept: keys of the model that keep their values.
        which: of the files of VMamba's first generation fit, for the message.
    Raises:
        CheckpointError: other keys are missing, or weights do not fit; nothing is loaded then.
    """
    mismatch = compare(state, model).without(kept)
    if mismatch:
        raise CheckpointError(
            f"the encoder cannot start from these weights; nothing was loaded:\n{mismatch}\n"
            f"Give a file of VMamba's first generation {which}."
        )
    check_values(state, model, "the file for the encoder")
    model.load_state_dict(state, strict=False)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
