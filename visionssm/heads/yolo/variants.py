"""The sizes of Mamba-YOLO by name, with what is published of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visionssm.backbones.mambayolo import VARIANTS as BACKBONES
from visionssm.checkpoints import load_official
from visionssm.heads.yolo.network import MambaYolo


@dataclass(frozen=True)
class Published:
    """What the authors print of a size: on COCO val2017, at 640×640.

    Attributes:
        parameters: in millions, of the table with the results; those of the configuration that is published beside it
            differ (`shipped`).
        operations: 2·multiply-adds in billions, without the scans.
        ap, ap50, ap75: box AP in per cent.
        shipped: parameters and operations as the configuration itself gives them, which is what is built here.
    """

    parameters: float
    operations: float
    ap: float
    ap50: float
    ap75: float
    shipped: tuple[float, float]


PUBLISHED: Mapping[str, Published] = {
    "mambayolo_t": Published(5.8, 13.2, 44.5, 61.2, 48.2, (6.13, 14.3)),
    "mambayolo_b": Published(19.1, 45.4, 49.1, 66.5, 53.5, (21.83, 49.8)),
    "mambayolo_l": Published(57.6, 156.2, 52.1, 69.8, 56.5, (57.63, 156.2)),
}
"""By name. No weights are published."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "mambayolo_t": {**BACKBONES["mambayolo_t"], "neck_depth": 1},
    "mambayolo_b": {**BACKBONES["mambayolo_b"], "neck_depth": 1},
    "mambayolo_l": {**BACKBONES["mambayolo_l"], "neck_depth": 2},
    "mambayolo_nano": {"dims": (16, 24, 32, 48), "depths": (1, 1, 2, 1), "neck_depth": 1},
}


def list_yolos(pattern: str = "*") -> list[str]:
    """Names of the sizes that match a shell pattern, in alphabetical order.

    Examples:
        >>> list_yolos()
        ['mambayolo_b', 'mambayolo_l', 'mambayolo_nano', 'mambayolo_t']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def create_yolo(
    name: str, num_classes: int = 80, *, pretrained: bool | str | Path | None = None, **changes: Any
) -> MambaYolo:
    """A Mamba-YOLO by name, untrained unless a file is given: the authors publish none.

    Args:
        name: one of `list_yolos()`.
        num_classes: K, without a background.
        pretrained: a file to load, in the authors' format or ours, of as many classes; False or None for none.
        changes: arguments of `MambaYolo` in place of the variant's.

    Raises:
        ValueError: there is no such size, or an argument is out of range; (CheckpointError) the file does not fit.

    Examples:
        >>> create_yolo("mambayolo_nano", num_classes=3).num_classes
        3
    """
    if name not in VARIANTS:
        raise ValueError(f"detector {name!r} is unknown; choose one of {', '.join(list_yolos())}")
    if pretrained is True:
        raise ValueError(f"pretrained=True: no weights of {name} are published; give pretrained=FILE, or False")
    model = MambaYolo(num_classes, **{**VARIANTS[name], **changes})
    return load_official(model, pretrained) if pretrained else model
