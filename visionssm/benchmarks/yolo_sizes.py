"""The sizes of Mamba-YOLO with what is published of them: the rows of the README's table of detectors."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from visionssm.heads.yolo import PUBLISHED, create_yolo

HEADER = (
    "| detector | parameters: ours | its published configuration | the published table | GFLOPs of the two "
    "| COCO box AP, AP50, AP75 (published) |",
    "|---|---|---|---|---|---|",
)


def rows() -> Iterator[str]:
    """The Markdown rows, whose parameters are counted."""
    for name, published in PUBLISHED.items():
        with torch.device("meta"):
            ours = sum(p.numel() for p in create_yolo(name).parameters())
        shipped, operations = published.shipped
        cells = (
            f"`{name}`",
            f"{ours / 1e6:.2f}M",
            f"{shipped:.2f}M",
            f"{published.parameters}M",
            f"{operations}, {published.operations}",
            f"{published.ap}, {published.ap50}, {published.ap75}",
        )
        yield f"| {' | '.join(cells)} |"
