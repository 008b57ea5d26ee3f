"""Export of models to ONNX and to PyTorch's own archive, checked against eager execution.

ONNX graphs hold standard operators only: while exporting, each scan takes the form of a loop (`Scan`) over steps whose
number may be dynamic. The archive (`.pt2`) keeps the package's fast operators, so the program that loads it must
import `visionssm`.

A classifier or any other module of one tensor is exported as it is. A detector or a segmentor of torchvision is brought
into a form that exporters take first:

    export_onnx(exportable_detector(mask_rcnn), "boxes.onnx", torch.rand(1, 3, 480, 640))
"""

from visionssm.integrations.export.detection import exportable_detector
from visionssm.integrations.export.exportable import Exportable, ExportError, description, in_half
from visionssm.integrations.export.formats import export_archive, export_onnx
from visionssm.integrations.export.pose import exportable_pose
from visionssm.integrations.export.segmentation import exportable_segmentor
from visionssm.integrations.export.yolo import exportable_yolo

__all__ = [
    "ExportError",
    "Exportable",
    "description",
    "export_archive",
    "export_onnx",
    "exportable_detector",
    "exportable_pose",
    "exportable_segmentor",
    "exportable_yolo",
    "in_half",
]
