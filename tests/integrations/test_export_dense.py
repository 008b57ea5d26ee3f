"""Detectors and segmentors are exported to files that find what the network itself finds."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, KeypointRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from visionssm.heads.detectors import DETECTORS
from visionssm.heads.segmentors import segmentation_model
from visionssm.integrations.export import (
    ExportError,
    description,
    export_archive,
    export_onnx,
    exportable_detector,
    exportable_segmentor,
)
from visionssm.integrations.export import detection as forms
from visionssm.integrations.torchvision import detection_backbone

ARCHITECTURES = ["FasterRCNN", "MaskRCNN", "RetinaNet", "FCOS"]
SIZE = {"min_size": 64, "max_size": 96}
QUICK = "test_resnet"  # timm's, a second to export


def _detector(architecture: str, backbone: str = "vmamba_nano_test") -> Any:
    """Untrained, but for scores that are far enough from each other to have an order."""
    torch.manual_seed(0)
    sides = (8, 16, 32, 64, 128)
    if architecture == "FCOS":
        anchors = AnchorGenerator(tuple((side,) for side in sides), ((1.0,),) * 5)
        network: Any = FCOS(detection_backbone(backbone, 32), 4, anchor_generator=anchors, **SIZE)
    else:
        network = DETECTORS[architecture]({"name": backbone}, 3, 16, sides, SIZE)
    if architecture in ("RetinaNet", "FCOS"):
        head = network.head.classification_head
        with torch.no_grad():
            maps = list(network.backbone(_image(64, 96)).values())
            head.cls_logits.weight.div_(head(maps).std())
    return network.eval()


def _image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height + width))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [(64, 80), (97, 41), (200, 131)])
def test_form_that_is_exported_finds_what_the_detector_finds(architecture: str, size: tuple[int, int]) -> None:
    detector = _detector(architecture)
    form, image = exportable_detector(detector).network, _image(*size)
    with torch.no_grad():
        (expected,) = detector([image[0]])
        found = dict(zip(form.output_names, form(image), strict=True))
    assert set(found) == set(expected)
    assert len(found["boxes"]) > 10
    for name in ("boxes", "scores", "labels"):
        torch.testing.assert_close(found[name], expected[name])
    if "masks" in expected:
        torch.testing.assert_close(found["masks"], expected["masks"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_form_that_is_exported_finds_nothing_where_there_is_nothing(architecture: str) -> None:
    form = exportable_detector(_detector(architecture)).network
    form.score_threshold.fill_(1.0)
    with torch.no_grad():
        boxes, scores, labels, *masks = form(_image(64, 80))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert [x.shape for x in masks] == [(0, 1, 64, 80)] * (architecture == "MaskRCNN")


def test_masks_are_pasted_as_torchvision_pastes_them() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(50, 1, 28, 28, generator=generator)
    corners = torch.rand(50, 2, 2, generator=generator).sort(1).values * torch.tensor([76.0, 53.0])
    boxes = corners.flatten(1)
    boxes[0] = torch.tensor([0.0, 0.0, 76.0, 53.0])  # all of the image
    boxes[1] = torch.tensor([10.2, 10.2, 10.3, 10.3])  # less than a pixel
    expected = paste_masks_in_image(masks, boxes, (53, 76))
    torch.testing.assert_close(forms._pasted(masks[:, 0], boxes, 53, 76), expected, rtol=0, atol=1e-5)


class _Resize(nn.Module):
    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, image: Tensor) -> Tensor:
        scaled, size = forms._scaled(image, self.transform)
        return torch.stack([torch.scalar_tensor(side) for side in (*size, *scaled.shape[2:])])


@pytest.mark.parametrize("limits", [(800, 1333), (37, 50)])
def test_open_graph_scales_every_size_as_torchvision(limits: tuple[int, int], tmp_path: Path) -> None:
    """A pixel less is another image: 800 / 49 · 49 is 799.9999 in float32."""
    onnxruntime = pytest.importorskip("onnxruntime")
    transform = GeneralizedRCNNTransform(*limits, [0.5] * 3, [0.5] * 3)
    names = ({2: "height", 3: "width"},)
    with torch.no_grad():
        program = torch.onnx.export(_Resize(transform).eval(), (_image(64, 80),), dynamo=True, dynamic_shapes=names)
    program.save(tmp_path / "size.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "size.onnx"), providers=["CPUExecutionProvider"])
    (name,) = [x.name for x in session.get_inputs()]
    for height, width in [(side, 2 * side + 5) for side in range(3, 70)] + [(480, 640), (641, 427), (1080, 1920)]:
        image = torch.zeros(3, height, width)
        images, _ = transform([image])
        expected = [*images.image_sizes[0], *images.tensors.shape[2:]]
        assert session.run(None, {name: image[None].numpy()})[0].tolist() == expected, (height, width)


@pytest.mark.parametrize(
    ("architecture", "kind", "dynamic", "backbone"),
    [
        ("FasterRCNN", "onnx", False, QUICK),
        pytest.param("MaskRCNN", "pt2", False, QUICK, marks=pytest.mark.slow),
        *(
            pytest.param(architecture, kind, dynamic, backbone, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
            for architecture in ARCHITECTURES
            for kind, dynamic, backbone in [
                ("onnx", True, QUICK),
                ("onnx", True, "vmamba_nano_test"),
                ("onnx", False, "vim_nano_test"),
                ("pt2", False, "vmamba_nano_test"),
            ]
        ),
        *(
            pytest.param(architecture, "pt2", True, QUICK, marks=pytest.mark.slow)
            for architecture in ("FasterRCNN", "MaskRCNN", "RetinaNet")
        ),
    ],
)
def test_detector_is_exported(architecture: str, kind: str, dynamic: bool, backbone: str, tmp_path: Path) -> None:
    file = tmp_path / f"detector.{kind}"
    exportable = exportable_detector(_detector(architecture, backbone), description(["a", "b", "c"], first=1))
    export = {"onnx": export_onnx, "pt2": export_archive}[kind]
    assert export(exportable, file, _image(64, 80), dynamic=dynamic) <= 1e-4
    if kind == "pt2":
        found = torch.export.load(file).module()(_image(64, 80))
        expected = exportable.expected(_image(64, 80)) if exportable.expected else {}
        for actual, name in zip(found, exportable.network.output_names, strict=True):
            torch.testing.assert_close(actual, expected[name], rtol=1e-4, atol=1e-4)


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["visionssm"] = None
import numpy, onnx, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
image = numpy.random.default_rng(0).random((1, 3, 64, 80), dtype=numpy.float32)
found = dict(zip([x.name for x in session.get_outputs()], session.run(None, {"image": image})))
nothing = onnx.load(sys.argv[1])
(threshold,) = [x for x in nothing.graph.initializer if x.name == "score_threshold"]
threshold.CopyFrom(onnx.numpy_helper.from_array(numpy.float32(1.0), "score_threshold"))
empty = onnxruntime.InferenceSession(nothing.SerializeToString(), providers=["CPUExecutionProvider"])
print(json.dumps({
    "shapes": {name: x.shape for name, x in found.items()},
    "empty": [x.shape for x in empty.run(None, {"image": image})],
    "domains": sorted({node.domain for node in nothing.graph.node}),
    "labels": sorted(set(found["labels"].tolist())),
    "about": about,
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_onnx_file_of_a_detector_runs_and_says_what_it_is_without_pytorch(tmp_path: Path) -> None:
    file = tmp_path / "detector.onnx"
    about = description(["circle", "square", "cross"], first=1)
    export_onnx(exportable_detector(_detector("MaskRCNN", QUICK), about), file, _image(64, 80), dynamic=False)
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    n = result["shapes"]["scores"][0]
    assert n > 10
    assert result["shapes"] == {"boxes": [n, 4], "scores": [n], "labels": [n], "masks": [n, 1, 64, 80]}
    assert result["empty"] == [[0, 4], [0], [0], [0, 1, 64, 80]]
    assert result["domains"] == [""]
    assert json.loads(result["about"]["classes"]) == {"1": "circle", "2": "square", "3": "cross"}
    assert {str(label) for label in result["labels"]} <= set(json.loads(result["about"]["classes"]))


def _objects(**changed: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20, 2, 2, generator=generator).sort(1).values * 100
    objects = {
        "boxes": corners.flatten(1),
        "scores": torch.linspace(0.9, 0.1, 20),
        "labels": torch.arange(20) % 3,
        "masks": torch.rand(20, 1, 10, 10, generator=generator),
    }
    return objects | changed


def test_difference_of_detections_sees_every_part_of_an_object() -> None:
    expected = _objects()
    assert forms.object_difference(list(_objects().values()), expected) == 0
    swapped = torch.tensor([1, 0, *range(2, 20)])
    assert forms.object_difference([x[swapped] for x in expected.values()], expected) == 0, "the order is open"
    changed: dict[str, Any] = {
        "boxes": expected["boxes"] + torch.eye(20, 4) * 1,
        "scores": expected["scores"] + 0.01 * (torch.arange(20) == 7),
        "masks": expected["masks"] + 0.01 * (torch.arange(20) == 7)[:, None, None, None],
    }
    for name, value in changed.items():
        assert 1e-4 < forms.object_difference(list(_objects(**{name: value}).values()), expected) < 0.1, name
    labels = expected["labels"].clone()
    labels[3] += 1
    assert forms.object_difference(list(_objects(labels=labels).values()), expected) > 0.1
    assert forms.object_difference([x[:19] for x in expected.values()], expected) == math.inf, "an object is missing"
    none = {name: x[:0] for name, x in expected.items()}
    assert forms.object_difference(list(expected.values()), none) == math.inf
    assert forms.object_difference(list(none.values()), none) == 0


def test_detector_that_finds_other_objects_is_refused(tmp_path: Path) -> None:
    """Also where it finds nothing at its own threshold, in this as in any random image."""
    detector = _detector("RetinaNet", QUICK)
    detector.score_thresh = 0.9999
    exportable = exportable_detector(detector)
    with torch.no_grad():
        assert not len(exportable.network(_image(64, 80))[0])
        before = {name: x.clone() for name, x in detector.head.regression_head.state_dict().items()}
        expected = exportable.network.expected

        def other(image: Tensor) -> Any:  # the boxes of another detector
            detector.head.regression_head.bbox_reg.bias.add_(1.0)
            try:
                return expected(image)
            finally:
                detector.head.regression_head.load_state_dict(before)

    object.__setattr__(exportable, "expected", other)
    with pytest.raises(ExportError, match="differs from eager"):
        export_archive(exportable, tmp_path / "detector.pt2", _image(64, 80), dynamic=False)
    assert not list(tmp_path.iterdir())


def test_other_networks_are_refused_by_name() -> None:
    with pytest.raises(ExportError, match=r"Linear is no detector that can be exported; these can: FasterRCNN"):
        exportable_detector(nn.Linear(1, 1))
    keypoints = KeypointRCNN(detection_backbone(QUICK, 16), num_classes=2)
    with pytest.raises(ExportError, match="KeypointRCNN is no detector"):
        exportable_detector(keypoints)


@pytest.mark.parametrize(
    ("backbone", "head", "kind"),
    [
        (QUICK, "fcn", "onnx"),
        *(
            pytest.param(backbone, head, kind, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])
            for backbone in (QUICK, "vmamba_nano_test", "vim_nano_test")
            for head in ("deeplab", "fcn")
            for kind in ("onnx", "pt2")
            if (backbone, head, kind) != (QUICK, "fcn", "onnx")
        ),
    ],
)
def test_segmentor_is_exported_with_open_sizes(backbone: str, head: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = segmentation_model(backbone, 5, head=head, channels=16, atrous_rates=(2, 4, 6)).eval()
    file = tmp_path / f"segmentor.{kind}"
    export = {"onnx": export_onnx, "pt2": export_archive}[kind]
    assert export(exportable_segmentor(network), file, _image(64, 80, batch=2), dynamic=True) <= 1e-4
    image = _image(75, 102)
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        assert [x.name for x in session.get_outputs()] == ["classes"]
        classes = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    else:
        classes = torch.export.load(file).module()(image)
    with torch.no_grad():
        expected = network(image)["out"].argmax(1)
    assert classes.shape == (1, 75, 102)
    assert classes.dtype == torch.int64
    assert (classes != expected).float().mean() < 1e-3


class _Shifted(nn.Module):
    """Scores of which the second class has a little more than half, in every call of eager PyTorch a little less."""

    def forward(self, x: Tensor) -> Tensor:
        second = 0.51 if torch.compiler.is_exporting() else 0.49
        share = torch.full_like(x[:, :1], second)
        return torch.cat([1 - share, share], 1)


def test_segmentor_that_tells_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="differs from eager"):
        export_archive(exportable_segmentor(_Shifted()), tmp_path / "x.pt2", _image(8, 8, batch=2))
    assert not list(tmp_path.iterdir())
