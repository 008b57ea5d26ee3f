"""Configs of detection and segmentation: they pass the check, build, have the published size, and train a step."""

from __future__ import annotations

import importlib.util
import itertools
import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS as MODELS_REGISTRY
from torch import nn

pytest.importorskip("mmcv", reason="needs the openmmlab extra")

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import CONFIGS, shipped_config, shipped_configs
from tests.tasks.openmmlab.inputs import detection_batch, segmentation_batch
from visionssm.cli.launch import prepare
from visionssm.engine.config import check_config, check_data, load_config
from visionssm.engine.errors import ConfigError, DatasetError, MissingExtraError

CASCADES = shipped_configs("cascade_mask_rcnn_*_coco.py")
ALL = [*shipped_configs("mask_rcnn_*_coco.py"), *CASCADES, *shipped_configs("upernet_*_ade20k_*.py")]
MODELS = [path for path in ALL if "_3x_" not in path.name or path in CASCADES]
# Parameters of the whole model in millions, rounded or cut off, as the authors publish them in the tables of their
# papers and READMEs (VMamba, MSVMamba, Spatial-Mamba, VSSD, HRVMamba). The other authors publish none.
PUBLISHED = {
    "mask_rcnn_vmamba_tiny": 50,
    "mask_rcnn_msvmamba_micro": 32,
    "mask_rcnn_msvmamba_tiny": 53,
    "mask_rcnn_msvmamba_v3_tiny": 52,
    "mask_rcnn_msvmamba_v3_small": 70,
    "mask_rcnn_spatialmamba_tiny": 46,
    "mask_rcnn_spatialmamba_small": 63,
    "mask_rcnn_spatialmamba_base": 115,
    "mask_rcnn_vssd_micro": 33,
    "mask_rcnn_vssd_tiny": 44,
    "mask_rcnn_vssd_small": 59,
    "mask_rcnn_localvmamba_tiny": 45,
    "mask_rcnn_localvmamba_small": 69,
    "upernet_localvmamba_tiny": 57,
    "upernet_localvmamba_small": 81,
    "upernet_localvim_tiny": 36,
    "upernet_localvim_small": 58,
    "upernet_plainmamba_l1": 35,
    "upernet_plainmamba_l2": 55,
    "upernet_plainmamba_l3": 81,
    "upernet_vmamba_tiny": 62,
    "upernet_msvmamba_micro": 42,
    "upernet_msvmamba_tiny": 65,
    "upernet_msvmamba_v3_tiny": 63,
    "upernet_spatialmamba_tiny": 57,
    "upernet_spatialmamba_small": 73,
    "upernet_spatialmamba_base": 127,
    "upernet_vssd_micro": 42,
    "upernet_vssd_tiny": 53,
    "upernet_hrvmamba_base": 99,
    "upernet_mambavision_large3_512_21k": 780,
}
# Published, but not the size of the published recipe: two of the three detectors have Swin's sizes.
DIFFERENT = {
    "cascade_mask_rcnn_mambavision_tiny": 86,
    "cascade_mask_rcnn_mambavision_small": 108,
    "cascade_mask_rcnn_mambavision_base": 145,
    "upernet_mambavision_tiny": 55,
    "upernet_mambavision_small": 84,
    "upernet_mambavision_base": 126,
}

# Frozen by the model itself: EfficientViM's weights of what its classifier reads, which maps do not need.
FROZEN = {"efficientvim": ["backbone.model.weights"]}

# Fits the published size only without UPerNet's auxiliary head, which serves training alone.
WITHOUT_AUXILIARY_HEAD = ("upernet_vssd_tiny",)


@pytest.fixture(autouse=True)
def the_same_each_time() -> None:
    torch.manual_seed(0)


def _config(path: Path) -> Config:
    cfg = load_config(path)
    cfg.model.backbone.pretrained = False
    return cfg


def _build(cfg: Config) -> nn.Module:
    importlib.import_module(f"{cfg.default_scope}.utils").register_all_modules(init_default_scope=True)
    return importlib.import_module(f"{cfg.default_scope}.registry").MODELS.build(cfg.model)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_config_has_no_unknown_key(path: Path) -> None:
    check_config(load_config(path))


def _sizes(path: Path) -> tuple[float, float]:
    """Millions of parameters of the whole model, and of its auxiliary head."""
    with torch.device("meta"):
        model = _build(_config(path))
    auxiliary = sum(p.numel() for name, p in model.named_parameters() if name.startswith("auxiliary_head"))
    return sum(p.numel() for p in model.parameters()) / 1e6, auxiliary / 1e6


def _name(path: Path) -> str:
    return path.stem.split("_fpn_")[0].split("_160k_")[0]


@pytest.mark.slow
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_model_has_the_published_size_which_the_docs_tell(path: Path) -> None:
    count, auxiliary = _sizes(path)
    name = _name(path)
    published = PUBLISHED.get(name)
    if published is not None:
        counted = count - (auxiliary if name in WITHOUT_AUXILIARY_HEAD else 0)
        assert published in (math.floor(counted), round(counted)), f"{counted:.2f} million parameters"
    row = _row_in_the_docs(name)
    assert row[1] == f"{count:.1f}M"
    told = DIFFERENT.get(name, published)
    assert re.sub(r"[^\d–M]", "", row[2]) == (f"{told}M" if told is not None else "–")


def _row_in_the_docs(name: str) -> list[str]:
    """Cells of a model's row in docs/dense_prediction.md; the table's head says detector or segmentor."""
    kind, _, backbone = name.partition("_rcnn_" if "_rcnn_" in name else "_")
    lines = (CONFIGS.parent / "docs" / "dense_prediction.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| `configs/") and f"/{kind}" in line)
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    (row,) = [cells for cells in rows if cells[0] == f"`{backbone}`"]
    return row


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_heads_read_the_widths_of_the_backbone(path: Path) -> None:
    cfg = _config(path)
    with torch.device("meta"):
        channels = MODELS_REGISTRY.build(cfg.model.backbone).channels
    if "neck" in cfg.model:
        assert tuple(cfg.model.neck.in_channels) == channels
    else:
        assert tuple(cfg.model.decode_head.in_channels) == channels
        assert cfg.model.auxiliary_head.in_channels == channels[cfg.model.auxiliary_head.in_index]


@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_step_of_the_recipe_reaches_every_parameter_that_is_not_frozen(path: Path) -> None:
    torch.manual_seed(1)  # GroupMamba's attention has four ReLUs: with other weights all may be dead for two images
    cfg = _config(path)
    cfg.model.backbone.drop_path_rate = 0.0  # of two images both may pass a block by, which then learns nothing
    if "mambavision" in path.stem:  # windows of the recipe would be filled up with thousands of tokens
        cfg.model.backbone.window_size = (8, 4)
        if "large3" in path.stem:
            cfg.model.backbone.depths = (1, 1, 2, 2)
    side = 128 if "efficientvim" in path.stem else 64  # a softmax over the one pixel of stride 64 learns nothing
    if "rpn_proposal" in cfg.model.train_cfg:
        cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        batch = detection_batch(side=side)
    else:
        cfg.model.data_preprocessor.size = (side, side)
        batch = segmentation_batch(classes=150, side=side)
    model = revert_sync_batchnorm(_build(cfg)).train()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == FROZEN.get(path.parent.name, [])
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    reached: set[nn.Parameter] = set()  # weight decay alone changes parameters too
    for parameter in learning.values():
        parameter.register_post_accumulate_grad_hook(lambda p: reached.add(p) if p.grad.any() else None)
    losses = model.train_step(batch, optim_wrapper=optimizer)
    assert torch.isfinite(losses["loss"])
    assert [name for name, p in learning.items() if p not in reached] == []
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == frozen


def test_names_with_norm_are_not_decayed() -> None:
    cfg = _config(shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco"))
    with torch.device("meta"):
        model = _build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decay[id(p)] for name, p in model.named_parameters() if "norm" in name} == {0.0}
    assert {decay[id(p)] for name, p in model.named_parameters() if "norm" not in name} == {0.05}


def test_longer_schedule_differs_in_length_and_images_alone() -> None:
    short, long = (
        load_config(shipped_config(f"mask_rcnn_vmamba_tiny_fpn_{schedule}_coco")) for schedule in ("1x", "3x")
    )
    assert (short.train_cfg.max_epochs, long.train_cfg.max_epochs) == (12, 36)
    assert long.param_scheduler[1].milestones == [27, 33]
    assert short.model == long.model
    assert short.optim_wrapper == long.optim_wrapper
    assert short.val_dataloader == long.val_dataloader
    crop = long.train_dataloader.dataset.pipeline[3].transforms[1]
    assert [step.type for step in crop] == ["RandomChoiceResize", "RandomCrop", "RandomChoiceResize"]
    assert crop[2].scales[0] == (480, 1333)
    assert crop[2].scales[-1] == (800, 1333)


@pytest.mark.parametrize(
    "name, windows",
    [(f"cascade_mask_rcnn_mambavision_{size}_fpn_3x_coco", (112, 56)) for size in ("tiny", "small", "base")]
    + [
        ("upernet_mambavision_tiny_160k_ade20k_512", (64, 32)),
        ("upernet_mambavision_small_160k_ade20k_512", (160, 56)),
        ("upernet_mambavision_base_160k_ade20k_512", (64, 32)),
        ("upernet_mambavision_large3_512_21k_160k_ade20k_640", (64, 32)),
    ],
)
def test_mambavision_has_the_windows_of_its_authors_and_the_drop_path_that_they_trained(
    name: str, windows: tuple[int, int]
) -> None:
    backbone = load_config(shipped_config(name)).model.backbone
    assert tuple(backbone.window_size) == windows
    assert backbone.drop_path_rate == 0.2


@pytest.mark.parametrize(
    "name, rate, decay",
    [
        ("cascade_mask_rcnn_mambavision_tiny_fpn_3x_coco", 1e-4, 0.05),
        ("cascade_mask_rcnn_mambavision_small_fpn_3x_coco", 1e-4, 0.05),
        ("cascade_mask_rcnn_mambavision_base_fpn_3x_coco", 2e-4, 0.05),
        ("upernet_mambavision_tiny_160k_ade20k_512", 5e-5, 0.01),
        ("upernet_mambavision_small_160k_ade20k_512", 6e-5, 0.01),
        ("upernet_mambavision_base_160k_ade20k_512", 5e-5, 0.01),
        ("upernet_mambavision_large3_512_21k_160k_ade20k_640", 8e-5, 0.05),
    ],
)
def test_mambavision_is_trained_with_the_published_rates(name: str, rate: float, decay: float) -> None:
    cfg = load_config(shipped_config(name))
    wrapper = cfg.optim_wrapper
    assert (wrapper.optimizer.lr, wrapper.optimizer.weight_decay) == (rate, decay)
    assert wrapper.type == ("OptimWrapper" if "large3" in name else "MixedPrecision")
    if "rcnn" in name:
        assert cfg.train_cfg.max_epochs == 36
        assert cfg.param_scheduler[1].milestones == [27, 33]
        assert [head.loss_bbox.loss_weight for head in cfg.model.roi_head.bbox_head] == [10.0] * 3


def test_mistakes_in_sections_of_mmdet_are_named() -> None:
    cfg = load_config(shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco"))
    cfg.model.rpn_heads = cfg.model.pop("rpn_head")
    with pytest.raises(ConfigError, match=r"'rpn_heads' in model \(MaskRCNN\); closest: 'rpn_head'"):
        check_config(cfg)
    cfg = load_config(shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco"))
    cfg.model.type = "MaskRCN"
    with pytest.raises(ConfigError, match=r"not registered; closest: 'MaskRCNN'"):
        check_config(cfg)


def test_missing_data_are_told_before_anything_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "nowhere"))
    cfg = load_config(shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco"))
    with pytest.raises(DatasetError, match=r"nowhere.*CocoDataset"):
        check_data(cfg)


def test_missing_mmdet_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mmdet" else found(name))
    with pytest.raises(MissingExtraError, match=r"mmdet .*pip install visionssm\[openmmlab\]"):
        prepare(shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco"))
