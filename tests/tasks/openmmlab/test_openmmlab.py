"""The backbone type VisionSSM inside unchanged configs of mmdet and mmseg, and the authors' dense checkpoints."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("mmcv", reason="needs the openmmlab extra")

import visionssm
from tests.configs import shipped_config
from tests.reference_cases import Case, find_cases, recorded_case
from tests.tasks.openmmlab.inputs import detection_batch, segmentation_batch, write_ade20k, write_coco
from visionssm.checkpoints import CheckpointError
from visionssm.integrations.openmmlab import VisionSSM
from visionssm.integrations.openmmlab.backbone import load_backbone, load_dense
from visionssm.prediction import load_predictor, predict_files
from visionssm.tasks.detection.results import Detection
from visionssm.tasks.segmentation.results import PixelClasses

FAMILIES = [*visionssm.list_models("*_nano_test"), "mambaout_femto"]
"""A small model of every family, hierarchical and plain (Vim, pLSTM), and timm's MambaOut."""


@pytest.fixture(autouse=True)
def quick_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs start without describing the machine."""
    monkeypatch.setattr("mmengine.runner.runner.collect_env", dict)
    torch.manual_seed(0)


def _installed(package: str, config: str) -> Config:
    """A config inside an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Config.fromfile(Path(spec.origin).parent / ".mim" / "configs" / config)


def _build(cfg: Config) -> nn.Module:
    package = importlib.import_module(f"{cfg.default_scope}.registry")
    importlib.import_module(f"{cfg.default_scope}.utils").register_all_modules(init_default_scope=True)
    model = package.MODELS.build(cfg.model)
    model.init_weights()
    return revert_sync_batchnorm(model)


def _learn_and_predict(model: nn.Module, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[Any]]:
    """Losses of a step whose gradients reach the whole backbone, and predictions."""
    model.train()
    data = model.data_preprocessor(batch, True)
    losses = model(**data, mode="loss")
    total, logged = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    unused = getattr(getattr(model, "neck", None), "start_level", 0)  # levels that the neck leaves out
    without = {name for name, p in model.backbone.named_parameters() if p.grad is None}
    assert without == {f"norms.{level}.{part}" for level in range(unused) for part in ("weight", "bias")}
    model.eval()
    with torch.no_grad():
        return logged, model(**model.data_preprocessor(batch, False), mode="predict")


def _swap(cfg: Config, name: str, **arguments: Any) -> tuple[int, ...]:
    """The one-line swap; returns the widths that the neck or head is told."""
    cfg.model.backbone = dict(type="VisionSSM", name=name, **arguments)
    return VisionSSM(name, **arguments).channels


# -- detectors ---------------------------------------------------------------------------------------------------------

DETECTORS = [
    ("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "vmamba_nano_test", {}),
    ("retinanet/retinanet_r50_fpn_1x_coco.py", "vssd_nano_test", {}),
    *(
        pytest.param("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", name, {}, marks=pytest.mark.slow)
        for name in FAMILIES
        if name != "vmamba_nano_test"
    ),
    pytest.param(
        "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "hrvmamba_nano_test",
        {"out_indices": (4, 5, 6, 7)},
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", "msvmamba_v3_nano_test", {}, marks=pytest.mark.slow
    ),
    pytest.param("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "spatialmamba_nano_test", {}, marks=pytest.mark.slow),
    pytest.param("atss/atss_r50_fpn_1x_coco.py", "groupmamba_nano_test", {}, marks=pytest.mark.slow),
]


def _small_detector(config: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    cfg = _installed("mmdet", config)
    cfg.model.neck.in_channels = list(_swap(cfg, name, **arguments))
    test_cfg = cfg.model.test_cfg
    if "rpn" in test_cfg:  # proposals by the thousand say no more of the backbone than a few
        test_cfg.rpn.max_per_img = 20
        cfg.model.train_cfg.rpn_proposal.max_per_img = 20
        rcnn = cfg.model.train_cfg.rcnn
        for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
            stage.sampler.num = 32
    return _build(cfg)


@pytest.mark.parametrize("config, name, arguments", DETECTORS)
def test_installed_detector_configs_take_the_backbone(config: str, name: str, arguments: dict[str, Any]) -> None:
    model = _small_detector(config, name, arguments)
    losses, results = _learn_and_predict(model, detection_batch())
    assert {"loss"} < set(losses)
    assert len(results) == 2
    for result in results:
        found = result.pred_instances
        assert len(found.bboxes) == len(found.scores) == len(found.labels)
        assert found.bboxes.isfinite().all()
        if "mask" in config:
            assert found.masks.shape == (len(found.bboxes), 64, 64)


@pytest.mark.slow
def test_deformable_attention_detector_takes_the_backbone() -> None:
    cfg = _installed("mmdet", "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py")
    widths = _swap(cfg, "efficientvmamba_nano_test", out_indices=(1, 2, 3))
    cfg.model.neck.in_channels = list(widths)
    cfg.model.num_queries = 20
    cfg.model.test_cfg.max_per_img = 10
    for part in ("encoder", "decoder"):
        cfg.model[part].num_layers = 1
    losses, results = _learn_and_predict(_build(cfg), detection_batch())
    assert losses["loss"] > 0
    assert len(results[0].pred_instances.scores) == 10


@pytest.mark.slow
def test_detector_learns_where_the_rectangle_is() -> None:
    model = _small_detector("retinanet/retinanet_r50_fpn_1x_coco.py", "vmamba_nano_test", {})
    batch = detection_batch(classes=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(60):
        optimizer.zero_grad()
        total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        result = model(**model.data_preprocessor(batch, False), mode="predict")[0].pred_instances
    best = result.scores.argmax()
    assert result.labels[best] == 0
    torch.testing.assert_close(result.bboxes[best], torch.tensor([8.0, 12.0, 40.0, 44.0]), atol=6.0, rtol=0)


# -- segmentors --------------------------------------------------------------------------------------------------------

SEGMENTORS = [
    ("upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", "vmamba_nano_test"),
    pytest.param("sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py", "plstm_nano_test", marks=pytest.mark.slow),
    pytest.param("sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py", "vmamba_nano_test", marks=pytest.mark.slow),
    *(
        pytest.param("upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", name, marks=pytest.mark.slow)
        for name in FAMILIES
        if name != "vmamba_nano_test"
    ),
]


@pytest.mark.parametrize("config, name", SEGMENTORS)
def test_installed_segmentor_configs_take_the_backbone(config: str, name: str) -> None:
    cfg = _installed("mmseg", config)
    widths = _swap(cfg, name)
    cfg.model.pretrained = None
    cfg.model.data_preprocessor.size = (64, 64)
    if "neck" in cfg.model:
        cfg.model.neck.in_channels = list(widths)
    else:
        cfg.model.decode_head.in_channels = list(widths)
        cfg.model.auxiliary_head.in_channels = widths[2]
    losses, results = _learn_and_predict(_build(cfg), segmentation_batch())
    assert losses["loss"] > 0
    assert [r.pred_sem_seg.data.shape for r in results] == [(1, 64, 64)] * 2


# -- whole runs --------------------------------------------------------------------------------------------------------


def _options(root: Path, **more: Any) -> dict[str, Any]:
    """A published config made small, as a user would on the command line."""
    loaders = {}
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loaders |= {
            f"{name}.num_workers": 0,
            f"{name}.persistent_workers": False,
            f"{name}.dataset.data_root": str(root),
        }
    return {
        "model.backbone.name": "vmamba_nano_test",
        "model.backbone.pretrained": False,
        "randomness.seed": 1,
        **loaders,
        **more,
    }


def _segmentation_options(root: Path) -> dict[str, Any]:
    return _options(
        root,
        **{
            "train_cfg.max_iters": 2,
            "train_cfg.val_interval": 2,
            "default_hooks.checkpoint.interval": 2,
            "model.decode_head.in_channels": [24, 48, 96, 192],
            "model.auxiliary_head.in_channels": 96,
            "model.data_preprocessor.size": (64, 64),
            "train_dataloader.dataset.pipeline.2.scale": (64, 64),
            "train_dataloader.dataset.pipeline.3.crop_size": (64, 64),
            "val_dataloader.dataset.pipeline.1.scale": (64, 64),
            "test_dataloader.dataset.pipeline.1.scale": (64, 64),
        },
    )


@pytest.mark.slow
def test_published_detection_config_trains_resumes_and_tests(tmp_path: Path) -> None:
    from visionssm.cli.launch import evaluate, train

    root = write_coco(tmp_path / "coco")
    config = shipped_config("mask_rcnn_vmamba_tiny_fpn_1x_coco")
    evaluators = {
        f"{name}.ann_file": str(root / "annotations" / "instances_val2017.json")
        for name in ("val_evaluator", "test_evaluator")
    }
    options = _options(
        root,
        **{
            "train_cfg.max_epochs": 1,
            "model.neck.in_channels": [24, 48, 96, 192],
            "model.train_cfg.rpn_proposal.max_per_img": 20,
            "model.test_cfg.rpn.max_per_img": 20,
            "train_dataloader.dataset.pipeline.2.scale": (64, 64),
            "val_dataloader.dataset.pipeline.1.scale": (64, 64),
            "test_dataloader.dataset.pipeline.1.scale": (64, 64),
            **evaluators,
        },
    )
    train(config, work_dir=tmp_path / "work", options=options)  # an untrained detector finds nothing to be measured
    path = tmp_path / "work" / "epoch_1.pth"
    content = torch.load(path, weights_only=True)
    assert content["meta"]["iter"] == 2

    options["model.test_cfg.rcnn.score_thr"] = 0.0
    runner = train(config, work_dir=tmp_path / "work", resume=True, options={**options, "train_cfg.max_epochs": 2})
    assert runner.iter == 4
    metrics = evaluate(config, tmp_path / "work" / "epoch_2.pth", work_dir=tmp_path / "test", options=options)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(metrics)

    predictor = load_predictor(tmp_path / "work" / "epoch_2.pth", threshold=0.0)
    found = predict_files(predictor, [root / "val2017" / "0.png"], pictures=tmp_path / "pictures")
    (result,) = [prediction.result for prediction in found.read]
    assert isinstance(result, Detection)
    assert result.masks is not None
    assert result.masks.shape == (len(result.boxes), 64, 64)
    assert result.scores.tolist() == sorted(result.scores.tolist(), reverse=True)
    assert len(result.classes) == 80
    assert (tmp_path / "pictures" / "0000_0.png").is_file()


@pytest.mark.slow
def test_published_segmentation_config_trains_resumes_and_tests(tmp_path: Path) -> None:
    from visionssm.cli.launch import evaluate, train

    root = write_ade20k(tmp_path / "ade")
    config = shipped_config("upernet_vmamba_tiny_160k_ade20k_512")
    options = _segmentation_options(root)
    train(config, work_dir=tmp_path / "work", options=options)
    assert torch.load(tmp_path / "work" / "iter_2.pth", weights_only=True)["meta"]["iter"] == 2
    runner = train(config, work_dir=tmp_path / "work", resume=True, options={**options, "train_cfg.max_iters": 4})
    assert runner.iter == 4
    metrics = evaluate(config, tmp_path / "work" / "iter_4.pth", work_dir=tmp_path / "test", options=options)
    assert 0 <= metrics["mIoU"] <= 100

    image = Image.open(root / "images" / "validation" / "0.jpg").resize((80, 48))
    (result,) = load_predictor(tmp_path / "work" / "iter_4.pth")([image])
    assert isinstance(result, PixelClasses)
    assert result.numbers.shape == (48, 80)
    assert result.numbers.max() < len(result.classes) == 150


@pytest.mark.slow
def test_mmengines_own_runner_takes_the_published_configs(tmp_path: Path) -> None:
    from mmengine.runner import Runner

    from visionssm.engine.config import load_config

    options = _segmentation_options(write_ade20k(tmp_path / "ade"))
    cfg = load_config(shipped_config("upernet_vmamba_tiny_160k_ade20k_512"), options)
    cfg.work_dir = str(tmp_path / "work")
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.norm_cfg.type = "BN"
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    assert (tmp_path / "work" / "iter_2.pth").is_file()


# -- the backbone type -------------------------------------------------------------------------------------------------


def test_both_registries_find_the_backbone() -> None:
    from mmdet.registry import MODELS as DET_MODELS
    from mmseg.registry import MODELS as SEG_MODELS

    cfg = ConfigDict(type="VisionSSM", name="vmamba_nano_test", out_indices=(1, 3), drop_path_rate=0.1, with_cp=True)
    for registry in (DET_MODELS, SEG_MODELS):
        backbone = registry.build(cfg)
        assert isinstance(backbone, VisionSSM)
        assert backbone.channels == (48, 192)
        maps = backbone(torch.rand(1, 3, 64, 64))
        assert isinstance(maps, tuple)
        assert [x.shape[1] for x in maps] == [48, 192]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "vmamba_nano_tset"}, "did you mean 'vmamba_nano_test'"),
        ({"out_indices": (0, 7)}, "out_indices"),
        ({"frozen_stages": 9}, "frozen_stages"),
        ({"init_cfg": dict(type="Kaiming")}, "init_cfg must be"),
        ({"init_cfg": dict(type="Pretrained", checkpoint="a.pth"), "pretrained": True}, "not both"),
    ],
)
def test_mistakes_in_the_backbone_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionSSM(**{"name": "vmamba_nano_test", **arguments})


# -- authors' checkpoints ----------------------------------------------------------------------------------------------


def _filled(module: nn.Module) -> dict[str, Tensor]:
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in module.state_dict().items()}


def _as_authors(maps: VisionSSM, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """VMamba's second generation has our names but for the norms of outputs."""
    levels = [s.bit_length() - 3 for s in maps.strides]
    out = {}
    for key, value in state.items():
        kind, _, rest = key.partition(".")
        if kind == "norms":
            position, part = rest.split(".")
            out[f"outnorm{levels[int(position)]}.{part}"] = value
        else:
            out[rest] = value
    return out


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3), (0, 2)])
def test_backbone_of_a_detectors_file_is_loaded_with_its_norms(tmp_path: Path, out_indices: tuple[int, ...]) -> None:
    whole = VisionSSM("vmamba_nano_test")
    state = _filled(whole)
    file = tmp_path / "det.pth"
    theirs = {f"backbone.{k}": v for k, v in _as_authors(whole, state).items()}
    torch.save({"state_dict": {**theirs, "neck.x.weight": torch.rand(2)}, "meta": {}}, file)
    for arguments in ({"pretrained": str(file)}, {"init_cfg": dict(type="Pretrained", checkpoint=str(file))}):
        maps = VisionSSM("vmamba_nano_test", out_indices=out_indices, **arguments)
        for position, level in enumerate(out_indices):
            torch.testing.assert_close(maps.norms[position].weight, state[f"norms.{level}.weight"])
        for key, value in maps.model.state_dict().items():
            torch.testing.assert_close(value, state[f"model.{key}"])


def test_incomplete_files_and_other_variants_are_refused(tmp_path: Path) -> None:
    maps = VisionSSM("vmamba_nano_test")
    theirs = {f"backbone.{k}": v for k, v in _as_authors(maps, _filled(maps)).items()}
    file = tmp_path / "det.pth"
    torch.save({"state_dict": {k: v for k, v in theirs.items() if k != "backbone.layers.0.blocks.0.norm.weight"}}, file)
    with pytest.raises(CheckpointError, match=r"1 missing: model.layers.0.blocks.0.norm.weight"):
        load_backbone(maps, file)
    torch.save({"state_dict": {k: v for k, v in theirs.items() if k != "backbone.outnorm2.bias"}}, file)
    with pytest.raises(CheckpointError, match=r"norms.2.bias"):
        load_backbone(maps, file)
    torch.save({"state_dict": theirs}, file)
    with pytest.raises(CheckpointError, match="mis-shaped"):
        load_backbone(VisionSSM("vmamba_nano_test", dim=16), file)
    with pytest.raises(CheckpointError, match="unexpected"):
        load_backbone(VisionSSM("vmamba_nano_test", norm_outputs=False), file)
    with pytest.raises(FileNotFoundError):
        VisionSSM("vmamba_nano_test", pretrained=str(tmp_path / "no.pth"))


def test_classifiers_file_leaves_the_norms_new(tmp_path: Path) -> None:
    classifier = timm.create_model("vmamba_nano_test", num_classes=7)
    file = tmp_path / "cls.pth"
    torch.save({"model": classifier.state_dict()}, file)
    maps = VisionSSM("vmamba_nano_test", pretrained=str(file))
    for key, value in maps.model.state_dict().items():
        torch.testing.assert_close(value, classifier.state_dict()[key])
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in maps.norms)


def test_our_own_state_dict_is_loaded_too(tmp_path: Path) -> None:
    source = VisionSSM("vmamba_nano_test", out_indices=(0, 3))
    source.load_state_dict(_filled(source))
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "ours.pth")
    maps = VisionSSM("vmamba_nano_test", out_indices=(0, 3), pretrained=str(tmp_path / "ours.pth"))
    torch.testing.assert_close(dict(maps.state_dict()), dict(source.state_dict()))


def test_whole_detectors_file_is_loaded_strictly(tmp_path: Path) -> None:
    def detector() -> nn.Module:
        model = nn.Module()
        model.backbone, model.neck = VisionSSM("vmamba_nano_test"), nn.Linear(3, 2)
        return model

    source, target = detector(), detector()
    source.load_state_dict(_filled(source))
    backbone = source.backbone
    assert isinstance(backbone, VisionSSM)
    theirs = {f"backbone.{k}": v for k, v in _as_authors(backbone, dict(backbone.state_dict())).items()}
    theirs |= {f"neck.{k}": v for k, v in source.neck.state_dict().items()}
    torch.save({"state_dict": theirs}, tmp_path / "det.pth")
    load_dense(target, tmp_path / "det.pth")
    torch.testing.assert_close(dict(target.state_dict()), dict(source.state_dict()))
    del theirs["neck.bias"]
    torch.save({"state_dict": theirs}, tmp_path / "det.pth")
    with pytest.raises(CheckpointError, match=r"neck\.bias"):
        load_dense(target, tmp_path / "det.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", find_cases("Spatial-Mamba for dense tasks") + find_cases("HRVMamba for segmentation"), ids=str
)
def test_dense_backbones_are_the_authors(tmp_path: Path, case: Case) -> None:
    name = case.data["name"].removesuffix("_backbone").removesuffix("_seg")
    out_indices = (4, 5, 6, 7) if name.startswith("hrvmamba") else (0, 1, 2, 3)
    file = tmp_path / "dense.pth"
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in case.state_dict().items()}}, file)
    maps = VisionSSM(name, out_indices=out_indices, pretrained=str(file)).eval()
    with torch.no_grad():
        outputs = maps(case.image())
    for number, output in enumerate(outputs):
        assert case.relative_error(f"out{number}", output) < 1e-4


# Cases hold the authors' names of every family; a detector's file has them behind `backbone.`, without the classifier.
LAYOUTS = [
    ("vmamba", "vmamba_tiny_s1l8"),
    ("vmamba", "vmamba_v0_tiny"),
    ("msvmamba", "msvmamba_nano"),
    ("msvmamba", "msvmamba_v3_tiny"),
    ("efficientvmamba", "efficientvmamba_tiny"),
    ("spatialmamba", "spatialmamba_tiny"),
    ("vssd", "vssd_micro"),
    ("groupmamba", "groupmamba_tiny"),
    ("mambavision", "mambavision_tiny"),
]


@pytest.mark.slow
@pytest.mark.parametrize("family, name", LAYOUTS)
def test_authors_layout_of_every_family_is_understood(tmp_path: Path, family: str, name: str) -> None:
    state = {k: torch.rand(shape) for k, shape in recorded_case(family, name).data["state"].items()}
    classifier = visionssm.load_official(timm.create_model(name), state)
    heads = ("classifier.", "head.", "dist_head.", "aux_head.")
    theirs = {f"backbone.{k}": v for k, v in state.items() if not k.startswith(heads)}
    maps = VisionSSM(name)
    for level, width in enumerate(maps.channels):
        theirs |= {f"backbone.outnorm{level}.{part}": torch.rand(width) for part in ("weight", "bias")}
    torch.save({"state_dict": theirs}, tmp_path / "det.pth")
    load_backbone(maps, tmp_path / "det.pth")
    expected = classifier.state_dict()
    for key, value in maps.model.state_dict().items():
        torch.testing.assert_close(value, expected[key])
    torch.testing.assert_close(maps.norms[2].weight, theirs["backbone.outnorm2.weight"])


def test_classifier_of_our_training_is_a_backbone_whatever_its_classes(tmp_path: Path) -> None:
    classifier = timm.create_model("vmamba_nano_test", num_classes=10)
    weights = {key: torch.randn_like(x) for key, x in classifier.state_dict().items()}
    torch.save({"meta": {}, "state_dict": {f"model.{key}": x for key, x in weights.items()}}, tmp_path / "best.pth")
    for options in ({}, {"norm_outputs": False}, {"out_indices": (0, 1)}):
        maps = VisionSSM("vmamba_nano_test", pretrained=str(tmp_path / "best.pth"), **options)
        loaded = {key.removeprefix("model."): x for key, x in maps.state_dict().items() if key.startswith("model.")}
        assert len(loaded) > 10
        assert all(torch.equal(x, weights[key]) for key, x in loaded.items())
        torch.save(maps.state_dict(), tmp_path / "maps.pth")
        again = VisionSSM("vmamba_nano_test", pretrained=str(tmp_path / "maps.pth"), **options)
        assert all(torch.equal(x, again.state_dict()[key]) for key, x in maps.state_dict().items())
