"""Key-point sets, detections and files of boxes with random mistakes: used or told."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.cases import case, cases, mutated
from tests.fuzz.test_data_sets import made, spoil
from tests.tasks.pose.inputs import person, write_set
from visionssm.tasks.pose.boxes import ListedBoxes
from visionssm.tasks.pose.data import CocoKeypoints

FOUND = [{"image_id": n, "category_id": 1, "bbox": [10, 8, 20, 24], "score": 0.5} for n in (1, 2)]
OBJECTS = [{"class": "person", "score": 0.5, "box": [10, 8, 30, 32]}, {"class": "cat", "score": 1, "box": [0, 0, 9, 9]}]
BOXES: tuple[Any, ...] = (
    {"predictions": [{"file": "a.png", "objects": OBJECTS}, {"file": "x/b.png", "objects": []}], "unreadable": []},
    {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": "two", "file_name": "b.png"}],
        "annotations": [
            {"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1},
            {"image_id": "two", "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 1, "name": "person"}],
    },
)


def spoiled_text(content: Any, draw: random.Random) -> str:
    content = copy.deepcopy(content)
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        spoil(content, draw)
    text = json.dumps(content)
    return mutated(text.encode(), draw).decode("latin-1") if draw.random() < 0.2 else text


def written(path: Path, content: Any, draw: random.Random) -> None:
    encoding = draw.choice(("utf-8", "utf-8-sig", "latin-1"))
    path.write_text(spoiled_text(content, draw), encoding=encoding, errors="replace")


def test_any_key_points_and_detections_are_used_or_told(tmp_path: Path) -> None:
    arguments = write_set(tmp_path, lambda x: x["annotations"].append(person(2, image_id=2)))
    content = json.loads((tmp_path / "points.json").read_text())
    used = 0
    for number, draw in cases(150):
        with case(number):
            detected = draw.random() < 0.5
            (tmp_path / "points.json").write_text(json.dumps(content))
            (tmp_path / "found.json").write_text(json.dumps(FOUND))
            name, sound = ("found.json", FOUND) if detected else ("points.json", content)
            written(tmp_path / name, sound, draw)
            given = arguments | ({"boxes": "found.json"} if detected else {})
            raised = made(CocoKeypoints, **given, wrong="raise")
            data = made(CocoKeypoints, **given, wrong="skip")
            if isinstance(data, str):
                assert isinstance(raised, str)
                continue
            for evaluating in (False, True):
                if evaluating:
                    data.for_evaluation()
                for index in range(len(data)):
                    sample = data[index]
                    assert sample["inputs"].shape == (3, 64, 64)
                    assert (
                        all(np.isfinite(x).all() for x in sample["targets"].values()) if "targets" in sample else True
                    )
                    used += 1
    assert used > 100


def test_any_file_of_boxes_is_used_or_told(tmp_path: Path) -> None:
    image, used = Image.new("RGB", (40, 36)), 0
    for number, draw in cases(300):
        with case(number):
            written(tmp_path / "boxes.json", draw.choice(BOXES), draw)
            listed = made(ListedBoxes, tmp_path / "boxes.json")
            for name in ("a.png", "b.png", "x/b.png", "c.png"):
                if isinstance(listed, str):
                    continue
                boxes = made(listed.boxes_of, Path(name), image, ["person"], 0.1)
                if not isinstance(boxes, str):
                    assert boxes.places.shape == (len(boxes.scores), 4)
                    assert (boxes.places[:, 2:] > boxes.places[:, :2]).all()
                    assert ((boxes.scores >= 0.1) & (boxes.scores <= 1)).all()
                    used += len(boxes.scores)
    assert used > 50
