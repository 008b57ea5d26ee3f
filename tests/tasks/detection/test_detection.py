"""Detection in the engine: losses, average precision, pictures, and runs from a configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tests.engine.every_task  # noqa: F401  registers all types
from tests.configs import shipped_config
from tests.engine.shapes import DETECTOR, SPEC, write_detection_config
from tests.engine.tiny import assert_equal_weights, logged
from visionssm.cli.launch import evaluate, train
from visionssm.data.images import UnreadableImageError, read_image
from visionssm.data.masks import uncompressed_rle
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.heads.detectors import DETECTORS
from visionssm.tasks.detection.data import CocoInstances
from visionssm.tasks.detection.metric import DetectionMetric, average_precision, plain_objects
from visionssm.tasks.detection.model import TorchvisionDetector

CONFIG = shipped_config("shapes_detection_maskrcnn")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of six steps."""
    folder = tmp_path_factory.mktemp("detection") / "run"
    folder.mkdir()
    train(write_detection_config(folder), work_dir=folder)
    return folder


def batch() -> tuple[list[torch.Tensor], dict[str, list[torch.Tensor]]]:
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    masks[:, :, 4:20, 6:26] = 1
    boxes = torch.tensor([[6.0, 4.0, 26.0, 20.0]])
    images = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
    return images, {"boxes": [boxes] * 2, "labels": [torch.tensor([3])] * 2, "masks": list(masks)}


def test_published_config_has_no_unknown_key_and_fits_its_data(tmp_path: Path) -> None:
    small = {"train_dataloader.dataset.spec": SPEC, "train_dataloader.dataset.root": str(tmp_path)}
    cfg = load_config(CONFIG, small)
    check_config(cfg)
    model, data = MODELS.build(cfg.model), DATASETS.build(cfg.train_dataloader.dataset)
    assert model.checkpoint_meta(data, None)["classes"] == data.metainfo["classes"]


def test_run_writes_weights_curves_and_pictures(uninterrupted: Path) -> None:
    assert (uninterrupted / "learning_curves.png").exists()
    with Image.open(uninterrupted / "predictions.png") as image:
        assert image.width > 2 * 288
        assert np.asarray(image).std() > 5
    losses = logged(uninterrupted, "loss")
    assert len(losses) == 6
    parts = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    total = sum(logged(uninterrupted, part)[0] for part in parts)
    assert losses[0] == pytest.approx(total, rel=1e-4)
    assert len(logged(uninterrupted, "box_ap50")) == len(logged(uninterrupted, "mask_ap50")) == 2
    meta = torch.load(uninterrupted / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "detection"
    assert meta["classes"] == ["circle", "square", "triangle", "cross"]


def test_resumed_run_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    config = write_detection_config(folder)
    train(config, work_dir=folder, resume=str(uninterrupted / "epoch_1.pth"))
    assert_equal_weights(uninterrupted / "epoch_2.pth", folder / "epoch_2.pth")


def test_evaluation_gives_the_validation_metrics_and_pictures_of_every_image(
    uninterrupted: Path, tmp_path: Path
) -> None:
    metrics = evaluate(
        uninterrupted / "tiny.py", uninterrupted / "epoch_2.pth", work_dir=tmp_path, pictures=tmp_path / "pictures"
    )
    assert metrics["box_ap"] == pytest.approx(logged(uninterrupted, "box_ap")[-1], abs=1e-3)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [f"{n:06d}.png" for n in range(4)]


@pytest.mark.parametrize("name", ["vmamba_nano_test", "vim_nano_test"])
@pytest.mark.parametrize("architecture", DETECTORS)
def test_architectures_learn_one_batch_and_predict(architecture: str, name: str) -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(architecture, **{**DETECTOR, "name": name})
    images, targets = batch()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    totals = []
    for _ in range(6):
        optimizer.zero_grad()
        losses = model(images, targets, mode="loss")
        assert all("loss" in key for key in losses)
        total = sum(losses.values())
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]
    with torch.no_grad():
        rows = model.eval()(images, targets, [4, 5], mode="predict")
    assert [row["index"] for row in rows] == [4, 5]
    assert ("masks" in rows[0]["found"]) == (architecture == "MaskRCNN")
    assert rows[0]["image"].shape == (32, 32, 3)


def rows_of(shift: float, score: float = 0.9, label: int = 3) -> list[dict[str, Any]]:
    """Two images, each with one true object and one detection `shift` pixels to the right of it."""
    _, targets = batch()
    rows = []
    for index in range(2):
        truth = {key: items[index] for key, items in targets.items()}
        found = {
            "boxes": truth["boxes"] + torch.tensor([shift, 0, shift, 0]),
            "labels": torch.tensor([label]),
            "scores": torch.tensor([score]),
            "masks": truth["masks"].roll(int(shift), -1)[:, None].float(),
        }
        rows.append({"index": index, "truth": plain_objects(truth), "found": plain_objects(found), "size": (32, 32)})
    return rows


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_average_precision_is_cocos(kind: str) -> None:
    assert average_precision(rows_of(0), kind) == pytest.approx((1, 1, 1))
    shifted = average_precision(rows_of(4), kind)  # 16 of 24 columns are common: IoU 2/3, above 4 of the 10 thresholds
    assert shifted == pytest.approx((0.4, 1, 0))
    assert average_precision(rows_of(0, label=2), kind) == pytest.approx((0, 0, 0))


def test_average_precision_without_detections_is_0_and_without_objects_minus_1() -> None:
    rows = rows_of(0)
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    assert average_precision([{**row, "found": nothing} for row in rows], "bbox") == (0, 0, 0)
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}
    assert average_precision([{**row, "truth": empty} for row in rows], "bbox") == (-1, -1, -1)
    assert average_precision([{**row, "truth": empty, "found": nothing} for row in rows], "bbox") == (-1, -1, -1)


def test_detections_of_crowds_do_not_count_against_precision() -> None:
    rows = rows_of(0)
    crowd = {"boxes": np.array([[0.0, 22, 32, 32]]), "labels": np.array([3]), "crowd": np.array([True])}
    for row in rows:
        row["truth"] = {key: np.concatenate([row["truth"].get(key, np.array([False])), crowd[key]]) for key in crowd}
        extra = {"boxes": np.array([[2.0, 23, 12, 31]]), "labels": np.array([3]), "scores": np.array([0.95])}
        row["found"] = {key: np.concatenate([row["found"][key], extra[key]]) for key in extra}
    assert average_precision(rows, "bbox")[1] == pytest.approx(1)
    for row in rows:
        row["truth"] = {**row["truth"], "crowd": np.array([False, False])}
    assert average_precision(rows, "bbox")[1] < 0.9


def write_set_with_crowds(folder: Path, seed: int) -> dict[str, Any]:
    """A COCO set whose ids are in no order, with crowds, boxes that reach out of their image, and images of nothing."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir()
    keys = rng.permutation(np.arange(100, 112)).tolist()
    images = [{"id": key, "file_name": f"{key}.png", "height": 40, "width": 60} for key in keys]
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        Image.new("RGB", (60, 40)).save(folder / "images" / image["file_name"])
        for _ in range(0 if number == 3 else rng.integers(1, 6)):
            left, top, width, height = (round(x, 2) for x in rng.uniform((-4, -4, 6, 6), (40, 25, 30, 30)).tolist())
            mask = np.zeros((40, 60), bool)
            mask[max(0, int(top)) : int(top + height), max(0, int(left)) : int(left + width)] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": int(rng.choice([3, 7, 9])),
                    "bbox": [left, top, width, height],
                    "area": int(mask.sum()),
                    "iscrowd": int(rng.random() < 0.3),
                    "segmentation": uncompressed_rle(mask),
                }
            )
    categories = [{"id": key, "name": str(key)} for key in (9, 3, 7)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "objects.json").write_text(json.dumps(content))
    return content


def found_in(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Detections near what is annotated and anywhere, many of equal scores."""
    truth = sample["targets"]["boxes"].numpy().repeat(2, 0)
    near = truth + rng.normal(0, 2, truth.shape)
    anywhere = np.array([[5.0, 5, 25, 25], [30, 10, 55, 30]])
    boxes = np.concatenate([near, anywhere]).clip(0, (60, 40, 60, 40)).astype(np.float32)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    masks = np.zeros((len(boxes), 1, 40, 60), np.float32)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int).tolist(), strict=True):
        mask[0, top:bottom, left:right] = 1
    labels = rng.integers(1, 4, len(boxes))
    return {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.from_numpy(labels),
        "scores": torch.from_numpy(rng.choice([0.3, 0.6, 0.9], len(boxes)).astype(np.float32)),
        "masks": torch.from_numpy(masks),
    }


@pytest.mark.parametrize("seed", range(4))
def test_numbers_with_crowds_are_those_of_pycocotools_on_the_same_file(tmp_path: Path, seed: int) -> None:
    write_set_with_crowds(tmp_path, seed)
    data = CocoInstances(tmp_path, annotations="objects.json", images="images", wrong="raise")
    data.for_evaluation()
    metric = DetectionMetric(keep=0)
    metric.dataset_meta = data.metainfo
    rng = np.random.default_rng(seed)
    entries: dict[str, list[dict[str, Any]]] = {"bbox": [], "segm": []}
    for index in rng.permutation(len(data)).tolist():
        sample = data[index]
        found = plain_objects(found_in(sample, rng))
        row = {"index": index, "image": np.zeros((40, 60, 3), np.uint8), "found": found}
        metric.process(None, [{**row, "truth": plain_objects(sample["targets"])}])
        for number, (left, top, right, bottom) in enumerate(found["boxes"].tolist()):
            entry = {
                "image_id": data.keys[index],
                "category_id": (9, 3, 7)[found["labels"][number] - 1],
                "score": float(found["scores"][number]),
            }
            entries["bbox"].append({**entry, "bbox": [left, top, right - left, bottom - top]})
            entries["segm"].append({**entry, "segmentation": found["masks"][number]})
    metrics = metric.compute_metrics(metric.results)
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        truth = COCO(str(tmp_path / "objects.json"))
        evaluation = COCOeval(truth, truth.loadRes(entries[kind]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        ours = [metrics[f"{name}_ap"], metrics[f"{name}_ap50"], metrics[f"{name}_ap75"]]
        assert ours == pytest.approx(evaluation.stats[:3].tolist(), abs=1e-9)
        assert 0.01 < ours[1] < 0.99, "an evaluation that says something"


def test_only_crowds_are_no_objects_even_where_nothing_is_found() -> None:
    row = rows_of(0)[0]
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    crowd = {"boxes": np.array([[0.0, 22, 32, 32]]), "labels": np.array([3]), "crowd": np.array([True])}
    assert average_precision([{**row, "truth": crowd, "found": nothing}], "bbox") == (-1, -1, -1)


def test_evaluation_of_a_run_sees_crowds_and_training_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set_with_crowds(tmp_path, 0)
    data = f"dict(type='CocoInstances', root={str(tmp_path)!r}, annotations='objects.json', images='images')"
    config = write_detection_config(tmp_path, "FasterRCNN")
    text = config.read_text()
    for split in ("train", "val"):
        text += f"\n{split}_dataloader['dataset'] = {data}\n"
    text += "\ntest_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, {}\n"
    text += "custom_hooks.append(dict(type='FinalTestHook', datasets=dict(same={})))\n"
    config.write_text(text + "model['num_classes'] = 3\ntrain_cfg['max_epochs'] = 1\n")
    losses, rows = [], []
    forward, process = TorchvisionDetector.forward, DetectionMetric.process

    def seen(self: Any, inputs: Any, targets: Any = None, *rest: Any, **options: Any) -> Any:
        losses.extend(targets["boxes"] if options.get("mode") == "loss" else ())
        return forward(self, inputs, targets, *rest, **options)

    def kept(self: Any, data_batch: Any, data_samples: Any) -> None:
        rows.extend(data_samples)
        process(self, data_batch, data_samples)

    monkeypatch.setattr(TorchvisionDetector, "forward", seen)
    monkeypatch.setattr(DetectionMetric, "process", kept)
    train(config, work_dir=tmp_path / "run")
    content = json.loads((tmp_path / "objects.json").read_text())
    crowds = sum(entry["iscrowd"] for entry in content["annotations"])
    assert sum(map(len, losses)) == len(content["annotations"]) - crowds
    assert [row["index"] for row in rows] == 2 * list(range(12)), "the validation, and the test at the end"
    for part in (rows[:12], rows[12:]):
        assert sum(row["truth"]["crowd"].sum() for row in part) == crowds > 0


def test_a_run_survives_an_image_that_goes_bad_and_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_set_with_crowds(tmp_path, 0)
    bad = tmp_path / "images" / content["images"][2]["file_name"]
    data = f"dict(type='CocoInstances', root={str(tmp_path)!r}, annotations='objects.json', images='images'"
    config = write_detection_config(tmp_path, "FasterRCNN")
    text = config.read_text() + "\nmodel['num_classes'] = 3\ntrain_cfg['max_epochs'] = 1\n"
    for split in ("train", "val"):
        text += f"\n{split}_dataloader['dataset'] = {data}, wrong='skip')\n"
    config.write_text(text + "custom_hooks.append(dict(type='CorruptImageHook'))\n")

    def read(path: Path, **options: Any) -> Image.Image:
        if path == bad:
            raise UnreadableImageError(path, "the disk has a hole")
        return read_image(path, **options)

    monkeypatch.setattr("visionssm.data.coco.read_image", read)
    train(config, work_dir=tmp_path / "run")
    assert logged(tmp_path / "run", "corrupt") == [1]
    (log,) = (tmp_path / "run").glob("*/*.log")
    assert log.read_text().count("1 images could not be read in this") == 2, "training and validation"


@pytest.mark.parametrize("architecture", ["FasterRCNN", "MaskRCNN"])
def test_crowds_are_left_out_of_the_losses(architecture: str) -> None:
    torch.manual_seed(0)
    model = TorchvisionDetector(architecture, **DETECTOR)
    images, targets = batch()

    def losses(objects: dict[str, list[torch.Tensor]]) -> dict[str, float]:
        torch.manual_seed(1)
        return {name: value.item() for name, value in model(images, objects, mode="loss").items()}

    crowd = {"boxes": torch.tensor([[0.0, 22, 32, 32]]), "labels": torch.tensor([1])}
    crowd["masks"] = torch.ones(1, 32, 32, dtype=torch.uint8)
    both = {name: [torch.cat([x, crowd[name]]) for x in items] for name, items in targets.items()}
    expected = losses(targets)
    assert losses({**both, "crowd": [torch.tensor([False, True])] * 2}) == pytest.approx(expected)
    assert losses({**both, "crowd": [torch.tensor([False, False])] * 2}) != pytest.approx(expected)


def test_images_that_could_not_be_read_are_left_out_of_the_metric_and_counted() -> None:
    rows = [{**row, "image": np.zeros((32, 32, 3), np.uint8)} for row in rows_of(0)]
    lost = {**rows[0], "index": -1, "truth": {**rows[0]["truth"], "labels": rows[0]["truth"]["labels"] % 4 + 1}}
    metric = DetectionMetric()
    metric.dataset_meta = {"classes": list("abcd")}
    metric.process(None, [lost, *rows])
    metrics = metric.compute_metrics(metric.results)
    assert metrics["box_ap"] == pytest.approx(1)
    assert metrics["corrupt"] == 1
    assert -1 not in [index for index, _ in metric.pictures]
    with pytest.raises(ValueError, match="no readable image"):
        metric.compute_metrics([{**lost, "size": (32, 32)}])


def test_data_whose_objects_lack_masks_are_refused_before_the_first_step(tmp_path: Path) -> None:
    content = write_set_with_crowds(tmp_path, 0)
    options = {"annotations": "objects.json", "images": "images"}
    model = TorchvisionDetector("MaskRCNN", **{**DETECTOR, "num_classes": 3})
    whole = CocoInstances(tmp_path, **options)
    del content["annotations"][4]["segmentation"]
    (tmp_path / "objects.json").write_text(json.dumps(content))
    some = CocoInstances(tmp_path, **options)
    message = r"1 of \d+ objects of the {} data have none: annotation 5 in '1\d\d.png'\. Give them masks.*masks=True"
    for part, sets in (("training", (some, whole)), ("validation", (whole, some))):
        with pytest.raises(ConfigError, match=message.format(part)):
            model.checkpoint_meta(*sets)
    none = CocoInstances(tmp_path, **options, masks=False)
    with pytest.raises(ConfigError, match=r"1 of \d+ objects"):
        model.checkpoint_meta(none, whole)
    assert not whole.without_mask
    whole.has_masks = False  # as with masks=False
    with pytest.raises(ConfigError, match=r"the training data have none \(or masks=False\)"):
        model.checkpoint_meta(whole, None)
    left_out = CocoInstances(tmp_path, **options, masks=True, wrong="skip")
    assert model.checkpoint_meta(left_out, whole)["classes"] == ["9", "3", "7"]
    for entry in content["annotations"]:
        entry.pop("segmentation", None)
    (tmp_path / "objects.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"the training data have none .*use FasterRCNN"):
        model.checkpoint_meta(CocoInstances(tmp_path, **options), whole)
    assert TorchvisionDetector("FasterRCNN", **{**DETECTOR, "num_classes": 3}).checkpoint_meta(some, None)


def test_metric_keeps_the_first_images_and_draws_likely_objects(uninterrupted: Path) -> None:
    metric = DetectionMetric(keep=1)
    metric.dataset_meta = {"classes": ["a", "b", "c", "d"]}
    rows = [{**row, "image": np.full((32, 32, 3), 128, np.uint8)} for row in rows_of(0)]
    metric.process(None, rows)
    assert metric.compute_metrics(metric.results)["mask_ap50"] == pytest.approx(1)
    assert [index for index, _ in metric.pictures] == [0]
    unlikely = DetectionMetric(keep=1, threshold=0.95)
    unlikely.process(None, rows)
    unlikely.compute_metrics(unlikely.results)
    assert np.asarray(unlikely.pictures[0][1])[:, 310:].std() < np.asarray(metric.pictures[0][1])[:, 310:].std()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"architecture": "YOLO"}, "'YOLO' is unknown.*FasterRCNN, MaskRCNN, RetinaNet"),
        ({"name": "vmamba_nano_tets"}, "vmamba_nano_test"),
        ({"size": (64, 32)}, "shortest, longest"),
        ({"anchor_sizes": (8, 16)}, "must be 5 numbers"),
        ({"options": {"box_detections_per_image": 1}}, "closest: 'box_detections_per_img'"),
        ({"backbone": {"no_such": 1}}, "no_such"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchvisionDetector(**{"architecture": "FasterRCNN", **DETECTOR, **arguments})


def test_data_and_checkpoints_that_do_not_fit_are_refused() -> None:
    model = TorchvisionDetector("MaskRCNN", **DETECTOR)
    images, targets = batch()
    del targets["masks"]
    with pytest.raises(ConfigError, match=r"needs masks.*FasterRCNN"):
        model(images, targets, mode="loss")

    class Five:
        metainfo = {"classes": list("abcde")}  # noqa: RUF012

    with pytest.raises(ConfigError, match="num_classes=4, but the data set has 5 classes"):
        model.checkpoint_meta(Five(), None)
    meta = {"visionssm": model.checkpoint_meta(None, None)}
    model.check_checkpoint(meta, "x.pth")
    meta["visionssm"]["model"]["architecture"] = "RetinaNet"
    with pytest.raises(CheckpointError, match="its architecture is 'RetinaNet', the config's 'MaskRCNN'"):
        model.check_checkpoint(meta, "x.pth")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_published_config_reaches_its_bounds(tmp_path: Path) -> None:
    train(CONFIG, work_dir=tmp_path)
    metrics = evaluate(CONFIG, tmp_path / "best.pth", work_dir=tmp_path / "test")
    assert metrics["box_ap50"] >= 0.5
    assert metrics["mask_ap50"] >= 0.5
