"""Mistakes in a configuration are told before anything is built; the published recipe is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
from PIL import Image

import visionssm
import visionssm.engine.registration  # noqa: F401
from tests.engine.tiny import write_config
from visionssm.data.errors import DatasetError
from visionssm.data.spelling import closest
from visionssm.engine.config import check_config, check_data, load_config
from visionssm.engine.errors import ConfigError
from visionssm.engine.launch import prepare, train
from visionssm.engine.optim import MixedPrecision
from visionssm.engine.runner import VisionRunner

CONFIGS = Path(__file__).parents[2] / "configs"
IMAGENET = sorted(CONFIGS.glob("vmamba_*_imagenet.py"))
DROP_PATH = {
    "vmamba_tiny_s1l8": 0.2,
    "vmamba_tiny_s2l5": 0.2,
    "vmamba_small_s2l15": 0.3,
    "vmamba_small_s1l20": 0.3,
    "vmamba_base_s2l15": 0.6,
    "vmamba_base_s1l20": 0.5,
    "vmamba_v0_tiny": 0.1,
    "vmamba_v0_small": 0.3,
    "vmamba_v0_base": 0.6,
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
        train(CONFIGS / "vmamba_t_imagenet.py", work_dir=tmp_path)


def test_missing_data_root_of_any_data_set_is_told(tmp_path: Path) -> None:
    cfg = {"train_dataloader": {"dataset": {"type": "BaseDataset", "data_root": str(tmp_path / "gone")}}}
    with pytest.raises(DatasetError, match="gone"):
        check_data(cfg)


def test_launcher_without_torchrun_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        prepare(write_config(tmp_path), launcher="pytorch")


def test_there_is_a_config_for_every_published_variant() -> None:
    assert {load_config(path).model.name for path in IMAGENET} == DROP_PATH.keys()


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_imagenet_config_is_valid_and_fits_its_model(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    assert cfg.model.drop_path_rate == DROP_PATH[cfg.model.name]
    published = timm.get_pretrained_cfg(cfg.model.name)
    transform = cfg.val_dataloader.dataset.transform
    assert transform.interpolation == published.interpolation
    assert tuple(transform.mean) == tuple(published.mean)
    assert tuple(transform.std) == tuple(published.std)
    assert tuple(transform.input_size) == tuple(published.input_size)


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_config_inherits_at_most_once(path: Path) -> None:
    base = path.parent / "_base_" / "imagenet.py"
    assert '_base_ = "_base_/imagenet.py"' in path.read_text()
    assert "_base_ =" not in base.read_text()


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
    cfg = prepare(CONFIGS / "vmamba_t_imagenet.py", work_dir=tmp_path / "work", options=options)
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
