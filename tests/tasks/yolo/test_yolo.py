"""Mamba-YOLO in the engine: data, recipe, checkpoints, predictions, and the tools."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from torch import Tensor

import tests.engine.every_task  # noqa: F401  registers all types
from tests.children import environment
from tests.configs import shipped_config
from tests.engine.shapes import SPEC
from tests.engine.tiny import assert_equal_weights, logged
from tests.tasks.yolo.tiny import write_yolo_config
from visionssm.cli import predict, visualize
from visionssm.cli.launch import evaluate, train
from visionssm.data.errors import DatasetError
from visionssm.data.seeding import SeededDataset
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.heads.yolo import create_yolo
from visionssm.heads.yolo.assign import assign
from visionssm.heads.yolo.loss import YoloLoss
from visionssm.prediction import load_predictor
from visionssm.tasks.yolo.data import MosaicDetection
from visionssm.tasks.yolo.inference import found_objects
from visionssm.tasks.yolo.model import YoloDetector
from visionssm.tasks.yolo.pictures import assignment

CONFIG = shipped_config("mambayolo_nano_shapes")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of six steps."""
    folder = tmp_path_factory.mktemp("yolo") / "run"
    folder.mkdir()
    train(write_yolo_config(folder), work_dir=folder)
    return folder


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> MosaicDetection:
    root = str(tmp_path_factory.mktemp("shapes"))
    return MosaicDetection({"type": "ShapesDetection", "split": "train", "root": root, "spec": SPEC}, size=64)


def test_run_writes_weights_curves_and_pictures(uninterrupted: Path) -> None:
    losses = logged(uninterrupted, "loss")
    assert len(losses) == 6
    total = sum(logged(uninterrupted, part)[0] for part in ("loss_class", "loss_box", "loss_dfl"))
    assert losses[0] == pytest.approx(total, rel=1e-4)
    assert (uninterrupted / "learning_curves.png").exists()
    with Image.open(uninterrupted / "predictions.png") as image:
        assert np.asarray(image).std() > 5
    meta = torch.load(uninterrupted / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "yolo"
    assert meta["model"] == {"name": "mambayolo_nano", "num_classes": 4, "size": 32}
    assert meta["classes"] == ["circle", "square", "triangle", "cross"]


def test_resumed_run_ends_with_the_same_bits_where_mosaic_ends(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    train(write_yolo_config(folder), work_dir=folder, resume=str(uninterrupted / "epoch_1.pth"))
    assert_equal_weights(uninterrupted / "epoch_2.pth", folder / "epoch_2.pth")
    assert logged(folder, "loss") == logged(uninterrupted, "loss")[3:]


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 4], ids=["with Mosaic", "without"])
def test_run_killed_within_an_epoch_resumes_to_the_same_bits(uninterrupted: Path, step: int, tmp_path: Path) -> None:
    """At any step, the process is gone, and only what was written is left."""
    folder = tmp_path / "run"
    folder.mkdir()
    by_step = {"default_hooks.checkpoint.interval": 1, "default_hooks.checkpoint.by_epoch": False}
    text = "import os\nfrom tests.tasks.yolo.tiny import HOOKS_OF_A_RUN\nfrom visionssm.cli.launch import train\n"
    text += "from mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n"
    text += "@HOOKS.register_module()\nclass KillHook(Hook):\n    def before_train_iter(self, runner, **_):\n"
    text += f"        if runner.iter == {step}:\n            os.kill(os.getpid(), 9)\n"
    text += f"train({str(write_yolo_config(folder))!r}, work_dir={str(folder)!r}, options={{**{by_step!r}, "
    text += "'custom_hooks': [*HOOKS_OF_A_RUN, dict(type='KillHook')]})\n"
    killed = subprocess.run([sys.executable, "-c", text], env=environment(), capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr[-2000:]
    assert (folder / "last_checkpoint").read_text() == f"iter_{step}.pth"
    train(write_yolo_config(folder), work_dir=folder, resume=True, options=by_step)
    assert_equal_weights(uninterrupted / "epoch_2.pth", folder / "iter_6.pth")


def test_mosaic_ends_with_the_last_epochs(uninterrupted: Path) -> None:
    (log,) = uninterrupted.glob("*/*.log")
    assert log.read_text().count("from here on without Mosaic: the last 1 epochs") == 1


def test_evaluation_gives_the_validation_metrics_and_pictures_of_every_image(
    uninterrupted: Path, tmp_path: Path
) -> None:
    metrics = evaluate(
        uninterrupted / "tiny.py", uninterrupted / "epoch_2.pth", work_dir=tmp_path, pictures=tmp_path / "pictures"
    )
    assert metrics["box_ap"] == pytest.approx(logged(uninterrupted, "box_ap")[-1], abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"{n:06d}.png" for n in range(4)]


def test_predictions_of_files_and_folders_are_those_of_the_model(uninterrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    numbers = np.random.default_rng(0)
    for name, size in (("photo.png", (40, 70)), ("folder/small.png", (5, 9)), ("folder/b.png", (70, 40))):
        Image.fromarray(numbers.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / name)
    checkpoint = uninterrupted / "best.pth"
    # the last classes of an untrained network are certain of nothing; the least threshold finds something
    arguments = [checkpoint, tmp_path / "photo.png", tmp_path / "folder", "--threshold", 0.0001]
    arguments += ["--out", tmp_path / "boxes.json", "--pictures", tmp_path / "drawn"]
    assert predict.main([str(x) for x in arguments]) == 0
    entries = json.loads((tmp_path / "boxes.json").read_text())["predictions"]
    assert len(entries) == 3
    predictor = load_predictor(checkpoint, threshold=0.0001)
    for entry in entries:
        image = predictor.read(Path(entry["file"]))
        with torch.inference_mode():
            expected: Any = predictor([image])[0]
        boxes = np.array([x["box"] for x in entry["objects"]])
        assert 0 < len(boxes) <= 300
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-4)
        assert (boxes >= 0).all()
        assert (boxes <= [image.width, image.height] * 2).all()
    assert len(list((tmp_path / "drawn").iterdir())) == 3


def test_a_threshold_outside_of_0_to_1_is_refused(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for threshold in ("-0.1", "1.5", "nan"):
        with pytest.raises(SystemExit, match="2"):
            predict.main([str(uninterrupted / "best.pth"), "a.png", f"--threshold={threshold}"])
        assert f"--threshold must be from 0 to 1, got {threshold}" in capsys.readouterr().err


def test_a_checkpoint_of_another_size_or_task_is_refused_by_name(uninterrupted: Path, tmp_path: Path) -> None:
    options = {"model.name": "mambayolo_t"}
    with pytest.raises(CheckpointError, match="its name is 'mambayolo_nano', the config's 'mambayolo_t'"):
        evaluate(uninterrupted / "tiny.py", uninterrupted / "best.pth", work_dir=tmp_path, options=options)
    content = torch.load(uninterrupted / "best.pth", weights_only=True)
    content["meta"]["visionssm"] |= {"task": "detection", "model": {"architecture": "RetinaNet"}}
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"'detection'.*'yolo'"):
        evaluate(uninterrupted / "tiny.py", tmp_path / "other.pth", work_dir=tmp_path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "mambayolo_x"}, "'mambayolo_x'"),
        ({"size": 10**9}, "size"),
        ({"size": "large"}, "size"),
        ({"num_classes": -1}, "-1 classes"),
        ({"pretrained": "/etc/passwd"}, "'pretrained' in model"),
    ],
)
def test_a_checkpoint_that_describes_something_else_is_refused(
    uninterrupted: Path, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    content = torch.load(uninterrupted / "best.pth", weights_only=True)
    content["meta"]["visionssm"]["model"] |= changes
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=message):
        load_predictor(tmp_path / "odd.pth")


def test_a_model_of_another_number_of_classes_than_the_data_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"num_classes=3, but the data set has 4 classes; set model.num_classes=4"):
        train(write_yolo_config(folder), work_dir=folder, options={"model.num_classes": 3})


# -------------------------------------------------------------------------------------------------------------- data


def test_samples_are_functions_of_seed_iteration_and_index(mosaic: MosaicDetection) -> None:
    seeded = SeededDataset(mosaic, 7)
    first = seeded[(5, 2)]
    seeded[(6, 1)]
    again = seeded[(5, 2)]
    assert torch.equal(first["inputs"], again["inputs"])
    assert torch.equal(first["targets"]["boxes"], again["targets"]["boxes"])
    assert not torch.equal(first["inputs"], seeded[(6, 2)]["inputs"])


def test_samples_are_squares_with_boxes_inside_and_labels_from_1(mosaic: MosaicDetection) -> None:
    torch.manual_seed(0)
    found = 0
    for _ in range(3):
        for index in range(len(mosaic)):
            sample = mosaic[index]
            assert sample["inputs"].shape == (3, 64, 64)
            assert 0 <= sample["inputs"].min() <= sample["inputs"].max() <= 1 + 1e-6
            boxes, labels = sample["targets"]["boxes"], sample["targets"]["labels"]
            assert len(boxes) == len(labels)
            if len(boxes):
                assert 0 <= boxes.min() <= boxes.max() <= 64
                assert (boxes[:, 2:] - boxes[:, :2]).min() > 2
                assert 1 <= labels.min() <= labels.max() <= 4
            found += len(boxes)
    assert found > 20


def test_without_mosaic_one_image_alone_is_seen(mosaic: MosaicDetection) -> None:
    most = {True: 0, False: 0}
    for wanted in most:
        mosaic.use_mosaic(wanted)
        torch.manual_seed(1)
        most[wanted] = max(len(mosaic[n]["targets"]["boxes"]) for n in range(len(mosaic)))
    mosaic.use_mosaic(True)
    assert most[False] <= SPEC["most"] < most[True]


def test_a_plain_sample_is_the_image_in_its_letter_box(mosaic: MosaicDetection) -> None:
    sample, source = mosaic.plain(3), mosaic.dataset[3]
    assert torch.equal(mosaic.plain(3)["inputs"], sample["inputs"])
    torch.testing.assert_close(sample["targets"]["boxes"], source["targets"]["boxes"] * 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 60}, "size=60 must be a multiple of 32"),
        ({"mosaic": 1.5}, "mosaic=1.5 must be from 0 to 1"),
        ({"scale": 1.0}, "scale=1.0 must be from 0 to below 1"),
        ({"hsv": (0.1, 0.2)}, "hsv"),
        ({"dataset": {"type": "ShapesSegmentation"}}, "must be one of CocoInstances, ShapesDetection"),
        ({"dataset": {"type": "ShapesDetection", "split": "train", "transforms": [{}]}}, "transforms must be left out"),
    ],
)
def test_wrong_arguments_of_the_data_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        MosaicDetection(**{"dataset": {"type": "ShapesDetection", "split": "train", "spec": SPEC}, **arguments})


def test_all_mistakes_of_a_set_are_told_at_once_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 5, 5]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 5]},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [30, 1, 5, 5]},
    ]
    images = [{"id": n, "file_name": f"{x}.png", "width": 20, "height": 10} for n, x in enumerate("abc", 1)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "objects.json").write_text(json.dumps(content))
    (tmp_path / "run").mkdir()
    data = f"dict(type='CocoInstances', root={str(tmp_path)!r}, annotations='objects.json', images='images')"
    more = f"train_dataloader['dataset']['dataset'] = {data}\nmodel['num_classes'] = 1\n"
    with pytest.raises(DatasetError, match="5 mistakes") as told:
        train(write_yolo_config(tmp_path / "run", more), work_dir=tmp_path / "run")
    for part in ("1 annotations with an unknown category id", "2 boxes without area", "1 image files that are not in"):
        assert part in str(told.value)


# ------------------------------------------------------------------------------------------------------------- model


def test_it_learns_one_batch_and_finds_its_objects() -> None:
    torch.manual_seed(0)
    model = YoloDetector("mambayolo_nano", 3, size=64)
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    targets = {
        "boxes": [torch.tensor([[4.0, 6, 30, 40], [20, 20, 60, 62]]), torch.zeros(0, 4)],
        "labels": [torch.tensor([3, 1]), torch.zeros(0, dtype=torch.int64)],
    }
    images[0][:, 6:40, 4:30] += 2
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    totals = []
    for _ in range(8):
        optimizer.zero_grad()
        total = sum(model(images, targets, mode="loss").values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]
    with torch.no_grad():
        rows = model.eval()(images, targets, [4, 5], mode="predict")
    assert [row["index"] for row in rows] == [4, 5]
    assert rows[0]["found"]["labels"].min() >= 1
    assert len(rows[0]["found"]["boxes"]) <= 300


def test_crowds_are_left_out_of_the_losses() -> None:
    torch.manual_seed(0)
    model = YoloDetector("mambayolo_nano", 3, size=64).eval()
    images = [torch.rand(3, 64, 64)]
    one = {"boxes": [torch.tensor([[4.0, 6, 30, 40]])], "labels": [torch.tensor([3])]}
    both = {"boxes": [torch.tensor([[4.0, 6, 30, 40], [0, 0, 60, 60]])], "labels": [torch.tensor([3, 1])]}
    with torch.no_grad():
        expected = model(images, one, mode="loss")
        crowd = model(images, {**both, "crowd": [torch.tensor([False, True])]}, mode="loss")
        single = model(images, {**both, "crowd": [torch.tensor([False, False])]}, mode="loss")
    assert crowd == expected
    assert single != expected


def test_objects_do_not_depend_on_what_else_is_in_the_batch() -> None:
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", num_classes=2).eval()
    images = [torch.rand(3, *size) for size in ((40, 60), (60, 40), (33, 64), (3, 50), (80, 120))]
    with torch.no_grad():
        together = found_objects(model, images, 64, threshold=0.0)
        for image, expected in zip(images, together, strict=True):
            (alone,) = found_objects(model, [image], 64, threshold=0.0)
            assert len(alone.boxes) == len(expected.boxes) > 0
            torch.testing.assert_close(alone.scores, expected.scores, atol=1e-6, rtol=1e-4)
            height, width = image.shape[1:]
            assert alone.boxes.min() >= 0
            assert (alone.boxes <= torch.tensor([width, height, width, height])).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "mambayolo_x"}, "mambayolo_b, mambayolo_l, mambayolo_nano, mambayolo_t"),
        ({"size": 100}, "size=100 must be a multiple of 32"),
        ({"num_classes": 0}, "num_classes"),
        ({"threshold": 2}, "threshold=2"),
        ({"loss": {"boxes": 1.0}}, "boxes"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        YoloDetector(**{"name": "mambayolo_nano", "num_classes": 2, **arguments})


def test_images_of_different_sizes_in_one_training_batch_are_refused() -> None:
    model = YoloDetector("mambayolo_nano", 2, size=64)
    targets: dict[str, list[Tensor]] = {"boxes": [torch.zeros(0, 4)] * 2, "labels": [torch.zeros(0).long()] * 2}
    with pytest.raises(ConfigError, match=r"64×32, 64×64; train on type='MosaicDetection'"):
        model([torch.zeros(3, 64, 64), torch.zeros(3, 32, 64)], targets, mode="loss")


# ----------------------------------------------------------------------------------------------------------- configs


def test_nano_config_has_no_unknown_key_and_fits_its_data(tmp_path: Path) -> None:
    small = {"train_dataloader.dataset.dataset.spec": SPEC, "train_dataloader.dataset.dataset.root": str(tmp_path)}
    cfg = load_config(CONFIG, small)
    check_config(cfg)
    model, data = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    assert model.checkpoint_meta(data, None)["classes"] == data.metainfo["classes"]


def test_points_that_train_on_boxes_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    config = write_yolo_config(tmp_path / "run")
    pictures = {}
    for index in (1, 2):
        out = tmp_path / f"{index}.png"
        assert visualize.main(["assignment", str(config), "--index", str(index), "--out", str(out)]) == 0
        with Image.open(out) as image:
            pictures[index] = np.asarray(image)
            assert image.width > 2 * 640
    assert pictures[1].shape != pictures[2].shape or (pictures[1] != pictures[2]).any()
    assert visualize.main(["assignment", str(config), "--index", "12"]) == 2
    assert "--index 12: the training data have the samples 0 to 11" in capsys.readouterr().err
    assert visualize.main(["assignment", str(shipped_config("vmamba_nano_digits"))]) == 2
    assert "has no model of type 'YoloDetector'" in capsys.readouterr().err


def test_drawn_points_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    model = create_yolo("mambayolo_nano", num_classes=2).eval()
    image, boxes = torch.rand(3, 64, 64), torch.tensor([[4.0, 4, 40, 50], [30, 30, 60, 60]])
    seen = []

    def kept(*arguments: Tensor) -> Any:
        seen.append(assign(*arguments))
        return seen[-1]

    labels = torch.tensor([1, 0])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("visionssm.heads.yolo.loss.assign", kept)
        YoloLoss()(model(image[None]), [boxes], [labels])
    assert assignment(model, image, boxes, labels).box.tolist() == seen[0].box.tolist()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes on two cores of its own
def test_a_small_detector_learns_to_find_rendered_shapes(tmp_path: Path) -> None:
    config = shipped_config("mambayolo_nano_shapes")
    train(config, work_dir=tmp_path)
    assert evaluate(config, tmp_path / "best.pth", work_dir=tmp_path / "test")["box_ap50"] >= 0.75
