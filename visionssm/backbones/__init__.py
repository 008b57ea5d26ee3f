"""Backbones, one file per family; importing this package registers them with timm."""

from visionssm.backbones._base import list_models
from visionssm.backbones.convs5 import ConvS5
from visionssm.backbones.efficientvmamba import EfficientVMamba
from visionssm.backbones.groupmamba import GroupMamba
from visionssm.backbones.hrvmamba import HRVMamba
from visionssm.backbones.localmamba import LocalVim, LocalVMamba
from visionssm.backbones.mambavision import MambaVision
from visionssm.backbones.mambayolo import MambaYoloBackbone
from visionssm.backbones.msvmamba import MSVMamba
from visionssm.backbones.plainmamba import PlainMamba
from visionssm.backbones.plstm import PLSTM
from visionssm.backbones.spatialmamba import SpatialMamba
from visionssm.backbones.videomamba import VideoMamba, VideoMambaImage
from visionssm.backbones.vim import Vim
from visionssm.backbones.vmamba import VMamba
from visionssm.backbones.vssd import VSSD

__all__ = [
    "PLSTM",
    "VSSD",
    "ConvS5",
    "EfficientVMamba",
    "GroupMamba",
    "HRVMamba",
    "LocalVMamba",
    "LocalVim",
    "MSVMamba",
    "MambaVision",
    "MambaYoloBackbone",
    "PlainMamba",
    "SpatialMamba",
    "VMamba",
    "VideoMamba",
    "VideoMambaImage",
    "Vim",
    "list_models",
]
