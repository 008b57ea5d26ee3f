"""Files of Mamba-YOLO find what the network itself finds, before and after overlapping boxes are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from visionssm.cli.export import find
from visionssm.heads.yolo import MambaYolo, create_yolo, suppress
from visionssm.integrations.export import ExportError, export_archive, export_onnx, exportable_yolo

CLASSES = ("square", "circle", "star")


@pytest.fixture(scope="module")
def model() -> MambaYolo:
    """Untrained, but for scores that are far enough from each other to have an order."""
    torch.manual_seed(0)
    network = create_yolo("mambayolo_nano", 3, depths=(1, 1, 1, 1)).eval()
    with torch.no_grad():
        branch: Any
        for branch in network.head.classes:
            branch[-1].weight.mul_(30)
            branch[-1].bias.zero_()
    return network


def _image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height + width))


@torch.no_grad()
def test_graph_before_nms_gives_the_best_class_of_every_point(model: MambaYolo) -> None:
    image = _image(50, 75, batch=2)
    boxes, scores, labels = exportable_yolo(model, CLASSES).network(image)
    own_boxes, own_scores = model.predict(image)
    assert torch.equal(boxes, own_boxes)
    assert torch.equal(scores, own_scores.amax(-1))
    assert torch.equal(own_scores.gather(-1, labels[..., None])[..., 0], scores)


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_graph_with_nms_gives_what_suppression_leaves(model: MambaYolo, threshold: float) -> None:
    image = _image(97, 64)
    found = exportable_yolo(model, CLASSES, nms=True, threshold=threshold, overlap=0.3).network(image)
    (boxes,), (scores,) = model.predict(image)
    expected = suppress(boxes, scores, threshold=threshold, overlap=0.3)
    assert len(expected.scores) > 3 or threshold == 1.0
    for actual, wanted in zip(found, expected, strict=True):
        assert torch.equal(actual, wanted)


def test_check_of_a_file_sees_every_output(model: MambaYolo) -> None:
    exportable = exportable_yolo(model, CLASSES)
    image = _image(64, 64)
    with torch.no_grad():
        boxes, scores, labels = exportable.network(image)
    assert exportable.compared([boxes, scores, labels], image) == 0
    moved, other = boxes.clone(), labels.clone()
    moved[0, 5, 2] += 1
    other[0, 7] = (other[0, 7] + 1) % 3
    for changed in ([moved, scores, labels], [boxes, scores + 0.01, labels], [boxes, scores, other]):
        assert exportable.compared(changed, image) > 1e-3


@pytest.mark.slow
def test_archive_with_nms_of_one_size_finds_what_the_network_finds(model: MambaYolo, tmp_path: Path) -> None:
    exportable = exportable_yolo(model, CLASSES, nms=True, threshold=0.3)
    path = tmp_path / "objects.pt2"
    assert export_archive(exportable, path, _image(64, 64), dynamic=False) <= 1e-4
    files = {"about.json": ""}
    torch.export.load(path, extra_files=files)
    assert '\\"0\\": \\"square\\"' in files["about.json"]


@pytest.mark.slow
@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("export", [export_onnx, export_archive])
def test_files_with_open_sizes_find_what_the_network_finds(
    model: MambaYolo, tmp_path: Path, nms: bool, export: object
) -> None:
    exportable = exportable_yolo(model, CLASSES, nms=nms, threshold=0.3)
    path = tmp_path / ("yolo.onnx" if export is export_onnx else "yolo.pt2")
    assert export(exportable, path, _image(64, 64, 1 if nms else 2), dynamic=True) <= 1e-4  # type: ignore[operator]


def test_nms_of_another_network_is_refused() -> None:
    with pytest.raises(ExportError, match="no boxes that --nms could leave out"):
        find("vmamba_nano_test", nms=True)
