"""OpenMMLab (mmdet, mmseg) without compiling anything.

Importing this module, directly or by `custom_imports = dict(imports=["visionssm.integrations.openmmlab"])` in a
config, does two things:

- mmcv gets the operators that its plain wheel lacks, unless compiled ones are installed (`operators`);
- the backbone type `VisionSSM` is registered, for detectors and segmentors alike (`backbone`).
"""

from visionssm.integrations.openmmlab.operators import MissingOperatorError, provide_operators

provide_operators()  # before anything imports mmcv.ops

from visionssm.integrations.openmmlab.backbone import VisionSSM, load_backbone, load_dense  # noqa: E402

__all__ = ["MissingOperatorError", "VisionSSM", "load_backbone", "load_dense", "provide_operators"]
