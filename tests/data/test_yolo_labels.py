"""Text labels of YOLO programs become COCO's boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from visionssm.cli import convert_annotations
from visionssm.data.errors import DatasetError
from visionssm.data.yolo_labels import yolo_to_coco
from visionssm.tasks.detection.data import CocoInstances


def write(folder: Path, texts: dict[str, str | None], size: tuple[int, int] = (40, 20)) -> tuple[Path, Path]:
    """Images with label files; None for no file."""
    for name, text in texts.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
        label = (folder / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    return folder / "images", folder / "labels"


def test_boxes_are_those_of_the_text_in_pixels_and_the_set_can_be_read(tmp_path: Path) -> None:
    texts = {"a.png": "1 0.5 0.5 0.25 0.5\n0 0.1 0.2 0.2 0.4\n", "more/b.png": "", "c.png": None}
    images, labels = write(tmp_path, texts)
    arguments = ["yolo", str(images), str(labels), str(tmp_path / "all.json"), "--classes", "cat", "dog"]
    assert convert_annotations.main(arguments) == 0
    data = CocoInstances(tmp_path, annotations="all.json", images="images")
    assert data.metainfo == {"classes": ["cat", "dog"]}
    assert [data.sample_name(n) for n in range(3)] == ["a.png", "c.png", "more/b.png"]
    targets = data[0]["targets"]
    assert targets["boxes"].tolist() == [[15, 5, 25, 15], [0, 0, 8, 8]]
    assert targets["labels"].tolist() == [2, 1]
    assert [len(data[n]["targets"]["boxes"]) for n in (1, 2)] == [0, 0]


def test_images_that_viewers_turn_have_the_size_that_is_shown(tmp_path: Path) -> None:
    images, labels = write(tmp_path, {"a.jpg": "0 0.5 0.5 1 1"})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(images / "a.jpg", exif=exif)
    content = yolo_to_coco(images, labels, ["cat"])
    assert [content["images"][0][side] for side in ("width", "height")] == [20, 40]
    assert content["annotations"][0]["bbox"] == [0, 0, 20, 40]


def test_all_mistakes_are_told_at_once_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "2 .5 .5 .1 .1\n0 .5 .5 .1\n0 .5 .5 0 .1\n0 .95 .5 .2 .1\n0 nan .5 .1 .1\n0 .5 .5 .1 .1\n"
    images, labels = write(tmp_path, {"a.png": text, "b.png": None})
    (labels / "lost.txt").write_text("")
    (images / "b.png").write_bytes(b"no image")
    arguments = ["yolo", str(images), str(labels), str(tmp_path / "all.json"), "--classes", "cat", "dog"]
    assert convert_annotations.main(arguments) == 2
    told = capsys.readouterr().err
    for part in (
        "7 mistakes",
        "1 classes that have no name (there are 2, from 0): 'a.txt:1' (2)",
        "1 lines that have not five numbers",
        "1 boxes without area",
        "2 boxes that reach out of their image",
        "1 label files without an image: 'lost.txt'",
        "1 image files that cannot be read: 'b.png'",
        "--skip",
    ):
        assert part in told
    assert not (tmp_path / "all.json").exists()
    assert convert_annotations.main([*arguments, "--skip"]) == 0
    content = json.loads((tmp_path / "all.json").read_text())
    assert [x["bbox"] for x in content["annotations"]] == [[18, 9, 4, 2]]
    assert [x["file_name"] for x in content["images"]] == ["a.png"]


def test_folders_that_are_missing_or_empty_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"looked for the folder .*nowhere"):
        yolo_to_coco(tmp_path / "nowhere", tmp_path, ["cat"])
    with pytest.raises(DatasetError, match="has no image"):
        yolo_to_coco(tmp_path, tmp_path, ["cat"])
    with pytest.raises(DatasetError, match="classes must be different"):
        yolo_to_coco(*write(tmp_path, {"a.png": ""}), ["cat", "cat"])


def test_the_result_must_be_a_json_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        convert_annotations.main(["yolo", str(tmp_path), str(tmp_path), "out.txt", "--classes", "a"])
    assert "OUT must end in .json, got out.txt" in capsys.readouterr().err
