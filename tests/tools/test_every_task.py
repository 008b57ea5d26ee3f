"""Evaluating and predicting with checkpoints of every task: what is written, read again by other programs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from pycocotools import mask as coder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.engine.shapes import SPEC, write_detection_config, write_segmentation_config
from tests.engine.tiny import write_config
from visionssm import cli
from visionssm.cli import predict, test, visualize
from visionssm.cli.launch import evaluate, train
from visionssm.prediction import load_predictor
from visionssm.tasks.detection.shapes import ShapesDetection
from visionssm.tasks.segmentation.shapes import ShapesSegmentation
from visionssm.tasks.video.data import MovingDigits

CLIPS = """
model = dict(type="NextFramePredictor", name="convs5_nano", context=3,
             model_kwargs=dict(widths=(8, 8), dim=8, states=8, depth=1))
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
                        collate_fn=dict(type="default_collate"),
                        dataset=dict(type="MovingDigits", split="train", clips=4, frames=5, size=16))
val_dataloader = dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
                      collate_fn=dict(type="default_collate"),
                      dataset=dict(type="MovingDigits", split="val", clips=3, frames=5, size=16))
val_evaluator = dict(type="NextFrameMetric")
val_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-3))
default_hooks = dict(checkpoint=dict(type="SafeCheckpointHook"))
env_cfg = dict(cpu_threads=1)
randomness = dict(seed=3)
"""


def _trained(folder: Path, config: Path, **options: Any) -> Path:
    train(config, work_dir=folder, options=options or None)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "run"
    folder.mkdir()
    found_anyway = {"model.options": {"box_score_thresh": 0.0, "box_nms_thresh": 0.9, "box_detections_per_img": 50}}
    return _trained(folder, write_detection_config(folder), **found_anyway)


@pytest.fixture(scope="module")
def segmentor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmentor") / "run"
    folder.mkdir()
    return _trained(folder, write_segmentation_config(folder))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    (folder / "tiny.py").write_text(CLIPS)
    return _trained(folder, folder / "tiny.py")


def _evaluated(run: Path, folder: Path, out: Path, **more: Any) -> dict[str, float]:
    (checkpoint,) = run.glob(f"epoch_{max(int(x.stem[6:]) for x in run.glob('epoch_*.pth'))}.pth")
    return evaluate(run / "tiny.py", checkpoint, out=out, work_dir=folder, **more)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_detections_are_written_as_cocos_results_that_give_the_same_precision(detector: Path, tmp_path: Path) -> None:
    model = {"model.options": {"box_score_thresh": 0.0, "box_nms_thresh": 0.9, "box_detections_per_img": 50}}
    metrics = _evaluated(detector, tmp_path, tmp_path / "found" / "coco.json", options=model)
    data = ShapesDetection("val", root=str(detector.parent / "sets"), spec=SPEC)
    (annotations,) = (detector.parent / "sets").glob("*/annotations/instances_val.json")
    truth = COCO(str(annotations))
    found = truth.loadRes(str(tmp_path / "found" / "coco.json"))
    for kind, name in (("bbox", "box_ap"), ("segm", "mask_ap")):
        judged = COCOeval(truth, found, kind)
        judged.evaluate(), judged.accumulate(), judged.summarize()
        assert judged.stats[0] == pytest.approx(metrics[name], abs=1e-9)
    entries = json.loads((tmp_path / "found" / "coco.json").read_text())
    assert {entry["image_id"] for entry in entries} == set(data.keys)
    assert coder.decode(entries[0]["segmentation"]).shape == (SPEC["size"], SPEC["size"])
    _evaluated(detector, tmp_path, tmp_path / "found.csv", options=model)
    rows = _rows(tmp_path / "found.csv")
    assert len(rows) == len(entries)
    assert {row["sample"] for row in rows} == {data.sample_name(i) for i in range(len(data))}


def test_pixel_classes_are_written_as_label_images_that_give_the_same_accuracy(segmentor: Path, tmp_path: Path) -> None:
    metrics = _evaluated(segmentor, tmp_path, tmp_path / "found")
    data = ShapesSegmentation("val", root=str(segmentor.parent / "sets"), spec=SPEC)
    hits = []
    for number in range(len(data)):
        with Image.open(tmp_path / "found" / data.sample_name(number)) as image:
            assert image.mode == "L"
            hits.append(np.asarray(image) == data[number]["labels"].numpy())
    assert np.mean(hits) == pytest.approx(metrics["pixel_accuracy"])
    rows = _rows(tmp_path / "found" / "predictions.csv")
    assert sum(int(row["correct_pixels"]) for row in rows) == np.sum(hits)
    assert sum(int(row["true_pixels"]) for row in rows) == np.size(hits)
    _evaluated(segmentor, tmp_path, tmp_path / "table.csv")
    assert _rows(tmp_path / "table.csv") == rows


def test_generated_frames_are_written_with_their_figures(video: Path, tmp_path: Path) -> None:
    metrics = _evaluated(video, tmp_path, tmp_path / "found", pictures=tmp_path / "pictures")
    rows = _rows(tmp_path / "found" / "predictions.csv")
    assert [row["sample"] for row in rows] == ["val_000000", "val_000001", "val_000002"]
    assert np.mean([float(row["psnr"]) for row in rows]) == pytest.approx(metrics["psnr"], rel=1e-4)
    frames = sorted((tmp_path / "found" / "val_000001").iterdir())
    assert [frame.name for frame in frames] == ["0003.png", "0004.png"]
    truth = MovingDigits("val", clips=3, frames=5, size=16)[1]["inputs"][3:, ..., 0].numpy()
    read = np.stack([np.asarray(Image.open(frame)) for frame in frames]) / 127.5 - 1
    error = ((read - truth) ** 2).mean((1, 2)) / 4
    assert -10 * np.log10(error).mean() == pytest.approx(float(rows[1]["rollout_psnr"]), abs=0.1)
    assert len(list((tmp_path / "pictures").iterdir())) == 3


def test_pictures_of_a_classifiers_test_show_every_image(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(write_config(tmp_path), work_dir=run, options={"train_cfg.max_epochs": 1})
    evaluate(tmp_path / "tiny.py", run / "epoch_1.pth", work_dir=run, pictures=tmp_path / "pictures")
    pictures = list((tmp_path / "pictures").iterdir())
    assert len(pictures) == 90
    with Image.open(pictures[0]) as image:
        assert np.asarray(image).std() > 20


@pytest.mark.parametrize("suffix, told", [(".txt", "a .json file or a .csv file"), ("", "a .json file or a .csv file")])
def test_forms_that_a_task_does_not_write_are_refused_before_the_test(
    suffix: str, told: str, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(detector / "tiny.py"), str(detector / "epoch_2.pth"), "--work-dir", str(tmp_path)]
    assert test.main([*arguments, "--out", str(tmp_path / f"found{suffix}")]) == 1
    assert f"--out must be {told}" in capsys.readouterr().err


def test_prediction_writes_label_images_of_the_images_sizes(segmentor: Path, tmp_path: Path) -> None:
    for name, size in (("a", (40, 30)), ("b", (33, 47))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    command = [
        str(segmentor / "best.pth"),
        *files,
        "--masks",
        str(tmp_path / "masks"),
        "--out",
        str(tmp_path / "x.csv"),
    ]
    assert predict.main(command) == 0
    shares = {(Path(row["file"]).stem, row["class"]): float(row["share"]) for row in _rows(tmp_path / "x.csv")}
    classes = ["background", "circle", "square", "triangle", "cross"]
    for file, size in (("0000_a.png", (40, 30)), ("0001_b.png", (33, 47))):
        with Image.open(tmp_path / "masks" / file) as image:
            assert image.size == size
            numbers = np.asarray(image)
        for number in np.unique(numbers):
            assert shares[file[5], classes[number]] == pytest.approx(float((numbers == number).mean()), rel=1e-4)


def test_prediction_continues_clips_of_files(video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = MovingDigits("val", clips=1, frames=5, size=16)[0]["inputs"]
    levels = ((clip[..., 0] + 1) * 127.5).round().byte().numpy()
    np.save(tmp_path / "bytes.npy", levels)
    np.save(tmp_path / "floats.npy", levels[..., None].astype(np.float32) / 127.5 - 1)
    first, *rest = [Image.fromarray(level) for level in levels]
    first.save(tmp_path / "moving.png", save_all=True, append_images=rest)
    np.save(tmp_path / "short.npy", levels[:2])
    np.save(tmp_path / "odd.npy", levels[:, :15])
    np.save(tmp_path / "numbers.npy", levels.astype(np.int64))
    (tmp_path / "text.npy").write_text("no clip")
    names = ["bytes.npy", "floats.npy", "moving.png", "short.npy", "odd.npy", "numbers.npy", "text.npy"]
    files = [str(tmp_path / name) for name in names]
    out = ["--out", str(tmp_path / "found.json"), "--pictures", str(tmp_path / "pictures")]
    assert predict.main([str(video / "epoch_1.pth"), *files, *out]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    whole, same, moving, short = found["predictions"]
    assert [frame["frame"] for frame in whole["frames"]] == [3, 4]
    assert whole["frames"] == same["frames"] == moving["frames"]
    _evaluated(video, tmp_path, tmp_path / "table.csv")
    expected = float(_rows(tmp_path / "table.csv")[0]["rollout_psnr"])
    assert np.mean([frame["psnr"] for frame in whole["frames"]]) == pytest.approx(expected, rel=1e-4)
    assert short["given"] == 2
    assert [frame["psnr"] for frame in short["frames"]] == [None] * 10
    reasons = {Path(entry["file"]).stem: entry["reason"] for entry in found["unreadable"]}
    assert "15×16×1" in reasons["odd"]
    assert "int64" in reasons["numbers"]
    assert "no clip" in reasons["text"]
    with Image.open(tmp_path / "pictures" / "0000_bytes.gif") as image:
        assert len(list(ImageSequence.Iterator(image))) == 5
    assert "psnr" in capsys.readouterr().out


def test_generated_frames_do_not_depend_on_what_follows_in_the_file(video: Path, tmp_path: Path) -> None:
    predictor = load_predictor(video / "epoch_1.pth")
    clip = torch.rand(5, 16, 16, 1) * 2 - 1
    with torch.inference_mode():
        one, other = predictor([clip, torch.cat([clip[:3], -clip[3:]])])
    assert torch.equal(one.generated, other.generated)  # type: ignore[attr-defined]
    assert not torch.equal(one.truth, other.truth)  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", ["detector", "segmentor", "video"])
def test_maps_and_receptive_fields_of_every_task_are_drawn(
    task: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run: Path = request.getfixturevalue(task)
    (checkpoint,) = run.glob("epoch_1.pth")
    sample = tmp_path / ("clip.npy" if task == "video" else "image.png")
    if task == "video":
        np.save(sample, np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8))
    else:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save(sample)
    for command in (["features", str(checkpoint), str(sample)], ["erf", str(checkpoint), "--images", str(sample)]):
        out = tmp_path / f"{command[0]}.png"
        assert visualize.main([*command, "--out", str(out)]) == 0, capsys.readouterr().err
        with Image.open(out) as image:
            assert np.asarray(image).std() > 5
    assert visualize.main(["cam", str(checkpoint), str(sample), "--out", str(tmp_path / "cam.png")]) == 2
    assert "decides on no class of the whole image" in capsys.readouterr().err


def test_view_gives_the_input_that_the_network_sees_and_the_picture_of_it(detector: Path, segmentor: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for run in (detector, segmentor):
        predictor: Any = load_predictor(run / "best.pth")
        view = predictor.view()
        seen: list[torch.Tensor] = []
        view.maps.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        with torch.inference_mode():
            predictor([Image.fromarray(levels)])
        (image,) = seen
        assert torch.equal(image, view.prepare(Image.fromarray(levels), None))
        assert torch.allclose(view.picture(image), torch.from_numpy(levels) / 255, atol=1e-5)


def test_console_command_calls_the_command_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "nowhere.pth", "nothing.png"]) == 2
    assert "nowhere.pth" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in cli.COMMANDS)
    assert cli.main(["dance"]) == 2
    assert "usage: visionssm" in capsys.readouterr().err
    for name in cli.COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            cli.main([name, "--help"])
        assert "usage:" in capsys.readouterr().out
