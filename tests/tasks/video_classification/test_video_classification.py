"""Video classification in the engine: from the data to runs, checkpoints, prediction, pictures and exported files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import tests.engine.every_task  # noqa: F401  registers all types
import visionssm
from tests.configs import shipped_config, shipped_configs
from tests.engine.tiny import logged
from visionssm.checkpoints import CheckpointError
from visionssm.cli import predict, visualize
from visionssm.cli.launch import evaluate, train
from visionssm.engine.config import check_config, load_config
from visionssm.engine.errors import ConfigError
from visionssm.prediction import load_predictor
from visionssm.tasks.video_classification.model import VideoClassifier, mean_scores
from visionssm.tasks.video_classification.moving_digits import DIRECTIONS, MovingDigitDirections

CONFIG = """
_base_ = {base!r}
model = dict(model_kwargs=dict(depth=1, embed_dim=16, num_frames=4, tubelet_size=1, img_size=16, patch_size=8))
train_dataloader = dict(batch_size=4, dataset=dict(clips=8, frames=4, size=16))
val_dataloader = dict(batch_size=4, dataset=dict(clips=6, frames=4, size=16))
test_dataloader = dict(batch_size=4, dataset=dict(clips=6, frames=4, size=16))
train_cfg = dict(max_epochs=2, val_interval=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
env_cfg = dict(cpu_threads=1)
"""


def write_config(folder: Path) -> Path:
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(base=str(shipped_config("videomamba_nano_moving_digits"))))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work folder of a finished run of four steps."""
    folder = tmp_path_factory.mktemp("videos") / "run"
    folder.mkdir()
    train(write_config(folder), work_dir=folder)
    return folder


def test_direction_shows_only_in_the_order_of_the_frames() -> None:
    data = MovingDigitDirections("train", clips=40, frames=6, size=32)
    classes = data.metainfo["classes"]
    assert len(classes) == 40
    for index in range(40):
        frames, label = data.drawn(index)
        digit, direction = classes[label].split()
        weights = frames.astype(float).sum((1, 2))
        centres = np.stack(
            [(frames.sum(2) * np.arange(32)).sum(1) / weights, (frames.sum(1) * np.arange(32)).sum(1) / weights], 1
        )
        way = centres[-1] - centres[0]
        expected = np.array(DIRECTIONS[direction])
        assert way @ expected >= 0.5 * (32 - data.side) - 1
        assert abs(way @ expected[::-1]) < 1e-6
        assert int(digit) == label // 4
        assert (np.diff(centres @ expected) > 0).all()


def test_splits_are_of_different_handwriting() -> None:
    sets = {split: MovingDigitDirections(split, clips=2) for split in ("train", "val", "test")}
    images = {split: {image.tobytes() for image in data.images} for split, data in sets.items()}
    assert not images["train"] & images["val"]
    assert not images["val"] & images["test"]
    assert not torch.equal(sets["val"][0]["inputs"], sets["test"][0]["inputs"])


def test_run_writes_weights_and_strips_and_its_checkpoint_says_what_it_needs(run: Path) -> None:
    with Image.open(run / "predictions.png") as image:
        assert image.width > 4 * 64
        assert np.asarray(image).std() > 5
    assert len(logged(run, "loss")) == 4
    assert len(logged(run, "top1")) == 2
    meta = torch.load(run / "best.pth", weights_only=True)["meta"]["visionssm"]
    assert meta["task"] == "video_classification"
    assert meta["views"]["frames"] == 4
    assert meta["classes"][:4] == ["0 right", "0 left", "0 down", "0 up"]


def test_resumed_run_ends_with_the_same_bits(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    train(write_config(folder), work_dir=folder, resume=str(run / "epoch_1.pth"))
    first, second = (torch.load(x / "epoch_2.pth", weights_only=True)["state_dict"] for x in (run, folder))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_evaluation_writes_a_line_and_a_strip_per_clip(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "classes.csv"
    found = evaluate(run / "tiny.py", run / "epoch_2.pth", work_dir=tmp_path, pictures=tmp_path / "strips", out=out)
    assert 0 <= found["top1"] <= found["top5"] <= 100
    lines = list(csv.DictReader(out.open()))
    assert [line["sample"] for line in lines] == [f"test_{n:06d}" for n in range(6)]
    assert lines[0]["label"].split()[1] in DIRECTIONS
    assert len(list((tmp_path / "strips").iterdir())) == 6


def test_prediction_takes_clips_and_names_files_that_are_none(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames, _ = MovingDigitDirections("val", clips=1, frames=9, size=32).drawn(0)
    np.save(tmp_path / "clip.npy", frames)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:])
    (tmp_path / "letter.txt").write_text("no video")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    out, pictures = tmp_path / "out" / "found.json", tmp_path / "out" / "pictures"
    arguments = [
        str(run / "best.pth"),
        str(tmp_path),
        "--device",
        "cpu",
        "--out",
        str(out),
        "--pictures",
        str(pictures),
    ]
    assert predict.main([*arguments, "--top-k", "3"]) == 0
    content = json.loads(out.read_text())
    by_name = {Path(x["file"]).name: x["classes"] for x in content["predictions"]}
    assert set(by_name) == {"clip.gif", "clip.npy"}
    assert [x["class"] for x in by_name["clip.gif"]] == [x["class"] for x in by_name["clip.npy"]]
    assert len(by_name["clip.npy"]) == 3
    reasons = {Path(x["file"]).name: x["reason"] for x in content["unreadable"]}
    assert "single picture" in reasons["photo.png"]
    assert ".txt is no kind of clip" in reasons["letter.txt"]
    strip = Image.open(sorted(pictures.iterdir())[0])
    assert strip.width >= 4 * 64


def test_a_folder_of_frames_is_one_clip_and_folders_of_them_are_many(run: Path, tmp_path: Path) -> None:
    frames, _ = MovingDigitDirections("val", clips=1, frames=12, size=32).drawn(0)
    for name in ("v1.0", "other"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number, frame in enumerate(frames if name == "v1.0" else frames[::-1]):
            Image.fromarray(frame).save(tmp_path / "clips" / name / f"f{number}.png")
    np.save(tmp_path / "same.npy", frames)
    np.save(tmp_path / "back.npy", frames[::-1])

    def found(*names: str) -> list[tuple[str, Any]]:
        out, pictures = tmp_path / "out" / "found.json", tmp_path / "out" / "pictures"
        arguments = ["--device", "cpu", "--out", str(out), "--pictures", str(pictures)]
        assert predict.main([str(run / "best.pth"), *(str(tmp_path / name) for name in names), *arguments]) == 0
        assert not json.loads(out.read_text())["unreadable"]
        return [(Path(x["file"]).name, x["classes"]) for x in json.loads(out.read_text())["predictions"]]

    (_, forwards), (_, backwards) = found("same.npy", "back.npy")
    assert forwards != backwards
    assert found("clips/v1.0") == [("v1.0", forwards)]
    assert found("clips") == [("other", backwards), ("v1.0", forwards)]
    assert (tmp_path / "out" / "pictures" / "0001_v1.0.png").is_file()


def test_features_of_a_clip_are_drawn_beside_each_other(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "clip.npy", np.random.default_rng(0).integers(0, 256, (5, 20, 30), np.uint8))
    out = tmp_path / "features.png"
    arguments = ["features", str(run / "best.pth"), str(tmp_path / "clip.npy"), "--out", str(out)]
    assert visualize.main(arguments) == 0
    assert out.stat().st_size > 1000
    predictor: Any = load_predictor(run / "best.pth")
    view = predictor.view()
    clip = predictor.read(tmp_path / "clip.npy")
    strip = view.prepare(clip, None)
    assert tuple(strip.shape[1:]) == view.shape == (1, 16, 64)
    (features,) = view.maps(strip)
    (expected,) = predictor.model.forward_intermediates(clip.inputs, intermediates_only=True)
    torch.testing.assert_close(features[..., 2:4], expected[:, :, 1])  # two patches a row, of the second frame
    np.testing.assert_allclose(view.picture(strip)[:, 16:32], clip.frames[1] / 255)


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_exported_file_has_the_scores_for_any_batch(run: Path, tmp_path: Path, kind: str) -> None:
    predictor: Any = load_predictor(run / "best.pth")
    exportable = predictor.exportable()
    clips = torch.randn(3, *exportable.shape[1:])
    path = tmp_path / f"model.{kind}"
    if kind == "onnx":
        runtime = pytest.importorskip("onnxruntime")
        visionssm.export_onnx(exportable, path, clips[:2], dynamic=True)
        (found,) = runtime.InferenceSession(str(path)).run(None, {"clip": clips.numpy()})
    else:
        visionssm.export_archive(exportable, path, clips[:2], dynamic=True)
        found = torch.export.load(path).module()(clips).detach().numpy()
    np.testing.assert_allclose(found, predictor.model(clips).detach().numpy(), atol=1e-5)


def test_scores_are_means_over_views() -> None:
    torch.manual_seed(0)
    model = VideoClassifier("videomamba_nano", 3, in_chans=1, model_kwargs={"depth": 1}).eval()
    views = torch.randn(2, 6, 1, 4, 32, 32)
    found = mean_scores(model.model, views)
    one = torch.stack([model.model(clip).softmax(-1).mean(0) for clip in views])
    torch.testing.assert_close(found, one)
    answers = model(views, torch.tensor([1, -1]), mode="predict")
    assert answers[0]["nll"] == pytest.approx(-found[0, 1].log().item(), rel=1e-5)
    assert answers[1]["label"] == -1
    loss = model(views, torch.tensor([1, 2]), mode="loss")["loss"]
    labels = torch.tensor([1] * 6 + [2] * 6)
    expected = torch.nn.functional.cross_entropy(model.model(views.flatten(0, 1)), labels)
    torch.testing.assert_close(loss, expected)


def test_data_and_network_must_fit() -> None:
    data = MovingDigitDirections("val", clips=2)
    with pytest.raises(ConfigError, match="in_chans=3, but the clips have 1 channels"):
        VideoClassifier("videomamba_nano", 40).checkpoint_meta(data, None)
    with pytest.raises(ConfigError, match="num_classes=3, but the data set has 40 classes"):
        VideoClassifier("videomamba_nano", 3, in_chans=1).checkpoint_meta(data, None)
    with pytest.raises(ConfigError, match=r"different views\.frames"):
        VideoClassifier("videomamba_nano", 40, in_chans=1).checkpoint_meta(
            data, MovingDigitDirections("train", clips=2, frames=4)
        )
    with pytest.raises(ConfigError, match="8 cannot be cut into tubelets of 3"):
        VideoClassifier(
            "videomamba_nano", 40, in_chans=1, model_kwargs={"tubelet_size": 3, "num_frames": 9}
        ).checkpoint_meta(data, None)
    with pytest.raises(ConfigError, match="closest: 'videomamba_nano'"):
        VideoClassifier("videomamba_nanno", 40)
    with pytest.raises(ConfigError, match="'widht'"):
        VideoClassifier("videomamba_nano", 40, model_kwargs={"widht": 3})
    with pytest.raises(CheckpointError, match="no such file"):
        VideoClassifier("videomamba_nano", 40, image_weights="absent.pth")


def test_checkpoint_of_another_network_or_with_wild_numbers_is_refused(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "best.pth", weights_only=True)
    about = content["meta"]["visionssm"]
    with pytest.raises(CheckpointError, match="'videomamba_nano', the config's 'videomamba_tiny'"):
        VideoClassifier("videomamba_tiny", 40, in_chans=1).check_checkpoint(content["meta"], "best.pth")
    changes: list[tuple[str, str, Any, str]] = [
        ("model", "name", "vmamba_nano_test", "no known video classifier"),
        ("model", "pretrained", True, "not read from a file"),
        ("model", "depth", 10**4, "larger than its weights"),
        ("model", "num_frames", 10**7, "larger than its weights"),
        ("views", "frames", 10**6, "frames must be a whole number from 1 to 512"),
        ("views", "size", 10**6, "size must be a whole number"),
        ("views", "clips", 0, "clips must be a whole number"),
        ("views", "channels", 3, "mean must be 3 numbers"),
    ]
    for part, key, value, message in changes:
        changed = {**about, part: {**about[part], key: value}}
        torch.save({**content, "meta": {"visionssm": changed}}, tmp_path / "changed.pth")
        with pytest.raises(CheckpointError, match=message):
            load_predictor(tmp_path / "changed.pth")


@pytest.mark.parametrize("path", shipped_configs("videomamba_*_k400.py"), ids=lambda path: path.stem)
def test_recipe_of_kinetics_can_be_built_and_is_that_of_the_paper(path: Path) -> None:
    cfg = load_config(path)
    check_config(cfg)
    assert cfg.optim_wrapper.optimizer.lr == 2e-4
    assert (cfg.test_dataloader.dataset.views.clips, cfg.test_dataloader.dataset.views.crops) == (4, 3)
    published = {"videomamba_tiny": 0.1}
    assert cfg.model.drop_path_rate == published.get(cfg.model.name, cfg.model.drop_path_rate)
    reduced = {**cfg.model.model_kwargs, "depth": 1, "embed_dim": 16, "img_size": 32, "num_frames": 2}
    model = VideoClassifier(
        cfg.model.name, cfg.model.num_classes, drop_path_rate=cfg.model.drop_path_rate, model_kwargs=reduced
    )
    assert model(torch.zeros(2, 3, 2, 32, 32), torch.tensor([0, 399]), mode="loss")["loss"] > 0


PARAMETERS = {"videomamba_tiny": 7_033_744, "videomamba_small": 25_568_656, "videomamba_middle": 73_875_856}
"""Counted of the authors' networks of 8 frames and 400 classes."""


@pytest.mark.slow
@pytest.mark.parametrize("path", shipped_configs("videomamba_*_k400.py"), ids=lambda path: path.stem)
def test_recipe_of_kinetics_takes_a_step_at_a_reduced_size(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config(path)
    with torch.device("meta"):
        model = visionssm.create_video_classifier(cfg.model.name, **cfg.model.model_kwargs)
    assert sum(x.numel() for x in model.parameters()) == PARAMETERS[cfg.model.name]

    root = tmp_path / "kinetics"
    root.mkdir()
    monkeypatch.setenv("KINETICS_ROOT", str(root))
    for number in range(4):
        np.save(root / f"{number}.npy", np.random.default_rng(number).integers(0, 256, (9, 40, 50, 3), np.uint8))
    for name in ("train", "val", "test"):
        (root / f"{name}.csv").write_text("".join(f"{n}.npy {133 * n}\n" for n in range(4)))
    reduced = {"depth": 2, "embed_dim": 16}
    image = timm.create_model(cfg.model.name.replace("mamba_", "mamba_img_"), **reduced)
    torch.save({"model": image.state_dict()}, tmp_path / "image.pth")
    lines = [f"_base_ = {str(path)!r}", "_views, _classes = dict(size=32), [str(n) for n in range(400)]"]
    weights = str(tmp_path / "image.pth")
    lines.append(f"model = dict(image_weights={weights!r}, model_kwargs=dict(img_size=32, **{reduced}))")
    for name in ("train", "val", "test"):
        workers = "num_workers=0, persistent_workers=False, pin_memory=False"
        lines.append(f"{name}_dataloader = dict(batch_size=2, {workers}, dataset=dict(classes=_classes, views=_views))")
    (tmp_path / "config.py").write_text("\n".join(lines))
    options = {"train_cfg.max_epochs": 1, "train_cfg.val_interval": 1, "default_hooks.logger.interval": 1}
    train(tmp_path / "config.py", work_dir=tmp_path / "run", options=options)
    state = torch.load(tmp_path / "run" / "epoch_1.pth", weights_only=True)
    assert all(bool(x.isfinite().all()) for x in state["state_dict"].values())
    assert {group["weight_decay"] for group in state["optimizer"]["param_groups"]} == {0.0, 0.1}
    assert logged(tmp_path / "run", "loss")[0] == pytest.approx(np.log(400), rel=0.2)
    figures = evaluate(tmp_path / "config.py", tmp_path / "run" / "epoch_1.pth", work_dir=tmp_path / "test")
    assert 0 <= figures["top1"] <= figures["top5"] <= 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_small_videomamba_tells_digits_and_directions(tmp_path: Path) -> None:
    config = shipped_config("videomamba_nano_moving_digits")
    options = {"env_cfg.cpu_threads": 1}  # two threads wait for each other where others use the cores
    train(config, work_dir=tmp_path, options=options)
    found = evaluate(config, tmp_path / "best.pth", work_dir=tmp_path / "test", options=options)
    assert found["top1"] >= 90
