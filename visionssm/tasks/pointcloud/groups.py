"""Which voxels of a sweep a detector treats as a group, and where it makes new ones, seen from above."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visionssm.drawing import below, beside, class_colour, with_title
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.partition import DIRECTIONS
from visionssm.pointcloud.voxels import Sites

KEPT, MADE = (148, 163, 184), (220, 38, 38)
_SIDE = 360


@torch.no_grad()
def picture_of_groups(detector: LionDetector, points: np.ndarray) -> Image.Image:
    """A panel for each order with a colour per group of the first layer, and one for the voxels after every stage.

    Args:
        detector: whose grid, windows and weights are taken.
        points: (N, F) of a sweep.
    Raises:
        ValueError: no point is within the detector's range.
    """
    x, sites = detector.vfe([torch.from_numpy(points)])
    if not len(sites):
        raise ValueError(f"no point is within the detector's range {tuple(detector.grid.point_range)}")
    groups = detector.backbone_3d.stages[0].encoder[0].partition.of(sites)  # type: ignore[union-attr,index]
    orders = []
    for direction in DIRECTIONS:
        number = groups.orders[direction].place // groups.size
        colours = np.array([class_colour(group) for group in number.tolist()])
        title = f"{int(number.max()) + 1} groups of {groups.size}, sorted along {direction}"
        orders.append(with_title(_seen_from_above(sites, colours), title))
    stages = []
    for count, (block, generation) in enumerate(
        zip(detector.backbone_3d.stages, detector.backbone_3d.generations, strict=True), start=1
    ):
        x, sites, inverse = generation(block(x, sites), sites)
        made = torch.ones(len(sites), dtype=torch.bool).index_fill_(0, inverse, False)
        title = f"stage {count}: {len(sites)} voxels, {int(made.sum())} made"
        stages.append(with_title(_seen_from_above(sites, _painted(made)), title))
    return below([beside(orders), *(beside(stages[i : i + 2]) for i in range(0, len(stages), 2))])


def _painted(made: Tensor) -> np.ndarray:
    return np.where(made.numpy()[:, None], np.array(MADE), np.array(KEPT))


def _seen_from_above(sites: Sites, colours: np.ndarray) -> Image.Image:
    """Columns of voxels in the colour of their highest one: ahead is up, left is left."""
    _, height, width = sites.shape
    canvas = np.full((width, height, 3), 255, dtype=np.uint8)
    _, z, y, x = sites.coords.numpy().T
    order = np.argsort(z, kind="stable")
    canvas[width - 1 - x[order], height - 1 - y[order]] = colours[order]
    scale = max(1, round(_SIDE / max(width, height)))
    return Image.fromarray(canvas).resize((height * scale, width * scale), Image.Resampling.NEAREST)
