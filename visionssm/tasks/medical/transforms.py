"""Random changes of an image together with its labels: MONAI's dictionary transforms by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest
from visionssm.extras import needs_extra

KEYS = ("image", "label")

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def build_transforms(steps: Sequence[Mapping[str, Any]] | None) -> Change | None:
    """A pipeline from `[dict(type="RandFlipd", prob=0.5, spatial_axis=0), …]`; None for none.

    `keys` is filled in: "image" and "label", for transforms of intensities "image" alone; and so is `mode` where it
    says how both are interpolated: linearly and by the nearest. Both have a channel axis, which labels lose at the end.
    Transforms draw from a seed that PyTorch's global generator gives for every sample.

    Returns:
        a function of an image (C, *sides) and labels (*sides) to these changed.
    Raises:
        DatasetError: a name or an argument is unknown.
        MissingExtraError: (an ImportError) MONAI is not installed.
    """
    if not steps:
        return None
    with needs_extra("medical", "transforms of medical images"):
        from monai import transforms
    known = {
        name: kind
        for name, kind in vars(transforms).items()
        if isinstance(kind, type) and issubclass(kind, transforms.MapTransform) and name.endswith("d")
    }
    built = transforms.Compose([_built(step, known) for step in steps])

    def changed(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        built.set_random_state(seed=int(torch.randint(2**31, ())))
        found: Any = built({"image": image, "label": labels[None]})
        if isinstance(found, list):  # of transforms that cut several patches out
            found = found[0]
        x, y = (torch.as_tensor(found[key]).as_subclass(Tensor) for key in KEYS)
        return x.float().contiguous(), y[0].round().long().contiguous()

    return changed


def _built(step: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    arguments = dict(step)
    name = arguments.pop("type", None)
    if name not in known:
        raise DatasetError(
            f"transforms: type={name!r} is no dictionary transform of MONAI; closest: {closest(str(name), known)}"
        )
    kind = known[name]
    of_intensity = kind.__module__.startswith("monai.transforms.intensity")
    arguments.setdefault("keys", KEYS[:1] if of_intensity else KEYS)
    fields = inspect.signature(kind.__init__).parameters
    if "mode" in fields and kind.__module__.startswith("monai.transforms.spatial"):
        arguments.setdefault("mode", ("bilinear", "nearest")[: len(arguments["keys"])])
    if "label_key" in fields:
        arguments.setdefault("label_key", "label")
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"transforms: {name} does not take these arguments: {error}") from error
