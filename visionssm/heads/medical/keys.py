"""Names in the authors' files that several networks have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from visionssm.backbones._keys import Rename, rename_keys
from visionssm.checkpoints import CheckpointError


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


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
