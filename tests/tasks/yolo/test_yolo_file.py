"""An exported Mamba-YOLO is used without the package, as the documentation shows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.docs.pages import ROOT, blocks
from visionssm.heads.yolo import create_yolo
from visionssm.tasks.yolo.predictor import YoloPredictor


def shown() -> str:
    """The documented function, without the call."""
    page = ROOT / "docs" / "dense_prediction.md"
    (code,) = [x.code for x in blocks(page) if "def find(session" in x.code]
    return code[: code.index("\n\n\nboxes, scores, labels = find")]


class Session:
    """The exported network as onnxruntime runs it; that a file computes the same is tested where files are written."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image")]

    @torch.no_grad()
    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [x.numpy() for x in self.network(torch.from_numpy(inputs["image"]))]


def test_decoding_in_numpy_finds_what_the_predictor_finds() -> None:
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", num_classes=3).eval()
    for branch in model.head.classes:
        branch[-1].bias.data += 5  # type: ignore[index]  # an untrained network is certain of nothing
        branch[-1].weight.data *= 30  # type: ignore[index]
    predictor = YoloPredictor(model, ["a", "b", "c"], size=64, threshold=0.3)
    session = Session(predictor.exportable().network)
    namespace: dict[str, Any] = {}
    exec(shown().replace("import onnxruntime\n", ""), namespace)
    for size in ((100, 60), (64, 64), (40, 90)):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
        boxes, scores, labels = namespace["find"](session, image, side=64, threshold=0.3)
        with torch.inference_mode():
            (expected,) = predictor([image])
        best = {(round(s, 2), int(n)) for s, n in zip(expected.scores.tolist(), expected.numbers, strict=True)}
        assert len(boxes) > 0
        assert (boxes >= 0).all()
        assert (boxes <= [image.width, image.height] * 2).all()
        near = sum((round(float(s), 2), int(n)) in best for s, n in zip(scores, labels, strict=True))
        assert near >= 0.8 * len(scores), "Pillow rounds resized pixels to 8 bits; the predictor does not"
