"""The pose estimators with what is published of them: the rows of the README's table of poses."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from visionssm.benchmarks.flops import count_multiply_adds
from visionssm.heads.pose import VARIANTS, create_pose

HEADER = (
    "| pose estimator | parameters: ours | published | GFLOPs: ours | published | COCO val key-point AP (published) |",
    "|---|---|---|---|---|---|",
)


def rows() -> Iterator[str]:
    """The Markdown rows, whose parameters and multiply-adds are counted."""
    for name, variant in VARIANTS.items():
        if variant.ap is not None:
            with torch.device("meta"):
                model = create_pose(name)
            parameters = sum(p.numel() for p in model.parameters()) / 1e6
            gflops = count_multiply_adds(model, (3, *variant.crop_size)) / 1e9
            published = f"{variant.parameters}M | {gflops:.2f} | {variant.gflops} | {variant.ap}"
            yield f"| `{name}` | {parameters:.2f}M | {published} |"
