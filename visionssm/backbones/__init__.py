"""Backbones, one file a family; importing this package registers them with timm."""

from visionssm.backbones._base import list_models
from visionssm.backbones.vmamba import VMamba

__all__ = ["VMamba", "list_models"]
