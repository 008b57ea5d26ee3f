"""Pose estimation in the engine: losses, average precision, pictures, prediction, and runs from a configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_config, shipped_configs
from tests.docs.pages import ROOT, blocks
from tests.engine.tiny import assert_equal_weights, logged
from tests.tasks.pose.inputs import SPEC, person, write_config, write_set
from visionssm.checkpoints import CheckpointError
from visionssm.cli import predict, visualize
from visionssm.cli.launch import evaluate, train
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.heads.pose.codec import encode
from visionssm.prediction import load_predictor, predict_files
from visionssm.tasks.pose.boxes import Boxes, ListedBoxes
from visionssm.tasks.pose.crops import heat_maps
from visionssm.tasks.pose.data import CocoKeypoints
from visionssm.tasks.pose.figures import Figures
from visionssm.tasks.pose.metric import KeypointMetric
from visionssm.tasks.pose.model import PoseEstimator
from visionssm.tasks.pose.predictor import KeypointFinder, Photo


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of four steps."""
    folder = tmp_path_factory.mktemp("pose") / "run"
    folder.mkdir()
    train(write_config(folder), work_dir=folder)
    return folder


def figures(folder: Path, split: str = "val", **options: Any) -> Figures:
    data = Figures(split, root=str(folder / "sets"), spec=SPEC, size=(64, 64), sigma=1.0, **options)
    data.for_evaluation()
    return data


def measured(data: CocoKeypoints, points: list[np.ndarray], scores: float = 0.9) -> dict[str, float]:
    """Figures if these points are found in the samples of a set."""
    metric = KeypointMetric()
    metric.dataset, metric.dataset_meta = data, data.metainfo
    rows = [
        {"index": n, "points": np.column_stack([x[:, :2], np.full(len(x), scores)]), "area": 900.0}
        for n, x in enumerate(points)
    ]
    metric.process(None, rows)
    return metric.compute_metrics(metric.results)


def test_run_writes_weights_and_pictures_and_its_checkpoint_says_what_it_needs(uninterrupted: Path) -> None:
    with Image.open(uninterrupted / "predictions.png") as image:
        assert np.asarray(image).std() > 5
    assert len(logged(uninterrupted, "loss_heatmap")) == 4
    assert logged(uninterrupted, "ap")
    assert logged(uninterrupted, "pck20")
    meta = torch.load(uninterrupted / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "pose"
    assert meta["crop"] == {"size": [64, 64], "padding": 1.25}
    assert len(meta["skeleton"]["names"]) == len(meta["skeleton"]["sigmas"]) == 14


def test_resumed_run_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = write_config(folder)
    train(config, work_dir=folder, resume=str(uninterrupted / "epoch_1.pth"))
    assert_equal_weights(uninterrupted / "epoch_2.pth", folder / "epoch_2.pth")


def test_evaluation_writes_cocos_results_and_a_picture_of_every_image(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "keypoints.json"
    found = evaluate(
        uninterrupted / "tiny.py",
        uninterrupted / "epoch_2.pth",
        work_dir=tmp_path,
        pictures=tmp_path / "pictures",
        out=out,
    )
    assert found["mean_error"] == pytest.approx(logged(uninterrupted, "mean_error")[-1], rel=0.05)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"{n:06d}.png" for n in range(3)]
    entries = json.loads(out.read_text())
    data = figures(uninterrupted.parent)
    assert 0 < len(entries) <= len(data)
    for entry in entries:
        assert entry["category_id"] == 1
        assert entry["image_id"] in (0, 1, 2)
        assert len(entry["keypoints"]) == 42


def test_precision_is_1_of_the_truth_and_0_of_other_peoples_points(tmp_path: Path) -> None:
    data = figures(tmp_path)
    true = [person.points for person in data.truth.people if person.points is not None]
    perfect = measured(data, true)
    assert perfect["ap"] == pytest.approx(1)
    assert perfect["ar"] == pytest.approx(1)
    assert perfect["pck20"] == 1
    assert perfect["mean_error"] == 0
    wrong = measured(data, [x + 200 for x in true])
    assert wrong["ap"] == 0
    assert wrong["pck20"] == 0
    moved = measured(data, [x + np.array([0.05 * 40, 0, 0]) for x in true])
    assert 0 < moved["ap"] < 1


def test_duplicates_are_left_out_and_missing_people_lower_the_precision(tmp_path: Path) -> None:
    arguments = write_set(tmp_path, lambda content: content["annotations"].append(person(2, image_id=2)))
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [10, 8, 20, 24], "score": score, "id": n}
        for n, score in enumerate((0.6, 0.8))
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    data = CocoKeypoints(**arguments, boxes="found.json")
    data.for_evaluation()
    true = np.reshape(person()["keypoints"], (3, 3)).astype(float)
    metric = KeypointMetric()
    metric.dataset, metric.dataset_meta = data, data.metainfo
    rows = [{"index": n, "points": np.column_stack([true[:, :2], [0.5, 0.9, 0.1]]), "area": 900.0} for n in (0, 1)]
    figures = metric.compute_metrics(rows)
    assert len(metric.people) == 1
    assert metric.people[0].score == pytest.approx(0.8 * 0.7), "the better box, and the mean of scores above 0.2"
    assert figures["ar"] == pytest.approx(0.5), "the second image's person was not found"
    assert "pck20" not in figures, "whose box is whose is not known of a detector's"
    metric.write(tmp_path / "points.json", data)
    (entry,) = json.loads((tmp_path / "points.json").read_text())
    assert entry["image_id"] == 1
    assert len(entry["keypoints"]) == 9


def test_loss_is_the_mean_of_weighted_squares_and_0_without_visible_points() -> None:
    torch.manual_seed(0)
    model = PoseEstimator("hrvmamba_nano_pose", num_keypoints=3).eval()
    images = torch.randn(2, 3, 64, 64)
    maps, weights = torch.rand(2, 3, 16, 16), torch.tensor([[1.0, 0, 1], [0, 1, 1]])
    with torch.no_grad():
        found = model.model(images)
    loss = model(images, maps, weights, mode="loss")["loss_heatmap"]
    expected = sum(float(weights[b, k] * ((found - maps)[b, k] ** 2).sum()) for b in range(2) for k in range(3))
    assert loss.item() == pytest.approx(expected / maps.numel(), rel=1e-5)
    assert model(list(images), list(maps), [torch.zeros(3)] * 2, mode="loss")["loss_heatmap"].item() == 0


def test_flip_test_of_a_mirrored_crop_gives_mirrored_maps() -> None:
    torch.manual_seed(0)
    model = PoseEstimator("hrvmamba_nano_pose", num_keypoints=3).eval().model
    crops = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, mirrored = heat_maps(model, crops, [(1, 2)]), heat_maps(model, crops.flip(-1), [(1, 2)])
    expected = maps[:, [0, 2, 1]].flip(-1)  # but for the shift by a pixel
    torch.testing.assert_close(mirrored[..., 1:-1], expected[..., :-2], atol=1e-6, rtol=1e-4)


def test_points_and_crops_must_fit_the_model_and_each_other(tmp_path: Path) -> None:
    data = figures(tmp_path)
    with pytest.raises(ConfigError, match="num_keypoints=17, but the data set has 14 key points"):
        PoseEstimator("hrvmamba_nano_pose").checkpoint_meta(data, None)
    with pytest.raises(ConfigError, match=r"is for crops of 256×192, but the data set has size=\(64, 64\)"):
        PoseEstimator("hrvmamba_tiny_pose_256x192", num_keypoints=14).checkpoint_meta(data, None)
    other = Figures("val", root=str(tmp_path / "sets"), spec=SPEC, size=(96, 64))
    with pytest.raises(ConfigError, match="data have different crops"):
        PoseEstimator("hrvmamba_nano_pose", num_keypoints=14).checkpoint_meta(data, other)
    with pytest.raises(ConfigError, match="'hrvmamba_pose' is unknown"):
        PoseEstimator("hrvmamba_pose")


def test_checkpoints_of_another_task_or_network_are_refused_by_name(uninterrupted: Path, tmp_path: Path) -> None:
    content = torch.load(uninterrupted / "best.pth", weights_only=True)
    about = content["meta"]["visionssm"]
    with pytest.raises(CheckpointError, match="'hrvmamba_nano_pose', the config's 'hrvmamba_tiny_pose_256x192'"):
        PoseEstimator("hrvmamba_tiny_pose_256x192", 14).check_checkpoint(content["meta"], "best.pth")
    changes: list[tuple[str, str, Any, str]] = [
        ("model", "name", "vmamba_nano_test", "no known pose estimator"),
        ("model", "changes", {"pretrained": True}, "changes that are not read from a file"),
        ("model", "num_keypoints", 13, "names 14 key points, but its model has 13"),
        ("crop", "size", [64, 10**6], "multiples of 32"),
        ("skeleton", "flip_pairs", [[0, 99]], "no two points"),
        ("skeleton", "sigmas", [0.1], "sigmas must be 14"),
    ]
    for part, key, value, message in changes:
        changed = {**about, part: {**about[part], key: value}}
        torch.save({**content, "meta": {"visionssm": changed}}, tmp_path / "changed.pth")
        with pytest.raises(CheckpointError, match=message):
            load_predictor(tmp_path / "changed.pth")


def test_predictor_finds_where_the_maps_are_highest(uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder: Any = load_predictor(uninterrupted / "best.pth")
    assert isinstance(finder, KeypointFinder)
    box = np.array([[10.0, 20.0, 50.0, 100.0]])
    centre, scale = finder.crop.region(box[0])
    true = np.random.default_rng(0).uniform(box[0, :2] + 5, box[0, 2:] - 5, (14, 2))
    in_crop = (true - centre) * 64 / scale + 32
    maps, _ = encode(in_crop, np.full(14, 2), (64, 64), 1.0)
    monkeypatch.setattr(KeypointFinder, "maps", lambda self, crops: maps[None])
    found = finder.found_in(Image.new("RGB", (80, 120)), Boxes(box, np.array([0.5]), [""]))
    assert np.abs(found.points[0, :, :2] - true).max() < 0.76 * 4 * scale[0] / 64
    assert found.scores[0] == pytest.approx(0.5)
    assert len(found.rows()) == 14
    assert found.plain()["objects"][0]["category_id"] == 1


def test_evaluation_fetches_no_weights_of_the_backbone(uninterrupted: Path, tmp_path: Path) -> None:
    """None are published of this one: asking for them ends in an error."""
    options = {"model.pretrained_backbone": True}
    with pytest.raises(ConfigError, match="hrvmamba"):
        MODELS.build(load_config(uninterrupted / "tiny.py", options).model)
    metrics = evaluate(uninterrupted / "tiny.py", uninterrupted / "best.pth", work_dir=tmp_path, options=options)
    assert metrics["ap"] >= 0


def image_of(folder: Path, name: str = "photo.png") -> Path:
    path = folder / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    return path


def coco_boxes(path: Path, *boxes: list[float]) -> Path:
    images = [{"id": 5, "file_name": "photo.png"}]
    path.write_text(json.dumps({"images": images, "annotations": [{"image_id": 5, "bbox": x} for x in boxes]}))
    return path


def test_prediction_takes_boxes_of_cocos_format_and_of_predictions(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = image_of(tmp_path), tmp_path / "keypoints.json"
    boxes = coco_boxes(tmp_path / "boxes.json", [10, 10, 30, 40], [40, 5, 35, 50])
    common = [str(uninterrupted / "best.pth"), str(photo), "--device", "cpu", "--out", str(out)]
    assert predict.main([*common, "--boxes", str(boxes), "--pictures", str(tmp_path / "pictures")]) == 0
    (entry,) = json.loads(out.read_text())["predictions"]
    assert [x["box"] for x in entry["objects"]] == [[10, 10, 40, 50], [40, 5, 75, 55]]
    assert all(len(x["keypoints"]) == 42 for x in entry["objects"])
    assert len(list((tmp_path / "pictures").iterdir())) == 1
    again = tmp_path / "again.json"
    cat = {"class": "cat", "score": 1, "box": [0, 0, 9, 9]}
    objects = [{"class": "person", "score": 1.0, "box": [10, 10, 40, 50]}, cat]
    again.write_text(json.dumps({"predictions": [{"file": str(photo), "objects": objects}], "unreadable": []}))
    assert predict.main([*common, "--boxes", str(again)]) == 0
    (entry,) = json.loads(out.read_text())["predictions"]
    assert len(entry["objects"]) == 1, "cats have no such key points"
    assert "left_shoulder" in capsys.readouterr().out


def test_prediction_without_usable_boxes_says_why(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, checkpoint = image_of(tmp_path), uninterrupted / "best.pth"
    boxes = coco_boxes(tmp_path / "boxes.json", [10, 10, 30, 40])
    assert predict.main([str(checkpoint), "--device", "cpu", str(photo)]) == 2
    assert "--boxes boxes.json, or a detector's" in capsys.readouterr().err
    finder: Any = load_predictor(checkpoint, boxes=boxes)
    found = predict_files(finder, [photo, image_of(tmp_path, "other.png")])
    assert [x.path.name for x in found.read] == ["photo.png"]
    assert "names no such image: 'other.png'" in found.unreadable[0].reason
    with pytest.raises(ValueError, match=r"from 0 to 1, got 1\.5"):
        replace(finder, threshold=1.5)
    with pytest.raises(ValueError, match="give one of them"):
        replace(finder, detector=checkpoint)
    with pytest.raises(CheckpointError, match="finds no boxes; give a detector's"):
        replace(finder, boxes=None, detector=checkpoint)
    coco_boxes(boxes, [200, 5, 10, 10])
    with pytest.raises(ValueError, match="1 of 1 boxes are outside of the image of 80×60"):
        replace(finder)([finder.read(photo)])


def test_mistakes_in_a_file_of_boxes_are_told_at_once(tmp_path: Path) -> None:
    path = coco_boxes(tmp_path / "boxes.json", [10, 10, 0, 40], [1, 2, 3], [5, 5, 10, 10])
    content = json.loads(path.read_text())
    content["annotations"] += [{"image_id": 9, "bbox": [1, 1, 5, 5]}, {"image_id": 5, "bbox": [1, 1, 5, 5], "score": 3}]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has 4 mistakes") as caught:
        ListedBoxes(path)
    assert "2 boxes without area: [10, 10, 10, 50] of 'photo.png'" in str(caught.value)
    assert "1 boxes of images that are not listed: number 3 of image_id 9" in str(caught.value)
    assert "1 boxes whose score is no number from 0 to 1: 3 of 'photo.png'" in str(caught.value)
    path.write_text("[]")
    with pytest.raises(ValueError, match="is of no known kind"):
        ListedBoxes(path)


def _torchvision_detector() -> Any:
    from visionssm.tasks.detection.model import TorchvisionDetector

    options = {"box_score_thresh": 0.0, "box_detections_per_img": 3}
    dense: dict[str, Any] = {"num_classes": 1, "size": (32, 32), "channels": 8, "anchor_sizes": (6, 10, 16, 24, 32)}
    return TorchvisionDetector("FasterRCNN", "vmamba_nano_test", options=options, **dense)


def _yolo() -> Any:
    from visionssm.tasks.yolo.model import YoloDetector

    return YoloDetector("mambayolo_nano", 1, size=32)


@pytest.mark.parametrize("made", [_torchvision_detector, _yolo], ids=["torchvision", "yolo"])
def test_people_are_found_by_a_trained_detector(made: Callable[[], Any], uninterrupted: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = made()
    about = {**model.checkpoint_meta(None, None), "classes": ["person"]}
    torch.save({"meta": {"visionssm": about}, "state_dict": model.state_dict()}, tmp_path / "detector.pth")
    finder: Any = load_predictor(uninterrupted / "best.pth", detector=tmp_path / "detector.pth", threshold=0.0)
    photo = finder.read(image_of(tmp_path))
    (found,) = finder([photo])
    with torch.inference_mode():
        (boxes,) = load_predictor(tmp_path / "detector.pth", threshold=0.0)([photo.image])
    assert len(found.points) == len(boxes.rows()) > 0
    np.testing.assert_allclose(found.boxes, [x["box"] for x in boxes.plain()["objects"]])


def test_file_of_boxes_is_told_apart_by_paths(tmp_path: Path) -> None:
    entries = [
        {"file": f"{folder}/a.png", "objects": [{"class": "person", "box": [0, 0, side, side]}]}
        for side, folder in ((5, "x"), (9, "y"))
    ]
    (tmp_path / "boxes.json").write_text(json.dumps({"predictions": entries}))
    listed = ListedBoxes(tmp_path / "boxes.json")
    image = Image.new("RGB", (20, 20))
    assert listed.boxes_of(Path("y/a.png"), image, ["person"], 0.0).places.tolist() == [[0, 0, 9, 9]]
    with pytest.raises(ValueError, match="two images of this name"):
        listed.boxes_of(Path("z/a.png"), image, ["person"], 0.0)


def test_heat_maps_are_drawn(uninterrupted: Path, tmp_path: Path) -> None:
    photo, out = image_of(tmp_path), tmp_path / "maps.png"
    arguments = ["heatmaps", str(uninterrupted / "best.pth"), str(photo), "--box", "10", "5", "60", "55"]
    assert visualize.main([*arguments, "--out", str(out)]) == 0
    with Image.open(out) as image:
        assert np.asarray(image).std() > 5
    assert visualize.main([*arguments[:4], "10", "5", "10", "55"]) == 2


def test_features_are_drawn_and_maps_exported(uninterrupted: Path, tmp_path: Path) -> None:
    finder: Any = load_predictor(uninterrupted / "best.pth")
    view = finder.view()
    image = view.prepare(Photo(Image.new("RGB", (50, 70), "red"), Path("x")), None)
    assert image.shape == (1, 3, 64, 64)
    assert view.picture(image)[32, 32].tolist() == pytest.approx([1, 0, 0], abs=0.01)
    exportable = finder.exportable()
    assert exportable.shape == (1, 3, 64, 64)
    assert json.loads(exportable.about["keypoints"])[0] == "left_shoulder"


@pytest.mark.parametrize("config", shipped_configs("hrvmamba_*_coco_*x*.py"), ids=lambda path: path.stem)
def test_published_recipes(config: Path) -> None:
    cfg = load_config(config)
    check_config(cfg)
    size = tuple(map(int, config.stem.rsplit("_", 1)[1].split("x")))
    name = f"{config.stem.split('_coco')[0]}_pose_{size[0]}x{size[1]}"
    assert cfg.model.name == name
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert tuple(loader.dataset["size"]) == size
        assert loader.dataset.sigma == {256: 2.0, 384: 3.0}[size[0]]
    assert dict(cfg.train_dataloader.dataset.augment) == {}
    assert cfg.train_cfg.max_epochs == 210
    assert cfg.optim_wrapper.optimizer.lr == 5e-4
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.01
    assert cfg.param_scheduler[1].milestones == [170, 200]
    drops = {"tiny": (0.0, 0.0), "small": (0.1, 0.1), "base_coco_256": (0.2, 0.0), "base_coco_384": (0.6, 0.2)}
    (expected,) = (value for key, value in drops.items() if key in config.stem)
    assert (cfg.model.changes.drop_path_rate, cfg.model.changes.drop_rate) == expected
    batch = 32 if "base_coco_384" in config.stem else 128 if "tiny" in config.stem else 64
    assert cfg.train_dataloader.batch_size == batch


def test_shipped_config_of_figures_fits_its_data(tmp_path: Path) -> None:
    small = {"train_dataloader.dataset.spec": SPEC, "train_dataloader.dataset.root": str(tmp_path)}
    cfg = load_config(shipped_config("hrvmamba_nano_figures"), small)
    check_config(cfg)
    model, data = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    assert model.checkpoint_meta(data, None)["classes"] == ["person"]


def test_documented_numpy_code_finds_what_the_predictor_finds(uninterrupted: Path) -> None:
    (code,) = (x.code for x in blocks(ROOT / "docs" / "pose.md") if "def key_points" in x.code)
    namespace: dict[str, Any] = {}
    exec(compile(code, "docs/pose.md", "exec"), namespace)
    finder: Any = replace(load_predictor(uninterrupted / "best.pth"), flip_test=False)
    torch.manual_seed(0)
    torch.nn.init.normal_(finder.model.head.final_layer.weight)
    torch.nn.init.constant_(finder.model.head.final_layer.bias, 5.0)  # every map has a peak above 0
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))
    box = (10.0, 5.0, 42.0, 50.0)
    found = namespace["key_points"](lambda x: finder.maps(torch.from_numpy(x)), image, box, finder.crop.size)
    expected = finder.found_in(image, Boxes(np.array([box]), np.ones(1), [""])).points[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_evaluation_takes_the_mean_with_mirrored_crops_where_the_model_says_so(tmp_path: Path) -> None:
    data = figures(tmp_path)
    batch = torch.utils.data.default_collate([data[0], data[1]])
    torch.manual_seed(0)
    flipping = PoseEstimator("hrvmamba_nano_pose", num_keypoints=14).eval()
    plain = PoseEstimator("hrvmamba_nano_pose", num_keypoints=14, flip_test=False).eval()
    plain.load_state_dict(flipping.state_dict())
    with torch.no_grad():
        maps = heat_maps(flipping.model, batch["inputs"], data.skeleton.flip_pairs)
        found, alone = (model(**batch, mode="predict") for model in (flipping, plain))
        peaks = flipping.model(batch["inputs"]).amax((2, 3)).numpy()
    np.testing.assert_allclose(np.stack([x["points"][:, 2] for x in found]), maps.amax((2, 3)).numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.stack([x["points"][:, 2] for x in alone]), peaks, rtol=1e-5)
    assert np.abs(maps.amax((2, 3)).numpy() - peaks).max() > 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes on two cores of its own
def test_a_small_estimator_learns_the_joints_of_stick_figures(tmp_path: Path) -> None:
    config = shipped_config("hrvmamba_nano_figures")
    train(config, work_dir=tmp_path)
    assert evaluate(config, tmp_path / "best.pth", work_dir=tmp_path / "test")["ap"] >= 0.7
