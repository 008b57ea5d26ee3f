"""Starting a detector or segmentor from a checkpoint of other classes: all but the layers of the classes are taken."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import tests.engine.every_task  # noqa: F401  registers all types
from tests.engine.shapes import DETECTOR, SEGMENTOR
from visionssm.checkpoints import CheckpointError
from visionssm.engine.checkpoint import give_new_head, load_strictly

has_openmmlab = importlib.util.find_spec("mmdet") is not None and importlib.util.find_spec("mmseg") is not None
needs_openmmlab = pytest.mark.skipif(not has_openmmlab, reason="needs the openmmlab extra")


@pytest.fixture(autouse=True)
def same_scope_afterwards() -> Iterator[None]:
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def detector(architecture: str) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        options = {**DETECTOR, "architecture": architecture, "num_classes": classes}
        return MODELS.build({"type": "TorchvisionDetector", **options})

    return build


def segmentor(classes: int) -> nn.Module:
    options = {**SEGMENTOR, "num_classes": classes, "auxiliary": True}
    return MODELS.build({"type": "TorchvisionSegmentor", **options})


def of_openmmlab(package: str, config: str) -> Callable[[int], nn.Module]:
    def build(classes: int) -> nn.Module:
        importlib.import_module("visionssm.integrations.openmmlab")  # before anything imports mmcv.ops
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        cfg = Config.fromfile(Path(spec.origin).parent / ".mim" / "configs" / config)
        importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=True)
        cfg.model.backbone = {"type": "VisionSSM", "name": "vmamba_nano_test"}
        widths = [24, 48, 96, 192]
        if package == "mmdet":
            cfg.model.neck.in_channels = widths
        else:
            cfg.model.decode_head.in_channels = widths
            cfg.model.auxiliary_head.in_channels = widths[2]
        cfg.model.pop("pretrained", None)
        _set_classes(cfg.model, classes)
        return importlib.import_module(f"{package}.registry").MODELS.build(cfg.model)

    return build


def _set_classes(section: Any, classes: int) -> None:
    for key, value in section.items():
        if key == "num_classes":
            section[key] = classes
        elif isinstance(value, dict):
            _set_classes(value, classes)


KINDS = {
    "MaskRCNN": (detector("MaskRCNN"), {"cls_score", "bbox_pred", "mask_fcn_logits"}),
    "FasterRCNN": (detector("FasterRCNN"), {"cls_score", "bbox_pred"}),
    "RetinaNet": (detector("RetinaNet"), {"cls_logits"}),
    "segmentor": (segmentor, {".classifier.4", ".aux_classifier.4"}),
    "mmdet Mask R-CNN": (
        of_openmmlab("mmdet", "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"),
        {"fc_cls", "fc_reg", "conv_logits"},
    ),
    "mmdet RetinaNet": (of_openmmlab("mmdet", "retinanet/retinanet_r50_fpn_1x_coco.py"), {"retina_cls"}),
    "mmseg UPerNet": (
        of_openmmlab("mmseg", "upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"),
        {"decode_head.conv_seg", "auxiliary_head.conv_seg"},
    ),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=needs_openmmlab if kind.startswith("mm") else ()) for kind in KINDS]
)
def test_only_the_layers_of_the_classes_stay_new(kind: str) -> None:
    build, expected = KINDS[kind]
    old, new = build(4), build(7)
    names = [f"class {number}" for number in range(7)]
    checkpoint: dict[str, Any] = {
        "meta": {"visionssm": {"classes": names[:4], "model": {}}},
        "state_dict": {key: torch.full_like(value, 0.5) for key, value in old.state_dict().items()},
    }
    before = {key: value.clone() for key, value in new.state_dict().items()}
    with pytest.raises(CheckpointError, match="of another shape"):
        load_strictly(new, checkpoint["state_dict"], "old")
    kept = give_new_head(checkpoint, new, names)
    assert {next((name for name in expected if f"{name}." in key), key) for key in kept} == expected
    load_strictly(new, checkpoint["state_dict"], "old")
    for key, value in new.state_dict().items():
        assert torch.equal(value, before[key] if key in kept else torch.full_like(value, 0.5)), key
