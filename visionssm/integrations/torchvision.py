"""Backbones for torchvision's detectors. Needs nothing but torchvision.

from torchvision.models.detection import MaskRCNN
model = MaskRCNN(detection_backbone("vmamba_tiny_s1l8", pretrained=True), num_classes=91)

Whole detectors and segmentation models are in `visionssm.heads`.
"""

from visionssm.heads.detection_backbone import DetectionBackbone, detection_backbone

__all__ = ["DetectionBackbone", "detection_backbone"]
