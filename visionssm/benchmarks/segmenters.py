"""The networks for medical segmentation with what is published of them: the rows of the table in docs/medical.md."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from visionssm.heads.medical import PUBLISHED, create_segmenter

HEADER = ("| network | parameters: ours | the authors' | published scores |", "|---|---|---|---|")


def rows() -> Iterator[str]:
    """The Markdown rows of the published networks; ours are counted, U-Mamba's authors tell no numbers of theirs."""
    for name, published in sorted(PUBLISHED.items()):
        if published.paper is not None:
            with torch.device("meta"):
                ours = sum(p.numel() for p in create_segmenter(name).parameters())
            theirs = "–" if published.parameters is None else f"{published.parameters:,}"
            scores = ", ".join(f"{measure} {score:.2f}" for measure, score in published.scores.items())
            yield f"| `{name}` | {ours:,} | {theirs} | {scores or '–'} |"
