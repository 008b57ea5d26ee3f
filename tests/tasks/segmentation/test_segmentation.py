"""Segmentation in the engine: losses, intersection over union, pictures, and runs from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from torch.nn.functional import cross_entropy

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_config
from tests.engine.shapes import SEGMENTOR, SPEC, write_segmentation_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.cli.launch import evaluate, train
from visionssm.data.images import UnreadableImageError, read_image
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.tasks.segmentation.data import IGNORED
from visionssm.tasks.segmentation.metric import SegmentationMetric, confusion_of
from visionssm.tasks.segmentation.model import TorchvisionSegmentor

CONFIG = shipped_config("shapes_segmentation_deeplab")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of six steps."""
    folder = tmp_path_factory.mktemp("segmentation") / "run"
    folder.mkdir()
    train(write_segmentation_config(folder), work_dir=folder)
    return folder


def test_published_config_has_no_unknown_key_and_fits_its_data(tmp_path: Path) -> None:
    small = {"train_dataloader.dataset.spec": SPEC, "train_dataloader.dataset.root": str(tmp_path)}
    cfg = load_config(CONFIG, small)
    check_config(cfg)
    model, data = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    assert model.checkpoint_meta(data, None)["classes"] == data.metainfo["classes"]


def test_run_writes_weights_curves_confusion_and_pictures(uninterrupted: Path) -> None:
    for name in ("learning_curves.png", "confusion_matrix.png"):
        assert (uninterrupted / name).exists()
    with Image.open(uninterrupted / "predictions.png") as image:
        assert image.width > 3 * 288
        assert np.asarray(image).std() > 5
    losses = logged(uninterrupted, "loss_pixels")
    assert np.mean(losses[3:]) < losses[0]
    meta = torch.load(uninterrupted / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "segmentation"
    assert meta["classes"] == ["background", "circle", "square", "triangle", "cross"]


def test_resumed_run_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    train(write_segmentation_config(folder), work_dir=folder, resume=str(uninterrupted / "epoch_1.pth"))
    assert_equal_weights(uninterrupted / "epoch_2.pth", folder / "epoch_2.pth")


def test_evaluation_gives_the_validation_metrics_and_pictures_of_every_image(
    uninterrupted: Path, tmp_path: Path
) -> None:
    metrics = evaluate(
        uninterrupted / "tiny.py", uninterrupted / "epoch_2.pth", work_dir=tmp_path, pictures=tmp_path / "pictures"
    )
    assert metrics["miou"] == pytest.approx(logged(uninterrupted, "miou")[-1], abs=1e-3)
    assert len(list((tmp_path / "pictures").iterdir())) == 4


@pytest.mark.parametrize("name", ["vmamba_nano_test", "vim_nano_test"])
@pytest.mark.parametrize("head", ["deeplab", "fcn"])
def test_heads_learn_one_batch(name: str, head: str) -> None:
    torch.manual_seed(0)
    model = TorchvisionSegmentor(**{**SEGMENTOR, "name": name, "head": head, "auxiliary": True})
    images = torch.rand(2, 3, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[:, 8:24, 8:24] = 2
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    totals = []
    for _ in range(6):
        optimizer.zero_grad()
        losses = model(images, labels, mode="loss")
        assert set(losses) == {"loss_pixels", "loss_auxiliary"}
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


def test_loss_is_the_mean_over_labelled_pixels_and_modes_agree() -> None:
    torch.manual_seed(0)
    model = TorchvisionSegmentor(**SEGMENTOR).eval()
    images, labels = torch.rand(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32))
    labels[0] = IGNORED
    with torch.no_grad():
        scores = model(images)
        loss = model(images, labels, mode="loss")["loss_pixels"]
        rows = model(list(images), list(labels), [7, 8], mode="predict")
        nothing = model(images[:1], labels[:1], mode="loss")["loss_pixels"]
    assert scores.shape == (2, 5, 32, 32)
    torch.testing.assert_close(loss, cross_entropy(scores[1:], labels[1:]))
    assert nothing == 0
    assert np.array_equal(rows[1]["predicted"], scores[1].argmax(0))
    assert [row["index"] for row in rows] == [7, 8]
    assert int(rows[0]["confusion"].sum()) == 0
    assert int(rows[1]["confusion"].sum()) == 32 * 32


def test_a_run_survives_an_image_that_goes_bad_and_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        for kind, pixels in (("images", (32, 32, 3)), ("labels", (32, 32))):
            (tmp_path / kind).mkdir(exist_ok=True)
            values = np.random.default_rng(number).integers(0, 5, pixels, np.uint8)
            Image.fromarray(values).save(tmp_path / kind / f"{number}.png")
    data = f"dict(type='LabelledImages', root={str(tmp_path)!r}, images='images', labels='labels'"
    config = write_segmentation_config(tmp_path)
    text = config.read_text() + "\ntrain_cfg['max_epochs'] = 1\n"
    for split in ("train", "val"):
        text += f"\n{split}_dataloader['dataset'] = {data}, classes=list('abcde'), wrong='skip')\n"
    config.write_text(text + "custom_hooks.append(dict(type='CorruptImageHook'))\n")

    def read(path: Path, **options: Any) -> Image.Image:
        if path.name == "3.png":
            raise UnreadableImageError(path, "the disk has a hole")
        return read_image(path, **options)

    monkeypatch.setattr("visionssm.tasks.segmentation.data.read_image", read)
    train(config, work_dir=tmp_path / "run")
    assert logged(tmp_path / "run", "corrupt") == [1]
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert log.read_text().count("1 images could not be read in this") == 2, "training and validation"


def test_pixels_of_a_class_count_as_its_weight() -> None:
    torch.manual_seed(0)
    weights = (0.25, 1.0, 2.0, 1.0, 1.0)
    model = TorchvisionSegmentor(**SEGMENTOR, class_weights=weights).eval()
    images, labels = torch.rand(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32))
    labels[:, :4] = IGNORED
    with torch.no_grad():
        loss = model(images, labels, mode="loss")["loss_pixels"]
        log_shares = model(images).log_softmax(1)
    known = labels != IGNORED
    factors = torch.tensor(weights)[labels[known]]
    right = log_shares.movedim(1, -1)[known].gather(1, labels[known][:, None])[:, 0]
    torch.testing.assert_close(loss, -(factors * right).sum() / factors.sum())
    for wrong in ((1.0, 1.0), (1.0, 1.0, 1.0, 1.0, 0.0)):
        with pytest.raises(ConfigError, match=r"class_weights.* must be 5 positive numbers"):
            TorchvisionSegmentor(**SEGMENTOR, class_weights=wrong)


def test_images_are_normalised_inside() -> None:
    model = TorchvisionSegmentor(**SEGMENTOR, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    other = TorchvisionSegmentor(**SEGMENTOR, mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    other.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other(images * 0.25 + 0.5), model(images), rtol=1e-4, atol=1e-5)


def test_intersection_over_union_is_that_of_sums_over_all_images() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [0, IGNORED, 1, IGNORED]])
    predicted = torch.tensor([[0, 1, 1, 1], [0, 0, 2, 2]])
    counts = confusion_of(truth, predicted, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    metric = SegmentationMetric(keep=1)
    pictures = {"image": np.zeros((2, 4, 3), np.uint8), "truth": truth.numpy(), "predicted": predicted.numpy()}
    metric.process(None, [{"index": 0, "confusion": counts, **pictures}, {"index": 1, "confusion": counts, **pictures}])
    found = metric.compute_metrics(metric.results)
    assert found["miou"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3), "the class that occurs nowhere is left out"
    assert found["mean_accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found["pixel_accuracy"] == pytest.approx(4 / 6)
    assert metric.confusion is not None
    assert metric.confusion.tolist() == (2 * counts).tolist()
    assert len(metric.pictures) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"head": "unet"}, "head='unet'"),
        ({"name": "vmamba_nano_tets"}, "vmamba_nano_test"),
        ({"backbone": {"no_such": 1}}, "no_such"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchvisionSegmentor(**{**SEGMENTOR, **arguments})


def test_images_of_different_sizes_and_foreign_checkpoints_are_refused() -> None:
    model = TorchvisionSegmentor(**SEGMENTOR)
    with pytest.raises(ConfigError, match=r"48×32, 32×40.*batch_size=1"):
        model([torch.rand(3, 32, 48), torch.rand(3, 40, 32)])
    meta = {"visionssm": model.checkpoint_meta(None, None)}
    model.check_checkpoint(meta, "x.pth")
    meta["visionssm"]["model"]["head"] = "fcn"
    with pytest.raises(CheckpointError, match="its head is 'fcn'"):
        model.check_checkpoint(meta, "x.pth")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_published_config_reaches_its_bound(tmp_path: Path) -> None:
    train(CONFIG, work_dir=tmp_path)
    metrics = evaluate(CONFIG, tmp_path / "best.pth", work_dir=tmp_path / "test")
    assert metrics["miou"] >= 0.6
