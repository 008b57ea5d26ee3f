"""Rendered shapes: functions of their specification, with boxes, masks and labels that agree."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coder

from visionssm.data import shapes
from visionssm.data.errors import DatasetError
from visionssm.data.masks import uncompressed_rle
from visionssm.data.painting import signed_distance
from visionssm.data.shapes import (
    SHAPES,
    ShapesSpec,
    render,
    write_shapes,
)
from visionssm.tasks.detection.shapes import ShapesDetection
from visionssm.tasks.segmentation.shapes import ShapesSegmentation

TINY = {"size": 32, "train": 6, "val": 3, "test": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("sets") / "tiny", ShapesSpec(**TINY))


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_set_is_the_same_whenever_it_is_made(folder: Path, tmp_path: Path) -> None:
    again = write_shapes(tmp_path / "again", ShapesSpec(**TINY))
    assert digest(again) == digest(folder)
    assert len(digest(folder)) == 2 * (6 + 3 + 2) + 4


def test_image_depends_on_seed_split_and_index_alone() -> None:
    spec = ShapesSpec(size=32)
    first = render(spec, "train", 4).image
    assert np.array_equal(render(ShapesSpec(size=32, train=9), "train", 4).image, first)
    for other in (
        render(spec, "train", 5),
        render(spec, "val", 4),
        render(spec, "test", 4),
        render(ShapesSpec(size=32, seed=1), "train", 4),
    ):
        assert not np.array_equal(other.image, first)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 500), st.sampled_from([32, 64, 97]), st.integers(1, 6))
def test_boxes_are_the_extents_of_masks_which_are_disjoint_and_agree_with_the_labels(
    index: int, size: int, most: int
) -> None:
    scene = render(ShapesSpec(size=size, most=most), "train", index)
    assert 1 <= len(scene.masks) <= most
    assert scene.masks.sum(0).max() == 1
    for mask, (left, top, width, height), label in zip(scene.masks, scene.boxes, scene.labels, strict=True):
        rows, columns = np.nonzero(mask)
        assert (rows.min(), rows.max() + 1) == (top, top + height)
        assert (columns.min(), columns.max() + 1) == (left, left + width)
        assert np.all(scene.label_map[mask] == label)
        assert 1 <= label <= len(SHAPES)
    assert np.array_equal(scene.label_map > 0, scene.masks.any(0))


def test_forty_places_are_tried_for_the_shapes_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    places = []

    def everywhere(generator: np.random.Generator, distance: Any, points: np.ndarray) -> np.ndarray:
        places.append(distance)
        return np.ones(points.shape[:2])  # hides what is there already

    monkeypatch.setattr(shapes, "_place", everywhere)
    spec = ShapesSpec(size=32)
    tried = []
    for index in range(8):
        places.clear()
        assert len(render(spec, "train", index).labels) == 1
        tried.append(len(places))
    assert set(tried) == {1, 40}  # 1 where a single shape is wanted


def test_shapes_can_be_told_from_what_is_behind_them() -> None:
    """Their mean colour differs from that of the ring of pixels around them, for every object of some images."""
    for index in range(10):
        scene = render(ShapesSpec(size=64, most=1), "val", index)
        (left, top, width, height) = scene.boxes[0]
        ring = np.zeros_like(scene.masks[0])
        ring[max(0, top - 3) : top + height + 3, max(0, left - 3) : left + width + 3] = True
        ring &= ~scene.masks[0]
        inside, outside = (scene.image[x].astype(float).mean(0) for x in (scene.masks[0], ring))
        assert np.abs(inside - outside).max() > 25


def test_edges_are_anti_aliased() -> None:
    """A shape's coverage has pixels between nothing and all, and sums up to its area."""
    axis = np.arange(64) + 0.5
    points = np.stack(np.meshgrid(axis, axis), -1)
    coverage = (0.5 - signed_distance(points, 20 * SHAPES["square"] + 32)).clip(0, 1)
    assert ((coverage > 0.05) & (coverage < 0.95)).sum() > 40
    assert coverage.sum() == pytest.approx(2 * 20**2, rel=0.01)


def test_distance_to_a_square_and_to_a_line_is_the_euclidean_one() -> None:
    square = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]])
    points = np.array([[2.0, 1.0], [-3.0, 2.0], [7.0, 8.0], [2.0, 5.0]])
    np.testing.assert_allclose(signed_distance(points, square), [-1, 3, 5, 1])
    np.testing.assert_allclose(signed_distance(points, square[:2]), [1, 13**0.5, 73**0.5, 5])


def test_annotations_are_those_of_the_pictures(folder: Path) -> None:
    spec = ShapesSpec(**TINY)
    content = json.loads((folder / "annotations" / "instances_val.json").read_text())
    assert [x["name"] for x in content["categories"]] == list(SHAPES)
    for image in content["images"]:
        scene = render(spec, "val", image["id"])
        with Image.open(folder / "images" / "val" / image["file_name"]) as written:
            assert np.array_equal(np.asarray(written), scene.image)
        with Image.open(folder / "labels" / "val" / image["file_name"]) as written:
            assert np.array_equal(np.asarray(written), scene.label_map)
        found = [x for x in content["annotations"] if x["image_id"] == image["id"]]
        assert len(found) == len(scene.masks)
        for annotation, mask in zip(found, scene.masks, strict=True):
            packed = coder.frPyObjects(annotation["segmentation"], spec.size, spec.size)
            assert np.array_equal(coder.decode(packed).astype(bool), mask)
            assert coder.toBbox(packed).tolist() == annotation["bbox"]
            assert int(coder.area(packed)) == annotation["area"]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_run_lengths_decode_to_the_mask(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    packed = coder.frPyObjects(uncompressed_rle(mask), height, width)
    assert np.array_equal(coder.decode(packed).astype(bool), mask)


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def failing(*arguments: Any) -> Any:
        made.append(1)
        if len(made) > 3:
            raise KeyboardInterrupt
        return render(*arguments)

    monkeypatch.setattr("visionssm.data.shapes.render", failing)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "set", ShapesSpec(**TINY))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.undo()
    assert len(digest(write_shapes(tmp_path / "set", ShapesSpec(**TINY)))) == 26


@pytest.mark.parametrize(
    "variables, place",
    [
        ({}, "~/.cache/visionssm"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/visionssm"),
        ({"XDG_CACHE_HOME": "/caches", "VISIONSSM_CACHE": "~/sets"}, "~/sets"),
    ],
)
def test_sets_are_kept_where_the_environment_says(
    variables: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "VISIONSSM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spec = ShapesSpec()
    assert spec.folder(None) == Path(place).expanduser() / spec.folder_name


def test_folder_of_another_set_is_not_taken_for_this_one(folder: Path, tmp_path: Path) -> None:
    assert write_shapes(folder, ShapesSpec(**TINY)) == folder
    with pytest.raises(DatasetError, match=r"holds the set .*'seed': 0.*not .*'seed': 5.*name another"):
        write_shapes(folder, ShapesSpec(**TINY, seed=5))
    with pytest.raises(DatasetError, match="holds something else"):
        write_shapes(tmp_path, ShapesSpec(**TINY))


def test_data_sets_make_their_files_once_and_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONSSM_CACHE", str(tmp_path))
    objects, labels = ShapesDetection("val", spec=TINY), ShapesSegmentation("val", spec=TINY)
    assert ShapesSpec(**TINY).folder(None).is_dir()
    monkeypatch.setattr("visionssm.data.shapes.render", lambda *_: pytest.fail("rendered again"))
    assert len(ShapesDetection("train", spec=TINY)) == 6
    assert objects.metainfo["classes"] == list(SHAPES)
    assert labels.metainfo["classes"] == ["background", *SHAPES]
    for index in range(3):
        one, other = objects[index], labels[index]
        assert np.array_equal(one["inputs"], other["inputs"])
        drawn = (one["targets"]["masks"] * one["targets"]["labels"][:, None, None]).sum(0)
        assert np.array_equal(drawn, other["labels"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"split": "testing"}, "split must be one of train, val, test, got 'testing'"),
        ({"split": "val", "spec": {"size": 16}}, "size must be at least 32, got 16"),
        ({"split": "val", "spec": {"sizes": 64}}, "the fields are size, train, val, test, most, seed"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_made(arguments: dict[str, Any], message: str) -> None:
    for kind in (ShapesDetection, ShapesSegmentation):
        with pytest.raises(DatasetError, match=message):
            kind.check_available(**arguments)
        with pytest.raises(DatasetError, match=message):
            kind(**arguments)


@pytest.mark.parametrize(
    "name, least", [("size", 32), *((name, 1) for name in ("train", "val", "test", "most")), ("seed", 0)]
)
def test_least_values_are_allowed_and_nothing_below(name: str, least: int) -> None:
    assert getattr(ShapesSpec(**{name: least}), name) == least
    with pytest.raises(DatasetError, match=f"{name} must be at least {least}, got {least - 1}"):
        ShapesSpec(**{name: least - 1})
