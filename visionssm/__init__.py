"""visionssm: vision state-space models that install with pip and run anywhere.

Importing the package registers every backbone with timm:

    import timm, visionssm
    model = timm.create_model("vmamba_tiny_s1l8", pretrained=True)

What is public is in `__all__`. Names that need more than the models do are imported when they are first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionssm.backbones.videomamba import create_video_classifier, list_video_classifiers
    from visionssm.catalogue import ModelInfo, list_models, model_info
    from visionssm.catalogue.hub import push_to_hub
    from visionssm.heads.detection_backbone import detection_backbone
    from visionssm.heads.medical import create_segmenter, list_segmenters
    from visionssm.heads.pose import create_pose, list_poses
    from visionssm.heads.restoration import create_restorer, list_restorers
    from visionssm.heads.segmentors import segmentation_model
    from visionssm.integrations.export import export_archive, export_onnx
    from visionssm.pointcloud.variants import create_detector, list_detectors
    from visionssm.prediction import load_predictor


def _models_are_wanted() -> bool:
    """Not by the console command, which imports what its parts need (see `visionssm_command`), nor by
    `python -m visionssm`, which is the same; and not where PyTorch is not installed: `visionssm.prediction.exported`
    does without it."""
    by_name = sys.argv[:1] == ["-m"] and not {"visionssm", "-mvisionssm"}.isdisjoint(sys.orig_argv)  # being looked up
    return "visionssm_command" not in sys.modules and not by_name and importlib.util.find_spec("torch") is not None


if TYPE_CHECKING or _models_are_wanted():
    import visionssm.backbones  # noqa: F401  registers the models with timm
    from visionssm.checkpoints import load_official
    from visionssm.kernels import (
        LowRank,
        deformable_sum,
        gated_linear_attention,
        linear_recurrence,
        linear_recurrence_step,
        neighbour_table,
        non_causal_ssd,
        plstm2d,
        plstm2d_four_directions,
        rotated_iou,
        rotated_iou_3d,
        rotated_nms,
        rotated_overlap,
        routes,
        scan_states,
        selective_scan,
        sparse_conv,
        ssd,
        ttt_linear,
        use_backend,
    )

__version__ = "0.1.0"
__all__ = [
    "LowRank",
    "ModelInfo",
    "__version__",
    "create_detector",
    "create_pose",
    "create_restorer",
    "create_segmenter",
    "create_video_classifier",
    "deformable_sum",
    "detection_backbone",
    "export_archive",
    "export_onnx",
    "gated_linear_attention",
    "linear_recurrence",
    "linear_recurrence_step",
    "list_detectors",
    "list_models",
    "list_poses",
    "list_restorers",
    "list_segmenters",
    "list_video_classifiers",
    "load_official",
    "load_predictor",
    "model_info",
    "neighbour_table",
    "non_causal_ssd",
    "plstm2d",
    "plstm2d_four_directions",
    "push_to_hub",
    "rotated_iou",
    "rotated_iou_3d",
    "rotated_nms",
    "rotated_overlap",
    "routes",
    "scan_states",
    "segmentation_model",
    "selective_scan",
    "sparse_conv",
    "ssd",
    "ttt_linear",
    "use_backend",
]

_IMPORTED_WHEN_USED = {
    "ModelInfo": "visionssm.catalogue",
    "create_detector": "visionssm.pointcloud.variants",
    "create_pose": "visionssm.heads.pose",
    "create_restorer": "visionssm.heads.restoration",
    "create_segmenter": "visionssm.heads.medical",
    "create_video_classifier": "visionssm.backbones.videomamba",
    "detection_backbone": "visionssm.heads.detection_backbone",
    "export_archive": "visionssm.integrations.export",
    "export_onnx": "visionssm.integrations.export",
    "list_detectors": "visionssm.pointcloud.variants",
    "list_poses": "visionssm.heads.pose",
    "list_restorers": "visionssm.heads.restoration",
    "list_models": "visionssm.catalogue",
    "list_segmenters": "visionssm.heads.medical",
    "list_video_classifiers": "visionssm.backbones.videomamba",
    "load_predictor": "visionssm.prediction",
    "model_info": "visionssm.catalogue",
    "push_to_hub": "visionssm.catalogue.hub",
    "segmentation_model": "visionssm.heads.segmentors",
}
_OF_THE_MODELS = {"load_official": "visionssm.checkpoints"} | dict.fromkeys(
    set(__all__) - _IMPORTED_WHEN_USED.keys() - {"__version__", "load_official"}, "visionssm.kernels"
)
"""Names that are here from the start, but in the command."""


def __getattr__(name: str) -> Any:
    place = _IMPORTED_WHEN_USED.get(name, _OF_THE_MODELS.get(name))
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(place), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_IMPORTED_WHEN_USED})
