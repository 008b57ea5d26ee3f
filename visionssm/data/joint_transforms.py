"""Random changes of an image together with its boxes, masks or pixel labels: torchvision's transforms v2 by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torchvision.transforms import v2

from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest

KNOWN = {
    name: kind
    for name, kind in vars(v2).items()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not v2.Transform
}


def build_transforms(steps: Sequence[Mapping[str, Any]] | None) -> Callable[..., Any] | None:
    """A pipeline from `[dict(type="RandomHorizontalFlip", p=0.5), …]`; None for none.

    Transforms draw from PyTorch's global generator, so samples are as reproducible as that.

    Raises:
        DatasetError: a name or an argument is unknown.
    """
    if not steps:
        return None
    built = []
    for step in steps:
        arguments = dict(step)
        name = arguments.pop("type", None)
        if name not in KNOWN:
            raise DatasetError(
                f"transforms: type={name!r} is no transform of torchvision.transforms.v2; closest: "
                f"{closest(str(name), KNOWN)}"
            )
        try:
            built.append(KNOWN[name](**arguments))
        except (TypeError, ValueError) as error:
            raise DatasetError(f"transforms: {name} does not take these arguments: {error}") from error
    return v2.Compose(built)
