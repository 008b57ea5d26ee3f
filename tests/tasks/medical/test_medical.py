"""Medical segmentation from the training to the tools, on a few slices of the head that nilearn ships."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm
from tests.configs import shipped_config, shipped_configs
from visionssm.checkpoints import CheckpointError
from visionssm.cli import predict, test, train
from visionssm.cli.launch import evaluate
from visionssm.data.errors import DatasetError, UnreadableFileError
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.extras import MissingExtraError
from visionssm.prediction import load_predictor
from visionssm.tasks.medical.datasets.mni152 import CLASSES, Mni152Slices
from visionssm.tasks.medical.inference import Inference, probabilities
from visionssm.tasks.medical.model import MedicalSegmentor
from visionssm.tasks.medical.preparation import Preparation

EPOCHS = ["--cfg-options", "train_cfg.max_epochs=1", "train_cfg.val_interval=1", "train_dataloader.batch_size=25"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a training of three steps."""
    folder = tmp_path_factory.mktemp("medical") / "run"
    options = [*EPOCHS, "train_dataloader.dataset.repeat=1"]
    assert train.main([str(shipped_config("vmunet_nano_mni152")), "--work-dir", str(folder), *options]) == 0
    return folder


def volume(folder: Path, name: str = "scan.nii.gz", axes: str = "LPS") -> Path:
    """A volume of 14×20×3 voxels whose axes run another way than RAS, with a header of its own."""
    values = np.random.default_rng(0).normal(100, 20, (14, 20, 3)).astype(np.int16)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0]) if axes == "LPS" else np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    image = nibabel.Nifti1Image(values, affine)
    image.header["descrip"] = b"of a test"
    nibabel.save(image, folder / name)
    return folder / name


def test_training_writes_pictures_curves_and_a_checkpoint_that_describes_itself(run: Path) -> None:
    about = torch.load(run / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert (about["task"], about["classes"]) == ("medical", list(CLASSES))
    assert about["model"]["name"] == "vmunet_nano"
    assert about["preparation"]["intensity"] == "fixed"
    with Image.open(run / "predictions.png") as image:
        assert np.asarray(image).std() > 20
    assert (run / "learning_curves.png").exists()


def test_evaluation_writes_a_row_for_every_case_and_organ_and_pictures(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path / "metrics.csv"), "--pictures", str(tmp_path / "pictures")]
    config = str(shipped_config("vmunet_nano_mni152"))
    assert test.main([config, str(run / "best.pth"), "--work-dir", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4  # slabs, and three classes with the brain
    brain = [float(row["dice"]) for row in rows if row["organ"] == "brain"]
    assert f"dice_brain: {np.mean(brain):.4f}" in printed
    assert all(int(row["true_voxels"]) > 1000 for row in rows if row["organ"] == "brain")
    assert sorted(x.name for x in (tmp_path / "pictures").iterdir()) == [
        "test_z040.png",
        "test_z092.png",
        "test_z144.png",
    ]


def test_prediction_writes_label_images_and_volumes_on_the_grid_of_the_input(run: Path, tmp_path: Path) -> None:
    source = volume(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (33, 41), dtype=np.uint8)).save(tmp_path / "photo.png")
    files = [str(source), str(tmp_path / "photo.png")]
    out, masks, pictures = tmp_path / "found.json", tmp_path / "masks", tmp_path / "pictures"
    places = ["--out", str(out), "--masks", str(masks), "--pictures", str(pictures)]
    assert predict.main([str(run / "best.pth"), *files, *places]) == 0
    found = json.loads(out.read_text())["predictions"]
    label, original = nibabel.load(masks / "0000_scan.nii.gz"), nibabel.load(source)
    np.testing.assert_array_equal(label.affine, original.affine)
    assert label.shape == original.shape
    assert label.header["descrip"] == original.header["descrip"]
    numbers = np.asarray(label.dataobj)
    assert numbers.dtype == np.uint8
    for number, told in enumerate(found[0]["classes"], start=1):
        assert told["voxels"] == np.count_nonzero(numbers == number)
        assert told["mm3"] == told["voxels"] * 12
    with Image.open(masks / "0001_photo.png") as image:
        assert (image.mode, image.size) == ("L", (41, 33))
    for name in ("0000_scan.nii.png", "0001_photo.png"):
        with Image.open(pictures / name) as image:
            assert np.asarray(image).std() > 5


def test_volumes_that_are_stored_in_other_directions_get_the_same_labels(run: Path, tmp_path: Path) -> None:
    predictor: Any = load_predictor(run / "best.pth")
    first = nibabel.load(volume(tmp_path))
    turned = nibabel.as_closest_canonical(first)
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    a, b = (predictor([predictor.read(tmp_path / name)])[0] for name in ("scan.nii.gz", "turned.nii.gz"))
    np.testing.assert_array_equal(a.numbers, b.numbers)
    scan = predictor.read(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(scan.grid.restored(scan.pixels[0]), np.asarray(first.dataobj))


def test_a_volume_in_another_unit_than_the_training_is_refused(run: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0, 1, (8, 9, 7)).astype("float32")
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scaled.nii.gz")
    nibabel.save(nibabel.Nifti1Image(200 * values, np.eye(4)), tmp_path / "usual.nii.gz")
    predictor = load_predictor(run / "best.pth")
    predictor.read(tmp_path / "usual.nii.gz")
    with pytest.raises(UnreadableFileError, match=r"values go from .* mean of 100 and a standard deviation of 60"):
        predictor.read(tmp_path / "scaled.nii.gz")


def test_a_file_that_asks_for_more_than_a_description_is_refused(run: Path, tmp_path: Path) -> None:
    for key, value in (
        ("name", "no_such"),
        ("changes", {"pretrained": "/etc/passwd"}),
        ("inference", {"run": 1}),
        ("inference", {"threshold": 2.0}),
    ):
        checkpoint = torch.load(run / "best.pth", weights_only=True)
        checkpoint["meta"]["visionssm"]["model"][key] = value
        torch.save(checkpoint, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError):
            load_predictor(tmp_path / "odd.pth")


def test_a_network_of_one_output_has_two_classes_where_its_file_names_none(tmp_path: Path) -> None:
    model = {"name": "vmunet_nano", "num_classes": 1, "in_chans": 1}
    network = visionssm.create_segmenter("vmunet_nano", num_classes=1, in_chans=1)
    weights = {f"model.{key}": x for key, x in network.state_dict().items()}
    about = {"task": "medical", "model": model, "preparation": {"channels": 1}}
    torch.save({"meta": {"visionssm": about}, "state_dict": weights}, tmp_path / "file.pth")
    assert list(load_predictor(tmp_path / "file.pth").classes) == ["class 0", "class 1"]


@pytest.mark.parametrize("path", shipped_configs("*_mni152.py"), ids=lambda path: path.stem)
def test_published_config_has_no_unknown_key_and_fits_its_data(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    data = Mni152Slices(**{key: x for key, x in cfg.train_dataloader.dataset.items() if key != "type"})
    model = MedicalSegmentor(**{key: x for key, x in cfg.model.items() if key != "type"})
    about = model.checkpoint_meta(data, None)
    assert about["classes"] == list(CLASSES)
    sample = data[0]
    assert sample["inputs"].ndim == 1 + model.model.spatial_dims
    assert sample["inputs"].shape[1:] == sample["labels"].shape


def test_blocks_of_the_head_do_not_touch() -> None:
    slices = {}
    for split in ("train", "val", "test"):
        data = Mni152Slices(split)
        thick = 9 if split != "train" else 1
        slices[split] = {int(name[-3:]) + n for name in data.names for n in range(thick)}
    assert [len(x) for x in slices.values()] == [75, 27, 27]
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert min(abs(x - y) for x in slices[a] for y in slices[b]) > 3


def test_every_class_of_the_head_is_in_every_split_and_white_matter_is_brighter_than_grey() -> None:
    for split in ("train", "val", "test"):
        data = Mni152Slices(split)
        labels = np.concatenate([pair.labels.ravel() for pair in data.pairs])
        pixels = np.concatenate([pair.pixels.ravel() for pair in data.pairs])
        assert np.unique(labels).tolist() == [0, 1, 2, 3]
        means = [pixels[labels == number].mean() for number in range(4)]
        assert means[3] > means[2] > means[1] > means[0]
        for pair in data.pairs:  # the whole brain is in the picture
            assert not pair.labels[..., [0, -1], :].any()
            assert not pair.labels[..., :, [0, -1]].any()


def test_absent_or_changed_files_of_the_head_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"looked for .*t1_tal.*which nilearn ships"):
        Mni152Slices.check_available("train", folder=tmp_path)
    (tmp_path / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz").write_bytes(b"other")
    with pytest.raises(DatasetError, match="is not the file that these splits were made for"):
        Mni152Slices("train", folder=tmp_path)


def test_missing_packages_are_told_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *x: None if name == "nilearn" else find(name, *x))
    with pytest.raises(MissingExtraError, match=r"pip install 'visionssm\[medical\]'"):
        Mni152Slices("train")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"in_chans": 3}, "in_chans=3, but the data set's images have 1 channels; set model.in_chans=1"),
        ({"num_classes": 3}, "num_classes=3, but the data set has 4 classes"),
        ({"loss": "bce_dice"}, "'bce_dice' goes with 1"),
        ({"loss": "dice"}, "loss='dice' is unknown"),
        ({"name": "vmunet"}, "segmenter 'vmunet' is unknown"),
        ({"inference": {"threshold": 1.5}}, "threshold must be from 0 to 1, got 1.5"),
        ({"inference": {"patch": (8, 8, 8)}}, "patch=.* has 3 sides, the network has 2"),
        ({"inference": {"mirror": (2,)}}, "mirror=.* must be axes from 0 to 1"),
        (
            {"inference": {"overlpa": 0.5}},
            "inference: unknown key 'overlpa' with the value 0.5; closest: 'overlap'",
        ),
        ({"inference": {"overlap": "0.5"}}, "inference: overlap must be a number, got '0.5'"),
        ({"inference": {"batch": 2.5}}, "inference: batch must be a whole number, got 2.5"),
        ({"inference": {"patch": 8}}, "inference: patch must be a list of whole numbers, got 8"),
        ({"name": "umamba_enc2d_nano", "changes": {"plan": {"patchs": 8}}}, "model: plan: unknown key 'patchs'"),
    ],
)
def test_models_that_do_not_fit_are_told(changes: dict[str, Any], told: str) -> None:
    data = Mni152Slices("train")
    with pytest.raises(ConfigError, match=told):
        MedicalSegmentor(**{"name": "vmunet_nano", "num_classes": 4, **changes}).checkpoint_meta(data, None)


def test_an_evaluation_brings_labels_back_as_its_own_set_was_prepared(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Preparation] = []
    restored = Preparation.restored

    def noted(self: Preparation, *arguments: Any) -> torch.Tensor:
        used.append(self)
        return restored(self, *arguments)

    monkeypatch.setattr(Preparation, "restored", noted)
    evaluate(shipped_config("vmunet_nano_mni152"), run / "best.pth", work_dir=tmp_path)
    assert {(x.intensity, x.mean, x.std) for x in used} == {("fixed", 100.0, 60.0)}


def test_a_window_of_a_constant_network_is_constant_and_mirrors_are_undone() -> None:
    volume = torch.rand(1, 9, 21, 17)
    how = Inference(patch=(8, 8, 8), mirror=(0, 2))

    def constant(x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), 2, *x.shape[2:]) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1, 1)

    found = probabilities(constant, volume, 3, how)
    expected = torch.tensor([1.0, 3.0]).softmax(0).view(2, 1, 1, 1).expand(2, 9, 21, 17)
    torch.testing.assert_close(found, expected)
    pointwise = probabilities(lambda x: torch.cat([x, 1 - x], 1), volume, 3, how)
    torch.testing.assert_close(pointwise, torch.cat([volume, 1 - volume]).softmax(0), rtol=1e-5, atol=1e-6)


def test_slices_of_a_volume_go_through_a_network_of_images_one_by_one() -> None:
    volume = torch.rand(2, 5, 6, 7)
    found = probabilities(lambda x: x.cumsum(2), volume, 2, Inference(batch=2))
    torch.testing.assert_close(found, volume.cumsum(2).softmax(0))
    with pytest.raises(ValueError, match="takes volumes, got 2 dimensions"):
        probabilities(lambda x: x, torch.rand(1, 4, 4), 3, Inference())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vmunet_nano_mni152", "umamba_enc3d_nano_mni152", "mhsvm_4h_nano_mni152"])
def test_a_small_network_learns_the_tissues_of_the_head(name: str, tmp_path: Path) -> None:
    config = str(shipped_config(name))
    assert train.main([config, "--work-dir", str(tmp_path)]) == 0
    figures = evaluate(config, tmp_path / "best.pth", work_dir=tmp_path / "test")
    assert figures["dice_brain"] >= 0.85
    assert min(figures["dice_grey_matter"], figures["dice_white_matter"]) >= 0.7
