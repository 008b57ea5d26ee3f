"""Files of detectors in point clouds: of whole detectors with any number of points, and of the network on the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visionssm.cli.export import export, find
from visionssm.integrations.export import ExportError, export_onnx
from visionssm.pointcloud.bev import seen_from_above
from visionssm.pointcloud.detector import LionDetector
from visionssm.pointcloud.operators import OPERATORS
from visionssm.pointcloud.operators.xlstm import running_maximum
from visionssm.pointcloud.variants import create_detector
from visionssm.tasks.pointcloud.export import exportable_detector, exportable_map_network
from visionssm.tasks.pointcloud.predictor import SweepDetector

SMALL: dict[str, Any] = {
    "point_range": (0.0, -4.8, -3.0, 9.6, 4.8, 1.0),
    "backbone": {"windows": ((7, 7, 16),), "group_sizes": (64,)},
    "bev": {"layers": (1, 1), "channels": (8, 8), "up_channels": (8, 8)},
}


def small(operator: str = "mamba") -> LionDetector:
    torch.manual_seed(0)
    backbone = {**SMALL["backbone"], "operator": operator}
    return create_detector(f"lion_{operator}_nano", **{**SMALL, "backbone": backbone}).eval()


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_an_archive_finds_what_the_detector_finds_in_sweeps_of_any_size(operator: str, tmp_path: Path) -> None:
    detector = small(operator)
    written = export(exportable_detector(detector, detector.classes), tmp_path / "boxes.pt2", "pt2")
    assert written.open_axes == ("points",)
    assert written.difference <= 1e-5  # at three numbers of points, and with boxes found
    loaded = torch.export.load(written.path).module()
    points = torch.rand(99, 4) * torch.tensor([9, 4, 3, 1]) - torch.tensor([0, 2, 2, 0])
    for cloud in (points, points[:1], points[:0], points + 99):
        boxes, scores, labels = loaded(cloud)
        (found,) = detector.detections([cloud])
        torch.testing.assert_close((boxes, scores, labels), tuple(found), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_running_maximum_of_exported_graphs_is_cummax(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, length, 2, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(running_maximum(x), x.cummax(1).values)


@pytest.mark.slow
def test_onnx_has_the_network_on_the_map_and_says_that_it_has_no_voxels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    detector = small()
    predictor = SweepDetector(detector, detector.classes)
    with pytest.raises(ExportError, match=r"have no form in ONNX.*--part map"):
        export_onnx(predictor.exportable(), tmp_path / "boxes.onnx", torch.zeros(9, 4))
    exportable = predictor.exportable_parts["map"]()
    written = export(exportable, tmp_path / "map.onnx", "onnx")
    assert written.difference <= 1e-4
    cloud = torch.rand(99, 4) * torch.tensor([9, 4, 3, 1]) - torch.tensor([0, 2, 2, 0])
    with torch.no_grad():
        seen = seen_from_above(*detector.backbone_3d(*detector.vfe([cloud])).output)
        assert seen.shape == written.shape
        boxes, scores = exportable.network(seen)
        predictions = detector([cloud])
    torch.testing.assert_close(boxes, detector.dense_head.boxes(predictions))  # type: ignore[operator]
    assert scores.max() == predictions.scores.sigmoid().max()


@pytest.mark.slow
@pytest.mark.parametrize("head", [{}, {"rectify": (0.5, 0.6, 0.7)}])
def test_onnx_of_a_head_of_centres_has_a_box_and_scores_at_every_place(tmp_path: Path, head: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    detector = create_detector("lion_mamba_nano", **{**SMALL, "head": {"kind": "center", "channels": 8, **head}}).eval()
    exportable = exportable_map_network(detector, detector.classes)
    written = export(exportable, tmp_path / "map.onnx", "onnx")
    assert written.difference <= 1e-4
    cloud = torch.rand(99, 4) * torch.tensor([9, 4, 3, 1]) - torch.tensor([0, 2, 2, 0])
    with torch.no_grad():
        boxes, scores = exportable.network(seen_from_above(*detector.backbone_3d(*detector.vfe([cloud])).output))
        (found,) = detector.detections([cloud])
    assert len(found.boxes)
    apart = (found.boxes[:, None] - boxes).abs().amax(2) + (found.scores[:, None] - scores[0, :, found.labels].T).abs()
    assert apart.amin(1).max() <= 1e-5, "all that the detector finds is among them"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": {"kind": "transfusion", "small": ()}}, "TransFusionHead: its queries choose .*--format pt2"),
        (
            {
                "backbone": {"kind": "flat", "windows": ((7, 7, 16),) * 3, "group_sizes": (64,) * 3},
                "bev": None,
                "head": {"kind": "sparse_center"},
            },
            "SparseCenterHead: it takes voxels.*--format pt2",
        ),
    ],
)
def test_heads_whose_map_network_has_no_form_are_refused(changes: dict[str, Any], words: str) -> None:
    detector = create_detector("lion_mamba_nano", **changes)
    with pytest.raises(ExportError, match=words):
        exportable_map_network(detector, detector.classes)


def test_parts_that_a_network_does_not_have_are_told() -> None:
    with pytest.raises(ExportError, match="has no part 'map'; it has none"):
        find("vmamba_nano_test", part="map")
