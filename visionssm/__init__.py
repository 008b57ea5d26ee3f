"""visionssm: vision state-space models that install with pip and run anywhere.

Importing the package registers every backbone with timm:

    import timm, visionssm
    model = timm.create_model("vmamba_tiny_s1l8", pretrained=True)
"""

from visionssm.backbones import list_models
from visionssm.checkpoints import load_official
from visionssm.kernels import use_backend

__version__ = "0.1.0"
__all__ = ["__version__", "list_models", "load_official", "use_backend"]
