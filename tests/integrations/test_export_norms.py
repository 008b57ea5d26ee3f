"""Norms of large maps in ONNX are as exact as PyTorch's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import visionssm


@pytest.mark.parametrize("affine", [False, True])
def test_instance_norm_of_a_large_volume_stays_exact_in_onnx(affine: bool, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    norm = nn.InstanceNorm3d(2, affine=affine).eval()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    path = tmp_path / "norm.onnx"
    visionssm.export_onnx(norm, path, torch.randn(2, 2, 6, 7, 8))
    x = torch.randn(1, 2, 64, 64, 64) + 3
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"image": x.numpy()})[0])
    with torch.no_grad():
        expected = norm.double()(x.double())
    assert (found - expected).abs().max() < 3e-6  # 1e-5 where all pixels are added one after another
