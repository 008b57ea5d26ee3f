"""The predict and convert commands, from the command line to the files they write."""

from __future__ import annotations

import csv
import errno
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from visionssm.data.images import read_image
from visionssm.prediction import Classifier, find_files, load_classifier, predict_files

NAME = "vmamba_nano_test"
Command = Callable[[list[str]], int]


def command(name: str) -> Command:
    path = Path(__file__).parents[2] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tools_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


predict = command("predict")
convert = command("convert_checkpoint")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official-looking file of the smallest variant."""
    torch.manual_seed(0)
    state = timm.create_model(NAME).state_dict()
    renamed = {
        key.replace("head.norm", "classifier.norm").replace("head.fc", "classifier.head"): value
        for key, value in state.items()
    }
    path = tmp_path_factory.mktemp("official") / "nano.pth"
    torch.save({"model": renamed, "epoch": 1}, path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with images of the kinds that break naive readers, and files that are none."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8)).save(folder / "gray.png")
    Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8)).save(folder / "rgba.png")
    Image.fromarray(rng.integers(0, 65536, (40, 50), np.uint16)).save(folder / "16 bit.png")
    Image.new("CMYK", (30, 40), (0, 200, 100, 0)).save(folder / "below" / "cmyk.jpg")
    Image.new("1", (10_000, 9_500)).save(folder / "huge.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").write_text("left out")
    return folder


class Brightness(nn.Module):
    """Knows two classes, dark and bright."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2)."""
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that says what it is, with a stand-in for the engine that builds its model."""
    about = {
        "model": {"name": "brightness"},
        "classes": ["dark", "bright"],
        "input": {"size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear", "crop_pct": 1},
    }
    path = tmp_path / "epoch_1.pth"
    torch.save({"meta": {"visionssm": about}, "state_dict": {"w": torch.ones(1)}}, path)
    monkeypatch.setattr(
        "visionssm.tasks.classification.predictor.build_classifier",
        lambda checkpoint: (
            Brightness(),
            checkpoint["meta"]["visionssm"]["classes"],
            checkpoint["meta"]["visionssm"]["input"],
        ),
    )
    return path


@pytest.fixture
def dark_and_bright(tmp_path: Path) -> list[str]:
    paths = [tmp_path / "night.png", tmp_path / "day.png"]
    Image.new("RGB", (20, 10), "black").save(paths[0])
    Image.new("L", (10, 20), 255).save(paths[1])
    return [str(path) for path in paths]


def test_official_checkpoint_predicts_every_readable_file_of_a_folder(
    official: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "out.json"
    status = predict([str(official), str(pictures), "--model", NAME, "--top-k", "3", "--out", str(out)])
    assert status == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    read = {Path(entry["file"]).name: entry["classes"] for entry in result["predictions"]}
    assert set(read) == {"gray.png", "rgba.png", "16 bit.png", "cmyk.jpg", "huge.png"}
    names = set(ImageNetInfo().label_descriptions())
    for classes in read.values():
        scores = [entry["score"] for entry in classes]
        assert len(classes) == 3
        assert scores == sorted(scores, reverse=True)
        assert {entry["class"] for entry in classes} <= names
    assert {Path(entry["file"]).name for entry in result["unreadable"]} == {"broken.jpg", "notes.txt"}
    printed = capsys.readouterr()
    assert "2 of 7 files could not be read" in printed.err
    assert "notes.txt: it is not an image" in printed.err
    assert "gray.png" in printed.out


def test_scores_are_those_of_the_model_on_the_transformed_image(official: Path, pictures: Path) -> None:
    classifier = load_classifier(official, model_name=NAME)
    path = pictures / "rgba.png"
    predicted = predict_files(replace(classifier, top_k=2), [path]).read[0].result
    with torch.inference_mode():
        expected = classifier.model(classifier.transform(read_image(path))[None]).softmax(-1)[0]
    torch.testing.assert_close(torch.tensor([score for _, score in predicted.best]), expected.topk(2).values)
    assert predicted.best[0][0] == classifier.classes[int(expected.argmax())]


def test_result_does_not_depend_on_the_batch_size(official: Path, pictures: Path) -> None:
    classifier = load_classifier(official, model_name=NAME)
    files = [path for path in find_files([pictures]) if path.name != "huge.png"]
    one, many = (predict_files(classifier, files, batch_size=size) for size in (1, 16))
    assert [p.path for p in one.read] == [p.path for p in many.read]
    assert [e.path for e in one.unreadable] == [e.path for e in many.unreadable]
    for left, right in zip(one.read, many.read, strict=True):
        np.testing.assert_allclose([s for _, s in left.result.best], [s for _, s in right.result.best], rtol=1e-4)


def test_model_is_moved_to_the_device_before_the_first_batch(tmp_path: Path) -> None:
    class Watching:
        columns = ()
        model = torch.nn.Linear(1, 1)

        def read(self, path: Path) -> str:
            return path.name

        def __call__(self, samples: list[str]) -> list[str]:
            return [f"{name} on {self.model.weight.device}" for name in samples]

    file = tmp_path / "a.png"
    found = predict_files(Watching(), [file], device="meta")  # type: ignore[arg-type]
    assert [prediction.result for prediction in found.read] == ["a.png on meta"]


def test_trained_checkpoint_brings_its_classes_and_input(
    trained: Path, dark_and_bright: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    assert predict([str(trained), *dark_and_bright, "--out", str(out)]) == 0
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = {Path(row["file"]).name: row["class"] for row in rows if row["rank"] == "1"}
    assert best == {"night.png": "dark", "day.png": "bright"}
    assert len(rows) == 4, "two classes each, although five were asked for"
    assert float(rows[0]["score"]) + float(rows[1]["score"]) == pytest.approx(1, abs=1e-4)


def test_checkpoint_of_the_engine_predicts_as_its_model_does(dark_and_bright: list[str], tmp_path: Path) -> None:
    checkpoints = pytest.importorskip("visionssm.engine.checkpoint", reason="needs the train extra")
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=3).eval()
    about = {
        "model": {"name": NAME, "num_classes": 3},
        "classes": ["cat", "dog", "owl"],
        "input": {
            "size": (3, 32, 32),
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    }
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    checkpoints.save_checkpoint({"meta": {"visionssm": about}, "state_dict": weights}, tmp_path / "epoch_1.pth")
    predicted = predict_files(load_classifier(tmp_path / "epoch_1.pth"), [Path(dark_and_bright[1])]).read[0].result.best
    with torch.inference_mode():
        expected = model(torch.ones(1, 3, 32, 32)).softmax(-1)[0]
    names = ["cat", "dog", "owl"]
    torch.testing.assert_close(torch.tensor([dict(predicted)[name] for name in names]), expected)


def test_input_size_is_that_of_the_trained_checkpoint(trained: Path) -> None:
    classifier = load_classifier(trained)
    white = classifier.transform(Image.new("RGB", (30, 60), "white"))
    torch.testing.assert_close(white, torch.ones(3, 8, 8))


@pytest.mark.parametrize("with_rich", [True, False])
def test_table_is_printed_with_and_without_rich(
    trained: Path,
    dark_and_bright: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    with_rich: bool,
) -> None:
    if with_rich:
        pytest.importorskip("rich", reason="part of the train extra")
        for variable, value in {"COLUMNS": "300", "TTY_COMPATIBLE": "1", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(variable, value)
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    predict([str(trained), *dark_and_bright])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert ("│" in printed) == with_rich
    assert any("night.png" in line and "dark" in line and "0." in line for line in lines)
    assert all(word in next(line for line in lines if "file" in line) for word in ("file", "class", "score"))


def test_nothing_readable_is_status_1(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict([str(trained), str(tmp_path / "absent.jpg")]) == 1
    assert "1 of 1 files could not be read" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert predict([str(trained), str(tmp_path / "empty")]) == 1
    assert "no files were found" in capsys.readouterr().err


def test_unusable_checkpoint_is_status_2_with_the_reason(
    official: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict([str(official), str(pictures)]) == 2
    assert "--model NAME" in capsys.readouterr().err
    assert predict([str(tmp_path / "absent.pth"), str(pictures)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert predict([str(official), str(pictures), "--model", "vmamba_gigantic"]) == 2
    assert "'vmamba_gigantic' is not registered" in capsys.readouterr().err


def test_unusable_arguments_are_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["--out", "a.xlsx"], "must end in .csv or .json"), (["--top-k", "0"], "at least 1")):
        with pytest.raises(SystemExit) as stopped:
            predict(["absent.pth", "absent.jpg", *arguments])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_folders_are_searched_in_order_and_without_hidden_files(pictures: Path) -> None:
    names = [path.relative_to(pictures).as_posix() for path in find_files([pictures])]
    assert names == sorted(names)
    assert "below/cmyk.jpg" in names
    assert ".hidden" not in names


ODD_NAMES = {"bytes": b"caf\xe9.png", "escape": b"a\x1b[31mred\x07.png", "direction": "a\u202egnp.png".encode()}


def odd_file(folder: Path, name: str) -> Path:
    """A bright image whose name is not UTF-8, or is obeyed by terminals."""
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + ODD_NAMES[name]))
    Image.new("L", (10, 20), 255).save(path)
    return path


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("with_rich", [True, False])
def test_a_run_survives_names_of_any_bytes_and_terminals_do_not_obey_them(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    with_rich: bool,
) -> None:
    if with_rich:
        pytest.importorskip("rich", reason="part of the train extra")
        for variable, value in {"COLUMNS": "300", "TTY_COMPATIBLE": "1", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(variable, value)
    folder = tmp_path / "odd"
    folder.mkdir()
    path = odd_file(folder, name)
    broken = path.with_name(f"broken_{path.name}")
    broken.write_bytes(b"nothing")
    Image.new("RGB", (20, 10), "black").save(folder / "night.png")
    pictures, outs = tmp_path / "pictures", [tmp_path / "out.json", tmp_path / "out.csv"]
    for out in outs:
        assert predict([str(trained), str(folder), "--out", str(out), "--pictures", str(pictures)]) == 0
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert "\x1b[31m" not in text, "rich writes other sequences"
        assert not set(text) & {"\x07", "\u202e"}
        assert not any("\ud800" <= x <= "\udfff" for x in text)
    shown = {"bytes": r"caf\xe9.png", "escape": r"a\x1b[31mred\x07.png", "direction": r"a\u202egnp.png"}[name]
    assert shown in printed.out
    assert f"broken_{shown}" in printed.err
    assert all(picture.name.isprintable() for picture in pictures.iterdir())
    content = json.loads(outs[0].read_text(encoding="utf-8"))
    assert {os.fsencode(entry["file"]) for entry in content["predictions"]} == {
        os.fsencode(path),
        os.fsencode(folder / "night.png"),
    }
    assert [os.fsencode(entry["file"]) for entry in content["unreadable"]] == [os.fsencode(broken)]
    with outs[1].open(newline="", encoding="utf-8") as file:
        assert len({row["file"] for row in csv.DictReader(file)}) == 3


def test_everything_below_a_folder_is_used_or_told(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place in (folder / "closed", elsewhere / "deep"):
        place.mkdir(parents=True)
        Image.new("L", (8, 8)).save(place / "a.png")
    (elsewhere / "back").symlink_to(elsewhere)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "lost.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    scandir = os.scandir

    def refuse(path: Any = ".") -> Any:  # tests may run as one who may list everything
        if os.fspath(path) == str(folder / "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert predict([str(trained), str(folder)]) == 0
    printed = capsys.readouterr()
    assert "linked/deep/a.png" in printed.out
    assert "3 of 4 files could not be read" in printed.err
    for line in (
        "closed: it is a folder that cannot be listed (Permission denied)",
        "lost.png: it is a link to a file that is not there",
        "pipe.png: it is a named pipe, not a file",
    ):
        assert line in printed.err, line


class Choosy(nn.Module):
    """Fails for dark images."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2)."""
        if x.mean((1, 2, 3)).min() < 0:
            raise RuntimeError("too dark")
        return torch.zeros(len(x), 2)


def test_a_file_that_the_model_fails_for_does_not_stop_the_rest(trained: Path, dark_and_bright: list[str]) -> None:
    classifier = replace(load_classifier(trained), model=Choosy())
    night, day = map(Path, dark_and_bright)
    found = predict_files(classifier, [day, night, day])
    assert [prediction.path for prediction in found.read] == [day, day]
    assert [(x.path, x.reason) for x in found.unreadable] == [
        (night, "the model cannot be applied to it (RuntimeError: too dark)")
    ]
    with pytest.raises(RuntimeError, match="too dark"):
        predict_files(classifier, [night])


def test_pictures_of_files_with_long_names_are_written(trained: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{'ü' * 120}{n}.png" for n in range(2)]
    for path in paths:
        Image.new("L", (8, 8)).save(path)
    predict_files(load_classifier(trained), paths, pictures=tmp_path / "pictures")
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_converted_checkpoint_gives_the_same_predictions(
    official: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted = tmp_path / "nano.safetensors"
    assert convert([str(official), str(converted), "--model", NAME]) == 0
    assert "1000 classes" in capsys.readouterr().out
    files = [pictures / "gray.png"]
    before, after = (
        predict_files(load_classifier(path, model_name=NAME), files).read[0].result.best
        for path in (official, converted)
    )
    assert before == after
    overlay = {"file": str(converted)}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay)
    assert model.num_classes == 1000


def test_unfitting_checkpoint_is_not_converted(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converted = tmp_path / "folder" / "tiny.safetensors"
    assert convert([str(official), str(converted), "--model", "vmamba_tiny_s1l8"]) == 2
    assert "does not fit vmamba_tiny_s1l8" in capsys.readouterr().err
    assert not converted.exists()


def test_ctrl_c_leaves_the_pictures_that_were_written_and_nothing_half_done(
    official: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Classifier.read
    seen: list[Path] = []

    def interrupted(self: Classifier, path: Path) -> Any:
        seen.append(path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(self, path)

    monkeypatch.setattr(Classifier, "read", interrupted)
    drawn, out = tmp_path / "drawn", tmp_path / "found.csv"
    options = ["--model", NAME, "--batch-size", "1", "--pictures", str(drawn), "--out", str(out)]
    assert predict([str(official), str(pictures), *options]) == 130
    assert capsys.readouterr().err.startswith("stopped by SIGINT: ")
    assert len(list(drawn.iterdir())) == 2
    for path in drawn.iterdir():
        with Image.open(path) as image:
            image.load()
    assert not out.exists()
