"""Exported pose estimators applied to images, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visionssm.data.errors import DatasetError
from visionssm.data.keypoints import Skeleton
from visionssm.engine.exported import ExportedFileError, Graph
from visionssm.engine.predictors import OfGraph
from visionssm.heads.pose.codec import STRIDE, flip_maps
from visionssm.tasks.pose.base import BaseKeypointFinder
from visionssm.tasks.pose.regions import Crop


@dataclass(frozen=True)
class ExportedKeypointFinder(OfGraph, BaseKeypointFinder):
    """An exported top-down pose estimator, with what tells where people are.

    Attributes:
        graph: (1, 3, H, W) normalised crops to `heatmaps`, (1, K, H/4, W/4).
    """

    def maps(self, crops: np.ndarray) -> np.ndarray:
        """(1, K, H/4, W/4) heat maps of a normalised crop."""
        maps = self._maps(crops)
        if self.flip_test:
            mirrored = self._maps(np.ascontiguousarray(crops[..., ::-1]))
            maps = (maps + flip_maps(mirrored, self.skeleton.flip_pairs)) / 2
        return maps

    def _maps(self, crops: np.ndarray) -> np.ndarray:
        found = self.graph.output(crops, "heatmaps").astype(np.float32)
        expected = (1, len(self.skeleton.names), *(side // STRIDE for side in self.crop.size))
        if found.shape != expected:
            raise ExportedFileError(f"the file gives heat maps of shape {found.shape}, where {expected} was expected")
        return found


def exported_keypoint_finder(graph: Graph) -> ExportedKeypointFinder:
    """The pose estimator in a file.

    Raises:
        ExportedFileError: it does not say its key points, or how people are cut out.
    """

    def crop() -> Crop:
        said = graph.fact("crop")
        if not isinstance(said, dict) or not isinstance(said.get("size"), list):
            raise DatasetError(f"crop must be size and padding, got {said!r:.60}")
        return Crop(tuple(said["size"]), said.get("padding", 0))

    def skeleton() -> Skeleton:
        said = graph.fact("skeleton")
        if not isinstance(said, dict):
            raise DatasetError(f"skeleton must be names, flip_pairs, edges and sigmas, got {said!r:.60}")
        return Skeleton.from_plain(said)

    return ExportedKeypointFinder(
        graph.made(skeleton, "its key points"),
        graph.classes(1),
        graph.made(crop, "how people are cut out"),
        bool(graph.fact("flip_test")),
        graph=graph,
    )
