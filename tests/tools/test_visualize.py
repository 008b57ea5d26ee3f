"""The visualize command, from the command line to the pictures it writes."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import visionssm
from visionssm import visualization
from visionssm.prediction import registered_classifier

NAME = "vmamba_nano_test"
FAMILIES = [*visionssm.list_models("*_nano_test"), "test_mambaout"]


def _command() -> Callable[[list[str]], int]:
    path = Path(__file__).parents[2] / "tools" / "visualize.py"
    spec = importlib.util.spec_from_file_location("tools_visualize", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


visualize = _command()


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, by the panel and by the pixel."""
    monkeypatch.setattr(visualization, "save", functools.partial(visualization.save, dpi=60))
    features = functools.partial(visualization.figure_of_features, n_channels=1)
    monkeypatch.setattr(visualization, "figure_of_features", features)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return min(image.size) > 100


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_routes_are_written(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"routes{suffix}"
    assert visualize(["routes", "zigzag", "--size", "2", "3", "--out", str(out)]) == 0
    assert _is_picture(out)


def test_receptive_fields_of_a_name_and_a_checkpoint_are_written(tmp_path: Path, photo: Path) -> None:
    checkpoint, out = tmp_path / "weights.pth", tmp_path / "erf.png"
    torch.save(timm.create_model(NAME).state_dict(), checkpoint)
    sources = [NAME, str(checkpoint), "--model", NAME, "--images", str(photo)]
    assert visualize(["erf", *sources, "--out", str(out)]) == 0
    assert _is_picture(out)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("command", ["features", "cam"])
def test_picture_of_an_image_is_written(tmp_path: Path, photo: Path, command: str, name: str) -> None:
    out = tmp_path / "picture.png"
    assert visualize([command, name, str(photo), "--size", "64", "96", "--out", str(out)]) == 0
    assert _is_picture(out)


@pytest.mark.parametrize("name", FAMILIES)
def test_receptive_field_of_every_family_is_written(tmp_path: Path, name: str) -> None:
    out = tmp_path / "erf.png"
    assert visualize(["erf", name, "--count", "1", "--size", "64", "96", "--out", str(out)]) == 0
    assert _is_picture(out)


def test_image_is_given_to_the_model_at_the_size_asked_for(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    maps = visualization.stage_maps
    monkeypatch.setattr(visualization, "stage_maps", lambda model, x: sizes.append(tuple(x.shape)) or maps(model, x))
    for size in ([], ["--size", "96", "64"]):
        assert visualize(["features", NAME, str(photo), *size, "--out", str(tmp_path / "picture.png")]) == 0
    assert sizes == [(1, 3, 64, 64), (1, 3, 96, 64)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["routes", "teleport"], "no route"),
        (["routes", "ss2d", "--size", "0", "3"], "positive"),
        (["cam", "vmamba_gigantic", "{photo}"], "neither a file nor a registered model"),
        (["cam", "missing.pth", "{photo}"], "missing.pth"),
        (["cam", NAME, "{photo}", "--class", "1000"], "0 to 999"),
        (["features", NAME, "missing.png"], "no such file"),
        (["features", NAME, "{photo}", "--out", "{photo}.xyz"], "must end in"),
        (["routes", "ss2d", "--out", "{photo}.xyz"], "must end in"),
    ],
)
def test_unusable_argument_is_named(
    arguments: list[str], message: str, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visualize([a.format(photo=photo) for a in arguments]) == 2
    assert message in capsys.readouterr().err


def test_pictures_name_a_checkpoint_without_the_folders_above_its_own(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    checkpoint = tmp_path / "run" / "weights.pth"
    torch.save(timm.create_model(NAME).state_dict(), checkpoint)
    named: list[str] = []
    draw = visualization.figure_of_fields
    monkeypatch.setattr(visualization, "figure_of_fields", lambda fields: named.extend(fields) or draw(fields))
    arguments = [
        "erf",
        NAME,
        str(checkpoint),
        "--model",
        NAME,
        "--images",
        str(photo),
        "--out",
        str(tmp_path / "x.png"),
    ]
    assert visualize(arguments) == 0
    assert named == [NAME, "run/weights.pth"]


def test_class_activations_tell_the_score_of_the_class(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    draw = visualization.figure_of_cam
    monkeypatch.setattr(visualization, "figure_of_cam", lambda *x, title: titles.append(title) or draw(*x, title=title))
    assert visualize(["cam", NAME, str(photo), "--class", "7", "--out", str(tmp_path / "cam.png")]) == 0
    torch.manual_seed(0)
    predictor = registered_classifier(NAME)
    with torch.inference_mode():
        score = predictor.model(predictor.transform(predictor.read(photo))[None]).softmax(-1)[0, 7]
    assert f"score {float(score):.2f}" in titles[0]


def test_features_of_a_strip_of_frames_fill_the_width_of_the_picture() -> None:
    picture, maps = torch.rand(16, 128, 3), {"layer 1": torch.rand(6, 4, 32), "layer 2": torch.rand(6, 4, 32)}
    figure = visualization.figure_of_features(picture, maps, n_channels=1)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:3] == ["image", "layer 1, 4×32×6: magnitude", "layer 1, 4×32×6: components 1–3"]
    assert len(titles) == 7
    figure.canvas.draw()
    shown = [axes.get_window_extent() for axes in figure.axes]
    assert min(box.width for box in shown) > 0.85 * figure.bbox.width
    for above, below in itertools.pairwise(shown):
        assert below.y1 < above.y0


def test_maps_of_one_pixel_are_told(tmp_path: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "features.png")
    assert visualize(["features", NAME, str(photo), "--size", "32", "32", "--out", out]) == 0
    assert "stage 4: a map of one pixel shows no place" in capsys.readouterr().err
    figure = visualization.figure_of_features(torch.rand(8, 8, 3), {"stage 4": torch.rand(6, 1, 1)})
    assert any("no place" in axes.get_ylabel() for axes in figure.axes)
