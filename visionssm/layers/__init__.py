"""Modules shared by two or more families. Maps are channels-last, (B, H, W, C), between modules."""

from visionssm.layers.conv import MapConv2d
from visionssm.layers.downsample import PatchMerging, StridedConvDownsample
from visionssm.layers.head import NormClassifierHead
from visionssm.layers.ss2d import SS2D, GatedSS2D, RouteScan
from visionssm.layers.stem import OverlappingStem, PatchStem

__all__ = [
    "SS2D",
    "GatedSS2D",
    "MapConv2d",
    "NormClassifierHead",
    "OverlappingStem",
    "PatchMerging",
    "PatchStem",
    "RouteScan",
    "StridedConvDownsample",
]
