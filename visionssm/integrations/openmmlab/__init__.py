"""OpenMMLab (mmdet, mmseg) without compiling anything.

Importing this module, directly or by `custom_imports = dict(imports=["visionssm.integrations.openmmlab"])` in a
config, does three things:

- mmcv gets the operators that its plain wheel lacks, unless compiled ones are installed (`operators`);
- mmcv's image loader reads images as this package does (`images`);
- the backbone type `VisionSSM` is registered, for detectors and segmentors alike (`backbone`).
"""

from visionssm.integrations.openmmlab.operators import MissingOperatorError, provide_operators

provide_operators()  # before anything imports mmcv.ops

from visionssm.integrations.openmmlab.images import provide_image_loader  # noqa: E402

provide_image_loader()  # before mmdet and mmseg import it from mmcv

from visionssm.integrations.openmmlab.backbone import VisionSSM, load_backbone, load_dense  # noqa: E402

__all__ = ["MissingOperatorError", "VisionSSM", "load_backbone", "load_dense", "provide_operators"]
