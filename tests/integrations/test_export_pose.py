"""Pose estimators as ONNX files and archives, read with NumPy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.docs.pages import ROOT, blocks
from visionssm.heads.pose import PoseNetwork, create_pose, decode
from visionssm.integrations.export import export_archive, export_onnx, exportable_pose


def _network() -> PoseNetwork:
    torch.manual_seed(0)
    network = create_pose("hrvmamba_nano_pose", num_keypoints=5).eval()
    nn.init.normal_(network.head.final_layer.weight)
    for name, module in network.named_modules():
        if name.endswith("offset_mask"):
            nn.init.normal_(module.weight, std=0.1)  # type: ignore[arg-type]
            nn.init.normal_(module.bias, std=0.5)  # type: ignore[arg-type]
    return network


@pytest.mark.slow
def test_onnx_file_takes_any_multiple_of_32_and_numpy_reads_its_points(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network, path = _network(), tmp_path / "pose.onnx"
    exportable = exportable_pose(network, {"task": "pose"})
    assert export_onnx(exportable, path, torch.randn(2, 3, 64, 96)) <= 1e-4
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map["task"] == "pose"
    for shape in ((1, 3, 128, 96), (3, 3, 64, 32)):
        crops = torch.randn(shape)
        (maps,) = session.run(["heatmaps"], {"crops": crops.numpy()})
        with torch.inference_mode():
            expected: Any = network(crops).numpy()
        points, scores = decode(maps)
        expected_points, expected_scores = decode(expected)
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-3, atol=1e-4)
        assert np.abs(points - expected_points).max() <= 2  # a tie of neighbours may be decided otherwise


@pytest.mark.slow
def test_archive_takes_any_multiple_of_32(tmp_path: Path) -> None:
    network, path = _network(), tmp_path / "pose.pt2"
    assert export_archive(exportable_pose(network), path, torch.randn(2, 3, 64, 96)) <= 1e-4
    crops = torch.randn(3, 3, 128, 160)
    exported = torch.export.load(path).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(crops), network(crops), rtol=1e-3, atol=1e-3)


def test_decoding_that_the_page_shows_is_ours() -> None:
    (block,) = [x for x in blocks(ROOT / "docs" / "pose.md") if "def key_points" in x.code]
    namespace: dict[str, Any] = {}
    exec(compile(block.code, str(block), "exec"), namespace)
    maps = np.random.default_rng(0).normal(size=(3, 17, 8, 6)).astype(np.float32)
    maps[0, :3] = -1
    maps[1, 0, 0, 0] = maps[1, 1, 7, 5] = maps[1, 2, 3, 0] = maps[1, 3, 0, 2] = 9
    expected_points, expected_scores = decode(maps)
    image, box = Image.new("RGB", (24, 32)), (0, 0, 24, 32)
    for number in range(3):
        found = namespace["key_points"](lambda _, n=number: maps[n : n + 1], image, box, (32, 24), padding=1.0)
        there = expected_scores[number] > 0
        np.testing.assert_allclose(found[there, :2], expected_points[number][there], atol=1e-6)
        np.testing.assert_array_equal(found[:, 2] > 0, there)
        np.testing.assert_array_equal(found[there, 2].astype(np.float32), expected_scores[number][there])
