"""Modules shared by two or more families. Maps are channels-last, (B, H, W, C), between modules."""

from visionssm.layers.conditional_position import (
    ConditionalPositionBlock,
    InvertedBottleneckDownsample,
    ResidualConvStem,
)
from visionssm.layers.conv import MapConv2d
from visionssm.layers.downsample import PatchMerging, StridedConvDownsample
from visionssm.layers.head import MapClassifierHead, NormClassifierHead
from visionssm.layers.mamba import BidirectionalMamba, Mamba
from visionssm.layers.ss2d import SS2D, GatedSS2D, RouteScan
from visionssm.layers.stem import OverlappingStem, PatchStem
from visionssm.layers.tokens import PatchEmbedding

__all__ = [
    "SS2D",
    "BidirectionalMamba",
    "ConditionalPositionBlock",
    "GatedSS2D",
    "InvertedBottleneckDownsample",
    "Mamba",
    "MapClassifierHead",
    "MapConv2d",
    "NormClassifierHead",
    "OverlappingStem",
    "PatchEmbedding",
    "PatchMerging",
    "PatchStem",
    "ResidualConvStem",
    "RouteScan",
    "StridedConvDownsample",
]
