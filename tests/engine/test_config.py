"""Mistakes in a configuration are told before anything is built; the published recipe is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm
from tests.configs import CONFIGS, shipped_config, shipped_configs
from tests.engine.tiny import logged, write_config
from visionssm.cli.launch import prepare, train
from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest
from visionssm.engine.config import check_config, check_data, load_config
from visionssm.engine.errors import ConfigError
from visionssm.engine.optim import DecayConstructor, MixedPrecision
from visionssm.engine.runner import VisionRunner

IMAGENET = shipped_configs("*_imagenet.py")
DIGITS = shipped_configs("*_nano_digits.py")


class Recipe(NamedTuple):
    """Key figures of a published ImageNet recipe."""

    lr: float = 1e-3  # the highest
    batch: int = 1024  # that it is for
    first_lr: float = 1e-6
    last_lr: float = 1e-5
    warm_up: int = 20  # epochs
    epochs: int = 300
    decay: float = 0.05
    clip: float | None = 5.0
    ema: float | None = 0.9999
    mixup: float = 0.8
    mesa: float | None = None  # weight of the moving average's predictions from a quarter of the epochs on
    repeats: int = 1  # views of an image in a step
    size: int = 224

    def but(self, **changes: Any) -> Recipe:
        return self._replace(**changes)


SWIN = Recipe()
LARGE = SWIN.but(lr=6e-4, last_lr=6e-6)
EFFICIENT = SWIN.but(lr=2e-3, batch=2048, first_lr=1e-7, last_lr=1e-6, decay=0.04, clip=1.0, mixup=0.2)
METAFORMER = SWIN.but(lr=4e-3, batch=4096, epochs=310, clip=None, ema=None)
DEIT = SWIN.but(warm_up=5, clip=None, ema=0.99996, repeats=3)
VIDEOMAMBA = DEIT.but(lr=4e-3, batch=4096, clip=5.0, ema=None)
FINE_TUNING = DEIT.but(lr=1e-5, first_lr=1e-5, warm_up=0, epochs=30, decay=1e-8)
LOCAL = SWIN.but(first_lr=1e-7, last_lr=1e-6, decay=0.04, mixup=0.2, clip=1.0)
LOCALVIM = LOCAL.but(clip=None, ema=None)
PLAIN = SWIN.but(lr=2e-3, batch=2048, first_lr=2e-6, last_lr=2e-5)
MAMBAVISION = SWIN.but(lr=5e-3, batch=4096, last_lr=5e-6, epochs=310, ema=0.9998)
DEIT3 = Recipe(4e-3, 2048, 4e-6, 4e-6, 5, 400, decay=0.02, clip=1.0, ema=None, repeats=3, size=192)

# configuration: model, drop path, recipe
PUBLISHED: dict[str, tuple[str, float, Recipe]] = {
    "efficientvim_m1": ("efficientvim_m1", 0.0, SWIN),
    "efficientvim_m2": ("efficientvim_m2", 0.0, SWIN),
    "efficientvim_m3": ("efficientvim_m3", 0.0, SWIN),
    "efficientvim_m4": ("efficientvim_m4", 0.0, SWIN.but(size=256)),
    "efficientvmamba_tiny": ("efficientvmamba_tiny", 0.1, EFFICIENT),
    "efficientvmamba_small": ("efficientvmamba_small", 0.1, EFFICIENT),
    "efficientvmamba_base": ("efficientvmamba_base", 0.1, EFFICIENT.but(batch=1024)),
    "groupmamba_tiny": ("groupmamba_tiny", 0.05, SWIN),
    "groupmamba_small": ("groupmamba_small", 0.05, SWIN),
    "groupmamba_base": ("groupmamba_base", 0.05, SWIN),
    "hrvmamba_nano": ("hrvmamba_nano", 0.1, SWIN.but(size=256)),
    "hrvmamba_tiny": ("hrvmamba_tiny", 0.1, SWIN.but(size=256)),
    "hrvmamba_small": ("hrvmamba_small", 0.2, SWIN.but(size=256)),
    "hrvmamba_base": ("hrvmamba_base", 0.2, SWIN),
    "localvim_tiny": ("localvim_tiny", 0.1, LOCALVIM),
    "localvim_tiny_midcls": ("localvim_tiny_midcls", 0.1, LOCALVIM),
    "localvim_small": ("localvim_small", 0.1, LOCALVIM),
    "localvim_tiny_nosearch": ("localvim_tiny_nosearch", 0.1, LOCALVIM),
    "localvim_tiny_search": ("localvim_tiny_search", 0.1, LOCALVIM.but(epochs=100)),
    "localvmamba_tiny": ("localvmamba_tiny", 0.2, LOCAL),
    "localvmamba_small": ("localvmamba_small", 0.2, LOCAL),
    "localvmamba_tiny_search": ("localvmamba_tiny_search", 0.2, LOCAL.but(epochs=100, ema=None)),
    "localvmamba_small_search": ("localvmamba_small_search", 0.2, LOCAL.but(epochs=100, ema=None)),
    "mambaout_femto": ("mambaout_femto", 0.025, METAFORMER),
    "mambaout_kobe": ("mambaout_kobe", 0.025, METAFORMER),
    "mambaout_tiny": ("mambaout_tiny", 0.2, METAFORMER),
    "mambaout_small": ("mambaout_small", 0.4, METAFORMER),
    "mambaout_base": ("mambaout_base", 0.6, METAFORMER),
    "mambavision_tiny": ("mambavision_tiny", 0.2, MAMBAVISION.but(mesa=0.5)),
    "mambavision_tiny2": ("mambavision_tiny2", 0.2, MAMBAVISION.but(mesa=0.75)),
    "mambavision_small": ("mambavision_small", 0.2, MAMBAVISION.but(mesa=1.0)),
    "mambavision_base": ("mambavision_base", 0.3, MAMBAVISION.but(mesa=1.0, warm_up=35, decay=0.075)),
    "mambavision_large": ("mambavision_large", 0.3, MAMBAVISION.but(mesa=6.0, decay=0.12)),
    "mambavision_large2": ("mambavision_large2", 0.3, MAMBAVISION.but(mesa=6.0, decay=0.12)),
    "msvmamba_nano": ("msvmamba_nano", 0.2, SWIN),
    "msvmamba_micro": ("msvmamba_micro", 0.2, SWIN),
    "msvmamba_tiny": ("msvmamba_tiny", 0.2, SWIN),
    "msvmamba_v3_tiny": ("msvmamba_v3_tiny", 0.2, SWIN),
    "msvmamba_v3_small": ("msvmamba_v3_small", 0.4, SWIN),
    "msvmamba_v3_base": ("msvmamba_v3_base", 0.5, LARGE),
    "plainmamba_l1": ("plainmamba_l1", 0.2, PLAIN.but(warm_up=15, ema=None)),
    "plainmamba_l2": ("plainmamba_l2", 0.2, PLAIN.but(clip=1.0)),
    "plainmamba_l3": ("plainmamba_l3", 0.4, SWIN.but(clip=1.0)),
    "plstm_tiny": ("plstm_vis_t", 0.0, DEIT3.but(epochs=800)),
    "plstm_small": ("plstm_vis_s", 0.05, DEIT3),
    "plstm_base": ("plstm_vis_b", 0.1, DEIT3.but(lr=3e-3, first_lr=3e-6, last_lr=3e-6)),
    "spatialmamba_tiny": ("spatialmamba_tiny", 0.2, SWIN.but(mesa=1.0)),
    "spatialmamba_small": ("spatialmamba_small", 0.3, SWIN.but(mesa=1.5)),
    "spatialmamba_base": ("spatialmamba_base", 0.5, SWIN.but(mesa=2.0)),
    "videomamba_img_tiny": ("videomamba_img_tiny", 0.0, VIDEOMAMBA.but(decay=0.1, repeats=1)),
    "videomamba_img_small": ("videomamba_img_small", 0.15, VIDEOMAMBA.but(clip=None)),
    "videomamba_img_middle": ("videomamba_img_middle", 0.5, VIDEOMAMBA.but(lr=1e-3, batch=1024)),
    "videomamba_img_base": ("videomamba_img_base", 0.5, VIDEOMAMBA.but(lr=1e-3, batch=1024)),
    "vim_tiny": ("vim_tiny", 0.0, DEIT.but(decay=0.1)),
    "vim_small": ("vim_small", 0.05, DEIT.but(batch=512)),
    "vim_base": ("vim_base", 0.05, DEIT.but(batch=512)),
    "vim_tiny_stride8": ("vim_tiny_stride8", 0.0, FINE_TUNING),
    "vim_small_stride8": ("vim_small_stride8", 0.0, FINE_TUNING),
    "vmamba_t": ("vmamba_tiny_s1l8", 0.2, SWIN),
    "vmamba_tiny_s2l5": ("vmamba_tiny_s2l5", 0.2, SWIN),
    "vmamba_small_s2l15": ("vmamba_small_s2l15", 0.3, SWIN),
    "vmamba_small_s1l20": ("vmamba_small_s1l20", 0.3, SWIN),
    "vmamba_base_s2l15": ("vmamba_base_s2l15", 0.6, SWIN),
    "vmamba_base_s1l20": ("vmamba_base_s1l20", 0.5, SWIN),
    "vmamba_v0_tiny": ("vmamba_v0_tiny", 0.1, SWIN),
    "vmamba_v0_small": ("vmamba_v0_small", 0.3, SWIN),
    "vmamba_v0_base": ("vmamba_v0_base", 0.6, SWIN),
    "vssd_micro": ("vssd_micro", 0.2, SWIN),
    "vssd_tiny": ("vssd_tiny", 0.2, SWIN),
    "vssd_small": ("vssd_small", 0.4, LARGE),
    "vssd_base": ("vssd_base", 0.6, LARGE),
    "vssd_tiny_mesa": ("vssd_tiny", 0.2, SWIN.but(mesa=1.0)),
    "vssd_small_mesa": ("vssd_small", 0.4, LARGE.but(mesa=1.5)),
    "vssd_base_mesa": ("vssd_base", 0.6, LARGE.but(mesa=2.0)),
}


@pytest.mark.parametrize(
    "option, message",
    [
        ({"trian_cfg": {}}, r"'trian_cfg' at the top level.*'train_cfg'"),
        ({"model.drop_path": 0.1}, r"'drop_path' in model \(ImageClassifier\).*'drop_path_rate'"),
        ({"model.type": "ImageClasifier"}, r"model.type='ImageClasifier'.*'ImageClassifier'"),
        ({"train_dataloader.dataset.sizes": 8}, r"'sizes' in train_dataloader.dataset \(DigitsDataset\).*'size'"),
        ({"train_dataloader.batchsize": 8}, r"'batchsize' in train_dataloader.*'batch_size'"),
        ({"optim_wrapper.optimizer.weight_deacy": 8}, r"'weight_deacy' in optim_wrapper.optimizer.*'weight_decay'"),
        ({"optim_wrapper.clip_gard": 8}, r"'clip_gard' in optim_wrapper"),
        ({"param_scheduler": [{"type": "CosineAnnealingLR", "eta": 1}]}, r"'eta' in param_scheduler\[0\]"),
        ({"default_hooks.checkpoint.intervall": 8}, r"'intervall' in default_hooks.checkpoint.*'interval'"),
        ({"train_cfg.max_epoch": 8}, r"'max_epoch' in train_cfg.*'max_epochs'"),
    ],
)
def test_unknown_key_is_named_with_the_closest_valid_one(tmp_path: Path, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_config(load_config(write_config(tmp_path), option))


def test_helper_variables_with_an_underscore_are_allowed(tmp_path: Path) -> None:
    check_config(load_config(write_config(tmp_path, "_size = 3\n")))


def test_missing_config_names_the_closest_file(tmp_path: Path) -> None:
    write_config(tmp_path)
    with pytest.raises(ConfigError, match=r"no configuration .*'tiny.py'"):
        load_config(tmp_path / "tinny.py")


@pytest.mark.parametrize(
    "old, new",
    [
        ("vim_tiny_imagenet.py", "classification/vim/vim_tiny_imagenet.py"),
        ("detection/mask_rcnn_vssd_tiny_fpn_1x_coco.py", "detection/vssd/mask_rcnn_vssd_tiny_fpn_1x_coco.py"),
        ("convs5_nano_moving_digits.py", "video/convs5/convs5_nano_moving_digits.py"),
    ],
)
def test_config_that_moved_is_told_with_its_new_place(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=rf"no configuration .*it is at {re.escape(str(CONFIGS / new))}$"):
        load_config(CONFIGS / old)


def test_file_names_of_configs_are_unique_and_their_folders_name_task_and_family() -> None:
    paths = shipped_configs("*.py")
    assert len({path.name for path in paths}) == len(paths)
    for path in paths:
        task, *family = path.relative_to(CONFIGS).parts[:-1] or [""]
        known = (
            "classification",
            "detection",
            "medical",
            "pointcloud",
            "pose",
            "restoration",
            "segmentation",
            "video",
            "video_classification",
            "yolo",
        )
        assert task in ("", *known)
        if family and "vit_arrow" not in path.name:  # which is beside the pLSTM that it is compared with
            assert family[0] in re.split("_(?=.)", path.stem)


def test_config_with_a_syntax_error_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_config(write_config(tmp_path, "model = dict(\n"))


def test_unknown_model_name_gives_the_closest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vmamba_nano_tset.*'vmamba_nano_test'"):
        train(write_config(tmp_path, model="vmamba_nano_tset"), work_dir=tmp_path)


def test_unknown_model_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_thing"):
        train(write_config(tmp_path), work_dir=tmp_path, options={"model.model_kwargs": {"no_such_thing": 1}})


def test_wrong_number_of_classes_is_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_classes=7, but the data set has 10 classes"):
        train(write_config(tmp_path), work_dir=tmp_path, options={"model.num_classes": 7})


def test_batch_larger_than_the_data_set_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give no batch"):
        train(
            write_config(tmp_path),
            work_dir=tmp_path,
            options={
                "train_dataloader": {
                    **load_config(write_config(tmp_path)).train_dataloader,
                    "batch_size": 4000,
                    "num_batch_per_epoch": None,
                }
            },
        )


def test_odd_batch_with_mixup_is_told(tmp_path: Path) -> None:
    options = {"model.mixup": {"mixup_alpha": 0.8}, "train_dataloader.batch_size": 15}
    with pytest.raises(ConfigError, match="even"):
        train(write_config(tmp_path), work_dir=tmp_path, options=options)


def test_missing_imagenet_is_told_before_the_model_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "no_imagenet"))
    monkeypatch.setattr(VisionRunner, "build_model", lambda *_: pytest.fail("the model was built"))
    with pytest.raises(DatasetError, match=r"train_dataloader: .*no_imagenet.*IMAGENET_ROOT|no_imagenet"):
        train(shipped_config("vmamba_t_imagenet"), work_dir=tmp_path)


def test_missing_data_root_of_any_data_set_is_told(tmp_path: Path) -> None:
    cfg = {"train_dataloader": {"dataset": {"type": "BaseDataset", "data_root": str(tmp_path / "gone")}}}
    with pytest.raises(DatasetError, match="gone"):
        check_data(cfg)


def test_launcher_without_torchrun_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        prepare(write_config(tmp_path), launcher="pytorch")


def test_there_is_a_config_for_every_published_variant() -> None:
    assert {path.stem.removesuffix("_imagenet") for path in IMAGENET} == PUBLISHED.keys()
    others = re.compile(
        "_nano_test$|^plstm|^convs5|^mambayolo|_nano_plain$|_tiny_plain$|_21k$"
    )  # their tasks, a detector's backbone, the same recipe, none published
    ours = {name for name in visionssm.list_models() if not others.search(name)}
    assert ours <= {model for model, _, _ in PUBLISHED.values()}
    families = {path.stem.split("_")[0] for path in IMAGENET}
    assert {path.stem.split("_")[0] for path in DIGITS} == families


def _recipe(cfg: Any) -> Recipe:
    """What a configuration asks for, in the terms of `Recipe`."""
    optimizer, wrapper = cfg.optim_wrapper.optimizer, cfg.optim_wrapper
    family = cfg.model.name.partition("_")[0]
    processes = {"efficientvmamba": 16, "mambavision": 32}.get(family, 8)
    schedules = {schedule.type: schedule for schedule in cfg.param_scheduler}
    warm_up, cosine = schedules.get("LinearLR", {}), schedules.get("CosineAnnealingLR", {})
    averages = [hook.momentum for hook in cfg.custom_hooks if hook["type"] == "EMAHook"]
    sampler = cfg.train_dataloader.sampler
    return Recipe(
        lr=optimizer.lr,
        batch=cfg.train_dataloader.batch_size * processes * wrapper.get("accumulative_counts", 1),
        first_lr=optimizer.lr * warm_up.get("start_factor", 1.0),
        last_lr=cosine.get("eta_min", optimizer.lr * cosine.get("eta_min_ratio", 1.0)),
        warm_up=warm_up.get("end", 0),
        epochs=cfg.train_cfg.max_epochs,
        decay=optimizer.weight_decay,
        clip=wrapper.clip_grad["max_norm"] if wrapper.get("clip_grad") else None,
        ema=1 - averages[0] if averages else None,
        mixup=cfg.model.mixup.mixup_alpha,
        mesa=cfg.model.get("weight") if cfg.model.type == "MesaClassifier" else None,
        repeats=sampler.get("num_repeats", 1) if sampler.type == "RepeatedAugmentationSampler" else 1,
        size=cfg.train_dataloader.dataset.transform.input_size[-1],
    )


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_imagenet_config_is_the_published_recipe_and_fits_its_model(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    name, drop_path, recipe = PUBLISHED[path.stem.removesuffix("_imagenet")]
    assert (cfg.model.name, cfg.model.drop_path_rate) == (name, drop_path)
    found = _recipe(cfg)
    if cfg.auto_scale_lr.enable and name.startswith("hrvmamba"):  # nano and tiny: twice the batch and twice the rate
        found = found.but(batch=cfg.auto_scale_lr.base_batch_size)
    assert [x or 0.0 for x in found] == pytest.approx([x or 0.0 for x in recipe], rel=1e-9)
    assert cfg.auto_scale_lr.base_batch_size == recipe.batch or not cfg.auto_scale_lr.enable
    has_hook = "MesaHook" in [hook["type"] for hook in cfg.custom_hooks]
    assert has_hook == (recipe.mesa is not None)
    if recipe.mesa:
        assert cfg.model.begin == int(recipe.epochs * (0.3 if name == "mambavision_base" else 0.25))

    assert timm.is_model(name)
    published = timm.get_pretrained_cfg(name)
    transform = cfg.val_dataloader.dataset.transform
    assert transform.interpolation == published.interpolation
    assert tuple(transform.mean) == tuple(published.mean)
    assert tuple(transform.std) == tuple(published.std)
    assert tuple(transform.input_size) == (3, recipe.size, recipe.size)
    if recipe.size != DEIT3.size:  # pLSTM is pre-trained on smaller images than its published weights are for
        assert tuple(transform.input_size) == tuple(published.input_size)
        assert transform.crop_pct == published.crop_pct
    else:
        assert transform.crop_pct == 1.0


AUGMENTATION = {
    "input_size": None,
    "mean": None,
    "std": None,
    "interpolation": "bicubic",
    "color_jitter": 0.4,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "re_prob": 0.25,
    "re_mode": "pixel",
}
# Families, and models, whose publications have another one.
AUGMENTED: dict[str, dict[str, Any]] = {
    "efficientvmamba": {"auto_augment": "rand-m9-mstd0.5"},
    "localvim": {"color_jitter": 0.3, "auto_augment": "rand-m9-mstd0.5"},
    "localvmamba": {"color_jitter": 0.3, "auto_augment": "rand-m9-mstd0.5"},
    "mambaout": {"interpolation": "random"},
    "mambavision": {"interpolation": "random"},
    "plstm": {"color_jitter": 0.3, "auto_augment": "3a", "re_prob": 0.0},
    "videomamba": {"color_jitter": 0.3},
    "videomamba_img_tiny": {"color_jitter": 0.3, "auto_augment": None},
    "vim": {"color_jitter": 0.3},
}


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_images_of_an_imagenet_config_are_augmented_and_mixed_as_published(path: Path) -> None:
    cfg = load_config(path)
    family = path.stem.partition("_")[0]
    found = {
        key: x for key, x in cfg.train_dataloader.dataset.transform.items() if AUGMENTATION.get(key, "") is not None
    }
    wanted = {key: x for key, x in AUGMENTATION.items() if x is not None} | AUGMENTED.get(
        cfg.model.name, AUGMENTED.get(family, {})
    )
    assert found == wanted
    mixing = {key: x for key, x in cfg.model.mixup.items() if key != "mixup_alpha"}  # which is in the recipe
    assert mixing == {"cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5, "mode": "batch"}
    assert cfg.model.label_smoothing == (0.0 if family == "plstm" else 0.1)


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_optimizer_of_an_imagenet_config_has_every_parameter_in_one_group(path: Path) -> None:
    cfg = load_config(path)
    arguments = {"drop_path_rate": cfg.model.drop_path_rate}
    if "stride8" not in cfg.model.name:
        arguments |= cfg.model.get("model_kwargs", {})
    with torch.device("meta"):
        model = timm.create_model(cfg.model.name, **arguments)
    options = {key: x for key, x in cfg.optim_wrapper.items() if key not in ("constructor", "dtype")}
    wrapper = DecayConstructor({**options, "type": "OptimWrapper"})(model)
    groups = wrapper.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, cfg.optim_wrapper.optimizer.weight_decay}
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("path", [*IMAGENET, *DIGITS], ids=lambda path: path.stem)
def test_unknown_keys_of_a_shipped_config_are_refused(path: Path) -> None:
    check_config(load_config(path))
    for key in ("model", "train_dataloader.dataset", "train_dataloader.sampler", "optim_wrapper.optimizer"):
        with pytest.raises(ConfigError, match=f"'no_such_key' in {key}"):
            check_config(load_config(path, {f"{key}.no_such_key": 1}))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem.startswith("vmamba") else [pytest.mark.slow]) for path in DIGITS],
    ids=lambda path: path.stem,
)
def test_loss_falls_in_the_first_steps_on_the_digits(path: Path, tmp_path: Path) -> None:
    epochs = 2 if path.stem.startswith("plstm") else 1  # pLSTM's published classifier begins close to zero
    options = {"train_cfg.max_epochs": epochs, "param_scheduler": [], "default_hooks.logger.interval": 1}
    train(path, work_dir=tmp_path, options=options)
    losses = logged(tmp_path, "loss")  # averaged by MMEngine over the last ten steps
    assert len(losses) == 21 * epochs
    assert losses[-1] < losses[0] - 0.15
    assert (tmp_path / "best.pth").exists()


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_config_inherits_at_most_once(path: Path) -> None:
    (base,) = re.findall(r'_base_ = "(.+)"', path.read_text())
    assert (path.parent / base).resolve() == CONFIGS / "_base_" / "imagenet.py"
    assert "_base_ =" not in (path.parent / base).read_text()


def test_imagenet_recipe_follows_the_published_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of 4 an epoch: rates at the beginning, after warm-up and at the end, scaled by 4 / 1024."""
    for split in ("train", "val"):
        folder = tmp_path / split / "x"
        folder.mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (8, 8)).save(folder / f"{number}.png")
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path))
    small = {"num_workers": 0, "persistent_workers": False, "batch_size": 4, "pin_memory": False}
    options = {
        f"{name}.{key}": value for name in ("train_dataloader", "val_dataloader") for key, value in small.items()
    }
    options |= {"model.name": "vmamba_nano_test", "model.num_classes": 1, "visualizer": None}
    cfg = prepare(shipped_config("vmamba_t_imagenet"), work_dir=tmp_path / "work", options=options)
    runner = VisionRunner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert isinstance(runner.optim_wrapper, MixedPrecision)
    runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    schedulers = runner.build_param_scheduler(runner.param_schedulers)
    rates = []
    for _ in range(2 * 300):
        rates.append(runner.optim_wrapper.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    scale = 4 / 1024
    assert rates[0] == pytest.approx(1e-6 * scale, rel=1e-6)
    assert max(rates) == pytest.approx(1e-3 * scale, rel=1e-3)
    assert 37 <= rates.index(max(rates)) <= 41  # warm-up takes 20 epochs of two steps
    assert rates[-1] == pytest.approx(1e-5 * scale, rel=0.02)
    decay = {group["weight_decay"]: len(group["params"]) for group in runner.optim_wrapper.param_groups}
    assert set(decay) == {0.0, 0.05}


def test_decay_leaves_out_vectors_biases_and_what_the_model_excludes(tmp_path: Path) -> None:
    runner = VisionRunner.from_cfg(prepare(write_config(tmp_path), work_dir=tmp_path))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    decayed = {id(p) for group in wrapper.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in runner.model.named_parameters():
        excluded = parameter.ndim <= 1 or name.endswith((".bias", "A_logs", ".Ds"))
        assert (id(parameter) in decayed) != excluded, name
    assert any("A_logs" in name and p.ndim == 2 for name, p in runner.model.named_parameters()), "nothing was tested"
    assert sum(len(group["params"]) for group in wrapper.optimizer.param_groups) == len(list(runner.model.parameters()))


@pytest.mark.parametrize(
    "name, known, expected",
    [
        ("max_epoch", ["max_epochs", "val_begin"], "'max_epochs'"),
        ("numClasses", ["num_classes", "name"], "'num_classes'"),
        ("zzz", ["alpha", "beta"], "none is similar; known are alpha, beta"),
    ],
)
def test_closest_finds_what_was_meant(name: str, known: list[str], expected: str) -> None:
    assert closest(name, known) == expected


def test_options_for_helper_variables_are_refused(tmp_path: Path) -> None:
    config = write_config(tmp_path, "_epochs = 2\ntrain_cfg['max_epochs'] = _epochs\n")
    with pytest.raises(ConfigError, match=r"_epochs=… would have no effect.*here: .*train_cfg\.max_epochs"):
        load_config(config, {"_epochs": 7})


def test_a_loop_that_is_named_may_say_that_it_counts_epochs(tmp_path: Path) -> None:
    loop = {"_delete_": True, "type": "EpochBasedTrainLoop", "by_epoch": True, "max_epochs": 1, "val_interval": 9}
    options = {"train_cfg": loop, "train_dataloader.num_batch_per_epoch": 1, "param_scheduler": []}
    assert train(write_config(tmp_path), work_dir=tmp_path, options=options).iter == 1
