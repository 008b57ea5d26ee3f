"""Networks for the restoration of images, which need nothing of the train extra.

model = visionssm.create_restorer("mambair_sr_light_x2")
larger = model(images)
"""

from visionssm.heads.restoration.mambair import MambaIR
from visionssm.heads.restoration.registry import VARIANTS, RestorerVariant, create_restorer, list_restorers

__all__ = ["VARIANTS", "MambaIR", "RestorerVariant", "create_restorer", "list_restorers"]
