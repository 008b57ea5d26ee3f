"""Networks for the segmentation of medical images and volumes, which need nothing of the train extra.

model = visionssm.create_segmenter("vmunet_synapse")
logits = model(slices)
"""

from visionssm.heads.medical.mhsvm import MHSVM
from visionssm.heads.medical.plan import Plan, plan
from visionssm.heads.medical.registry import (
    PUBLISHED,
    Published,
    create_segmenter,
    list_segmenters,
    register_segmenter,
)
from visionssm.heads.medical.segmamba import SegMamba
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.heads.medical.swinumamba import SwinUMamba, SwinUMambaD
from visionssm.heads.medical.umamba import UMamba
from visionssm.heads.medical.vmunet import VMUNet

__all__ = [
    "MHSVM",
    "PUBLISHED",
    "Plan",
    "Published",
    "SegMamba",
    "Segmenter",
    "SwinUMamba",
    "SwinUMambaD",
    "UMamba",
    "VMUNet",
    "create_segmenter",
    "list_segmenters",
    "plan",
    "register_segmenter",
]
