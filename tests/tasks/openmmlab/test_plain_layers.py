"""The authors' dense checkpoints of plain models, whose own layers are the levels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

pytest.importorskip("mmdet", reason="needs the openmmlab extra")

from visionssm.integrations.openmmlab import VisionSSM


@pytest.mark.parametrize("numbers", [(0, 2, 3), (0, 1, 2)], ids=["by layer", "in turn"])
def test_segmentor_of_layers_of_a_plain_model_is_loaded_with_the_norms_of_its_authors(
    tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    name, layers = "plainmamba_nano_test", (0, 2, 3)
    classifier: Any = timm.create_model(name)
    renames = ((r"^patch_embed\.proj\.", "patch_embed.projection."), (r"^norm\.", "ln1."), ("A_logs", "A_log"))
    state = {key: value for key, value in classifier.state_dict().items() if not key.startswith("head")}
    for pattern, name_there in (*renames, (r"\.Ds$", ".D")):
        state = {re.sub(pattern, name_there, key): value for key, value in state.items()}
    for number in numbers[:-1]:
        state |= {f"norm_layer{number}.{part}": torch.randn(48) for part in ("weight", "bias")}
    state |= {f"ln1.{part}": torch.randn(48) for part in ("weight", "bias")}
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "dense.pth")
    loaded = VisionSSM(name, layers=layers, norm_eps=1e-6, out_indices=(0, 2), pretrained=str(tmp_path / "dense.pth"))
    assert torch.equal(loaded.norms[0].weight, state[f"norm_layer{numbers[0]}.weight"])
    assert torch.equal(loaded.norms[1].bias, state["ln1.bias"])
    assert torch.equal(loaded.model.layers[3].mamba.A_logs, classifier.layers[3].mamba.A_logs)
