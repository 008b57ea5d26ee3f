"""A folder of images is all that fine-tuning needs: classes, parts, batch and images follow from it and the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

import visionssm.tasks.classification.model as classifiers
from tests.configs import shipped_config
from visionssm.checkpoints import CheckpointError, DownloadError
from visionssm.cli.launch import evaluate, prepare, train
from visionssm.cli.predict import main as predict
from visionssm.data.errors import DatasetError
from visionssm.engine.checkpoint import load_checkpoint
from visionssm.engine.config import check_config, complete_config
from visionssm.engine.errors import ConfigError
from visionssm.tasks.classification.completing import _batch_size
from visionssm.tasks.classification.folder import check_folder_dataset, find_images, folder_dataset
from visionssm.tasks.classification.model import ImageClassifier

CONFIG = shipped_config("finetune_folder")
NAMES = ("a nought", "the one", "zwö 100%")
SMALL: dict[str, Any] = {
    "model.name": "vmamba_nano_test",
    "model.pretrained": False,
    "train_cfg.max_epochs": 1,
    "train_dataloader.num_workers": 0,
    "val_dataloader.num_workers": 0,
    "env_cfg.cpu_threads": 1,
}


def write_images(folder: Path, *names: str, count: int = 2) -> Path:
    """A folder of one class or more with images of one colour; returns the folder."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (9, 8), (number, 0, 0)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight PNG files of each of the first three of scikit-learn's digits, one of them damaged."""
    root = tmp_path_factory.mktemp("a folder, 50%")
    given = load_digits()
    for number, name in enumerate(NAMES):
        (root / name).mkdir()
        for index, image in enumerate(given.images[given.target == number][:8]):
            Image.fromarray((image * 15).astype(np.uint8)).save(root / name / f"{index}.png")
    damaged = root / NAMES[0] / find_images(str(root), 0.2, 0).train[0][0].name
    damaged.write_bytes(damaged.read_bytes()[:60])
    return root


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a run over the digits."""
    work = tmp_path_factory.mktemp("work")
    train(CONFIG, work_dir=work, options={"root": str(digits), **SMALL})
    return work


def test_training_needs_the_folder_alone_and_its_checkpoint_names_the_classes(trained: Path) -> None:
    checkpoint = load_checkpoint(trained / "best.pth")
    assert checkpoint["meta"]["visionssm"]["classes"] == list(NAMES)
    assert checkpoint["meta"]["visionssm"]["input"]["size"] == (3, 64, 64)  # the model's, nobody said it
    assert checkpoint["meta"]["iter"] == 4  # 3 × 6 images in batches of 4
    (log,) = trained.glob("*/*.log")
    assert "1 images could not be read in this train epoch" in log.read_text()


def test_checkpoint_of_a_folder_predicts_with_its_class_names(
    trained: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([str(trained / "best.pth"), str(digits / NAMES[1] / "1.png")]) == 0
    told = capsys.readouterr().out
    assert [name for name in NAMES if name in told] == list(NAMES)


def test_dumped_config_of_a_run_tests_without_being_told_the_folder_again(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    evaluate(trained / "finetune_folder.py", trained / "best.pth", out=out, work_dir=tmp_path)
    lines = out.read_text().splitlines()
    assert len(lines) == 1 + 3 * 2  # a fifth of eight, rounded
    assert lines[1].startswith(f"{NAMES[0]}/")


def completed(root: Path, **options: Any) -> Any:
    cfg = prepare(CONFIG, options={"root": str(root), **SMALL, **options})
    check_config(cfg)
    complete_config(cfg)
    return cfg


def test_what_a_config_says_is_left_as_it_is(digits: Path) -> None:
    transform = "train_dataloader.dataset.transform"
    options = {
        f"{transform}.input_size": (3, 32, 32),
        "train_dataloader.batch_size": 3,
        "model.num_classes": 7,
        "val_dataloader.dataset.root": "elsewhere",
    }
    with pytest.raises(DatasetError, match="elsewhere"):
        completed(digits, **options)
    cfg = completed(digits, **{**options, "val_dataloader.dataset.root": str(digits)})
    assert cfg.train_dataloader.dataset.transform.input_size == (3, 32, 32)
    assert cfg.val_dataloader.dataset.transform.input_size == (3, 64, 64)
    assert (cfg.train_dataloader.batch_size, cfg.model.num_classes) == (3, 7)


def test_images_are_prepared_as_the_model_wants_them(digits: Path) -> None:
    cfg = completed(digits, **{"model.name": "resnet18.tv_in1k", "model.in_chans": 1})
    of_model = timm.get_pretrained_cfg("resnet18.tv_in1k")
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        transform = loader.dataset.transform
        assert transform.input_size == (1, *of_model.input_size[1:])
        assert transform.mean == pytest.approx([sum(of_model.mean) / 3])
        assert transform.interpolation == of_model.interpolation
        assert transform.crop_pct == of_model.crop_pct


def test_batches_are_smaller_for_small_sets() -> None:
    sizes = {count: _batch_size(count) for count in (1, 3, 4, 24, 64, 100, 255, 256, 10**6)}
    assert sizes == {1: 1, 3: 3, 4: 4, 24: 4, 64: 8, 100: 8, 255: 16, 256: 32, 10**6: 32}


def test_loader_processes_follow_the_cores_and_the_batches(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = {"train_dataloader.num_workers": None, "val_dataloader.num_workers": None}
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    cfg = completed(digits, **workers)
    assert (cfg.train_dataloader.num_workers, cfg.val_dataloader.num_workers) == (5, 1)  # 18 images by 4, 6 by 64
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert completed(digits, **workers).train_dataloader.num_workers == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert completed(digits, **workers).train_dataloader.num_workers == 0


def names_in(images: list[tuple[Path, int]]) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path, _ in images}


def test_a_part_of_every_class_is_held_out_and_only_the_names_say_which(tmp_path: Path) -> None:
    first = find_images(write_images(tmp_path / "here", "a", "b", count=10), 0.2, 0)
    second = find_images(write_images(tmp_path / "there", "b", "a", count=10), 0.2, 0)
    assert names_in(first.val) == names_in(second.val)
    assert not names_in(first.val) & names_in(first.train)
    assert [label for _, label in first.val] == [0, 0, 1, 1]
    assert len(first.train) == 16
    assert names_in(find_images(tmp_path / "here", 0.2, 1).val) != names_in(first.val)


def test_parts_of_their_own_are_taken_whatever_case_they_are_in(tmp_path: Path) -> None:
    write_images(tmp_path / "Train", "a", "b")
    write_images(tmp_path / "Valid", "b", count=5)
    write_images(tmp_path / "Test", "a", "b")
    found = find_images(tmp_path, 0.2, 0)
    assert found.classes == ["a", "b"]
    assert [label for _, label in found.train] == [0, 0, 1, 1]
    assert [label for _, label in found.val] == [1] * 5


def test_a_part_of_the_training_folder_is_held_out_where_there_is_no_other(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "a", "b", count=5)
    write_images(tmp_path / "test", "a", "b")
    found = find_images(tmp_path, 0.2, 0)
    assert (len(found.train), len(found.val)) == (8, 2)


def test_trains_and_tests_may_be_classes(tmp_path: Path) -> None:
    found = find_images(write_images(tmp_path, "bus", "test", "train"), 0.2, 0)
    assert found.classes == ["bus", "test", "train"]


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, "a", "b", ".ipynb_checkpoints")
    (tmp_path / "a" / "._0.png").write_bytes(b"what macOS leaves in archives")
    found = find_images(tmp_path, 0.2, 0)
    assert found.classes == ["a", "b"]
    assert len(found.train) + len(found.val) == 4


def test_images_at_any_depth_are_of_the_class_at_the_top(tmp_path: Path) -> None:
    write_images(tmp_path / "a", "x", "y")
    write_images(tmp_path, "b")
    found = find_images(tmp_path, 0.2, 0)
    assert found.classes == ["a", "b"]
    assert [label for _, label in (*found.train, *found.val)].count(0) == 4


def test_a_class_of_one_image_is_trained_on_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, "a", "b")
    write_images(tmp_path, "rare", count=1)
    with caplog.at_level(logging.WARNING):
        dataset = folder_dataset(str(tmp_path), "train")
    assert [label for _, label in dataset.source.images] == [0, 1, 2]
    assert "1 of 3 classes have no image to validate with: rare" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "has no class folders.*a folder of images for each class"),
        (lambda root: write_images(root, "a"), "one class folder only, 'a'.*two classes.*root=.*a"),
        (lambda root: (write_images(root, "a", "b"), (root / "c").mkdir()), "1 of 3 class folders.*no images: c.*jpg"),
        (lambda root: write_images(root, "a", "b", count=1), "no class in .* has two images"),
        (lambda root: write_images(root / "val", "a", "b"), "has val/, but no train/"),
        (lambda root: (write_images(root / "train", "a", "b"), write_images(root / "val", "B")), "train' has not: B"),
        (lambda root: (write_images(root / "train", "a", "b"), (root / "val/a").mkdir(parents=True)), "no images of"),
        (lambda root: write_images(root, "a", "b\udcff"), "cannot name a class"),
        (lambda root: write_images(root, "a", "b\n"), "cannot name a class"),
    ],
)
def test_unfit_folders_are_told_before_anything_is_built(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DatasetError, match=message):
        completed(tmp_path)


@pytest.mark.parametrize(("root", "message"), [(None, "root=FOLDER"), (7, "root=./NAME"), ("nowhere", "nowhere")])
def test_a_folder_that_is_not_given_is_told(root: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_folder_dataset(root=root)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "test"}, "'train' or 'val', got 'test'"),
        ({"val_fraction": 1}, "between 0 and 1"),
        ({"corrupt": "keep"}, "'skip' or 'raise'"),
        ({"transform": {"hfilp": 0}}, "'hfilp'.*'hflip'"),
    ],
)
def test_wrong_arguments_are_told(wrong: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"root": str(write_images(tmp_path, "a", "b")), "split": "train", **wrong}
    for make in (folder_dataset, check_folder_dataset):
        with pytest.raises(DatasetError, match=message):
            make(**arguments)


def test_number_of_classes_is_open_in_configs_with_folders_only() -> None:
    with pytest.raises(ConfigError, match="num_classes=None"):
        ImageClassifier("vmamba_nano_test", num_classes=None)


def test_weights_out_of_reach_are_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def offline(name: str, pretrained: bool = False, **arguments: Any) -> torch.nn.Module:
        if pretrained:
            raise DownloadError("cannot download https://example.org/x.pth:\nno network")
        return create(name, **arguments)

    monkeypatch.setattr(classifiers.timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"cannot download .*model\.pretrained=FILE.*model\.pretrained=False"):
        ImageClassifier("vmamba_nano_test", 3, pretrained=True)
    assert ImageClassifier("vmamba_nano_test", 3).num_classes == 3


def test_models_without_published_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no published weights of 'vmamba_nano_test'.*model\.pretrained=False"):
        ImageClassifier("vmamba_nano_test", 3, pretrained=True)
    with pytest.raises(CheckpointError, match="no such file"):
        ImageClassifier("vmamba_nano_test", 3, pretrained=str(tmp_path / "x.pth"))
    (tmp_path / "x.pth").write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"^model\.pretrained='.*x\.pth': "):
        ImageClassifier("vmamba_nano_test", 3, pretrained=str(tmp_path / "x.pth"))


def test_weights_come_from_a_file_where_one_is_given(trained: Path) -> None:
    model = ImageClassifier("vmamba_nano_test", 5, pretrained=str(trained / "best.safetensors"))
    best = load_checkpoint(trained / "best.pth")["state_dict"]
    assert torch.equal(model.state_dict()["model.patch_embed.0.weight"], best["model.patch_embed.0.weight"])
    assert model.model.num_classes == 5


def test_nothing_is_fetched_where_a_checkpoint_brings_the_weights(trained: Path, digits: Path, tmp_path: Path) -> None:
    options = {"root": str(digits), **SMALL, "model.pretrained": True}  # which is an error, as there are none
    small = "train_dataloader.dataset.transform.input_size", "val_dataloader.dataset.transform.input_size"
    options |= dict.fromkeys(small, (3, 16, 16))
    with pytest.raises(CheckpointError, match="no published weights"):
        train(CONFIG, work_dir=tmp_path, options=options)
    train(CONFIG, work_dir=tmp_path, options={**options, "load_from": str(trained / "best.pth")})
    assert train(CONFIG, work_dir=tmp_path, options=options, resume=True).iter == 4
    evaluate(CONFIG, trained / "best.pth", work_dir=tmp_path, options=options)
