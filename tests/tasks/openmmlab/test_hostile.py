"""What a checkpoint says of a model of mmdet or mmseg runs nothing, fetches nothing and makes nothing of any size."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from PIL import Image

pytest.importorskip("mmcv", reason="needs the openmmlab extra")

import visionssm.integrations.openmmlab  # noqa: F401  before anything imports mmcv.ops
from tests.fuzz.cases import watched
from visionssm.checkpoints import CheckpointError
from visionssm.prediction import load_predictor
from visionssm.tasks.openmmlab.description import checkpoint_meta

CODE = {"type": "os.system", "command": "touch PWNED"}
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (64, 64), "keep_ratio": True},
    {"type": "PackDetInputs", "meta_keys": ("img_id", "ori_shape", "img_shape", "scale_factor")},
]


@pytest.fixture(scope="module")
def honest() -> dict[str, Any]:
    """A checkpoint of a small RetinaNet."""
    spec = importlib.util.find_spec("mmdet")
    assert spec is not None
    assert spec.origin is not None
    cfg = Config.fromfile(Path(spec.origin).parent / ".mim" / "configs" / "retinanet" / "retinanet_r50_fpn_1x_coco.py")
    importlib.import_module("mmdet.utils").register_all_modules(init_default_scope=True)
    cfg.model.backbone = {"type": "VisionSSM", "name": "vmamba_nano_test"}
    cfg.model.neck.in_channels = [24, 48, 96, 192]
    cfg.model.neck.out_channels = cfg.model.bbox_head.in_channels = cfg.model.bbox_head.feat_channels = 16
    cfg.model.bbox_head.num_classes = 2
    cfg.test_dataloader.dataset.pipeline = PIPELINE
    model = importlib.import_module("mmdet.registry").MODELS.build(cfg.model)
    about = checkpoint_meta(cfg, None)
    return {"meta": {"visionssm": {**about, "classes": ["a", "b"]}}, "state_dict": dict(model.state_dict())}


def saved(folder: Path, checkpoint: dict[str, Any], place: tuple[Any, ...], value: Any) -> Path:
    """The checkpoint with one value of its description replaced."""
    about = copy.deepcopy(checkpoint["meta"]["visionssm"])
    section = about
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    torch.save({**checkpoint, "meta": {"visionssm": about}}, folder / "file.pth")
    return folder / "file.pth"


def test_honest_description_gives_a_detector(honest: dict[str, Any], tmp_path: Path) -> None:
    predictor = load_predictor(saved(tmp_path, honest, ("task",), "mmdet"))
    (result,) = predictor([Image.new("RGB", (50, 40))])
    assert list(result.classes) == ["a", "b"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("model", "data_preprocessor"), CODE, "not registered"),
        (("model", "data_preprocessor", "type"), "subprocess.Popen", "not registered"),
        (("model", "neck"), {"type": "mmengine.fileio.dump", "obj": 1, "file": "PWNED"}, "unusable|not registered"),
        (("model", "backbone", "name"), "hf-hub:a/b", "unusable|not registered"),
        (("model", "backbone", "pretrained_cfg_overlay"), {"url": "x"}, "pretrained_cfg_overlay"),
        (("model", "backbone", "cache_dir"), "PWNED", "cache_dir"),
        (("model", "bbox_head", "language_model"), {"type": "BertModel"}, "language_model|would fetch"),
        (("model", "bbox_head", "init_cfg"), CODE, None),
        (("model", "init_cfg"), {"type": "Pretrained", "checkpoint": "http://127.0.0.1:9/x"}, None),
        (("model", "backbone", "pretrained"), "/etc/passwd", None),
        (("model", "bbox_head", "num_classes"), 2**20, "larger than its weights"),
        (("model", "data_preprocessor", "pad_size_divisor"), 2**20, "limit is 1024"),
        (("model", "test_cfg", "stride"), [1, 1], "stride"),
        (("pipeline", 1, "scale"), (2**20, 2**20), "limit is 4096"),
        (("pipeline", 1), CODE, "may not ask for"),
        (("pipeline", 1), {"type": "LoadImageFromFile", "imdecode_backend": "x"}, None),
        (("pipeline", 1), {"type": "TestTimeAug", "transforms": [CODE]}, "may not ask for"),
        (("pipeline",), None, "pipeline"),
        (("classes",), ["\x1b[2J", "b"], "printable"),
    ],
)
def test_description_that_asks_for_more_than_a_model_is_refused_or_ignored(
    honest: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, value: Any, message: str | None
) -> None:
    path = saved(tmp_path, honest, place, value)
    monkeypatch.chdir(tmp_path)
    with watched() as events:
        if message is None:
            load_predictor(path)
        else:
            with pytest.raises(CheckpointError, match=message):
                load_predictor(path)
    assert not [event for event in events if event.startswith(("socket.", "subprocess.", "os.system"))]
    assert os.listdir(tmp_path) == ["file.pth"]
