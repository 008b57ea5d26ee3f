"""Detectors of point clouds in the forms that files hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.integrations.export import Exportable, ExportError, description
from visionssm.integrations.export.exportable import relative_difference
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.heads.anchor import AnchorHead, AnchorPredictions
from visionssm.pointcloud.heads.center import CenterHead

USUAL_POINTS = 4096
"""Of the sweep that a file is made with; files take any number of points."""

PROBED = 100
"""Boxes before the worse of two are left out, with which a file is checked."""

_NO_ONNX = (
    "voxels, of which a sweep has as many as it happens to have, have no form in ONNX. Export an archive (--format "
    "pt2), or to ONNX the network on the map seen from above (--part map)"
)
_NO_MAP = "it takes voxels, and there is no network on a map. Export the whole detector as an archive (--format pt2)"
_NO_PLACES = (
    "its queries choose the places of the map that they look at. Export the whole detector as an archive (--format pt2)"
)
_OF_PLACES = (AnchorHead, CenterHead)
"""Heads that say a box at every place of a map."""


class FoundInCloud(nn.Module):
    """(N, F) points to (M, 7) boxes, (M, 9) with velocities, (M,) scores and (M,) classes of what is found, best first.

    Args:
        detector: in evaluation mode.
    """

    def __init__(self, detector: LionDetector) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector)
        head: Any = self.detector.dense_head
        least = torch.tensor(float(head.least_score))
        del head.least_score
        head.register_buffer("least_score", least, persistent=False)  # for the check of a file, which changes it

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        (found,) = self.detector.detections([points])
        return found.boxes, found.scores, found.labels


class SeenFromAbove(nn.Module):
    """(1, C·Z, Y, X) maps of the 3-D backbone's features to the boxes at all places and their scores.

    Args:
        detector: in evaluation mode, with a head of anchors or of centres.
    """

    def __init__(self, detector: LionDetector) -> None:
        super().__init__()
        self.backbone_2d, self.dense_head = detector.backbone_2d, detector.dense_head

    def forward(self, map: Tensor) -> tuple[Tensor, Tensor]:
        """(1, places, 7) boxes and (1, places, K) scores of the classes, before the worse of two are left out."""
        network, head = self.backbone_2d, self.dense_head
        assert network is not None
        assert isinstance(head, _OF_PLACES)
        boxes, scores = head.everywhere(head(network(map)))
        return boxes, scores


def exportable_detector(detector: LionDetector, classes: Sequence[str]) -> Exportable:
    """What `export_archive` takes: points of a sweep, however many, to what is found.

    Args:
        detector: its results are those of evaluation mode.
        classes: class names.
    """
    network = FoundInCloud(detector).eval()
    about = description(
        classes, task="pointcloud", input=f"(N, {detector.point_features}) points, x y z in metres and further numbers"
    )
    with torch.no_grad():
        network(torch.zeros(1, detector.point_features))  # makes the tables that depend on nothing
    return Exportable(
        network,
        outputs=("boxes", "scores", "labels"),
        input="points",
        axes={0: "points"},
        always_open=True,
        refused={"onnx": _NO_ONNX},
        shape=(USUAL_POINTS, detector.point_features),
        difference=_difference,
        probe=lambda points: {"detector.dense_head.least_score": _low_score(network.detector, points)},
        sample=_sampler(detector),
        about=about,
    )


def exportable_map_network(detector: LionDetector, classes: Sequence[str]) -> Exportable:
    """What `export_onnx` takes: the network on the map seen from above, and the head.

    Args:
        detector: its results are those of evaluation mode.
        classes: class names.
    Raises:
        ExportError: the detector has no map, or a head that does not say a box at every place of it.
    """
    head = detector.dense_head
    if detector.backbone_2d is None or not isinstance(head, _OF_PLACES):
        why = _NO_MAP if detector.backbone_2d is None else _NO_PLACES
        raise ExportError(f"the part 'map' has no form for a {type(head).__name__}: {why}")
    depth, height, width = detector.grid.shape
    channels = detector.backbone_3d.dim * detector.backbone_3d.height(depth)
    network = SeenFromAbove(detector).eval()
    example = torch.zeros(1, channels, height, width)
    with torch.no_grad():
        network(example)  # makes the anchors
    about = description(
        classes,
        task="pointcloud",
        input="(1, C·Z, Y, X) features of voxels, channel c·Z + z, 0 where there is no voxel",
    )
    return Exportable(
        network,
        outputs=("boxes", "scores"),
        input="map",
        axes={},
        can_open=False,
        shape=tuple(example.shape),
        about=about,
    )


@torch.no_grad()
def _low_score(detector: LionDetector, points: Tensor) -> float:
    """A threshold under which a network that is not sure of anything still finds boxes, though not at every place."""
    predictions = detector([points])
    if not isinstance(predictions, AnchorPredictions):
        return 0.0
    scores = predictions.scores.sigmoid().flatten().sort(descending=True).values
    return float(scores[min(PROBED, len(scores)) - 1])


def _sampler(detector: LionDetector) -> Callable[..., Tensor]:
    """Makes random points within the detector's range."""
    low, high = (torch.tensor(list(x), dtype=torch.float32) for x in (detector.grid.low, detector.grid.high))

    def sample(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
        points = torch.rand(*shape, generator=generator)
        points[:, :3] = low + (high - low) * points[:, :3]
        return points

    return sample


def _difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of boxes and scores relative to the largest value; other numbers of boxes or other classes are all wrong."""
    if any(x.shape != y.shape for x, y in zip(actual, expected, strict=True)) or not torch.equal(
        actual[2], expected[2]
    ):
        return float("inf")
    if not len(actual[1]):
        return 0.0
    return relative_difference(actual[:2], expected[:2])
