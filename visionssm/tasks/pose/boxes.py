"""Where people are in images that are not part of a data set: from a file of boxes, or found by a detector."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from visionssm.data.coco import LARGEST
from visionssm.data.errors import DatasetError
from visionssm.data.masks import is_number
from visionssm.data.problems import Problems
from visionssm.engine.exported import ExportedFileError, is_exported, load_exported
from visionssm.engine.task import find_task, task_names

_HELP = (
    "It takes what tools/predict.py --out boxes.json writes with a detector's checkpoint, or a file in COCO's format "
    "with 'images' (id, file_name) and 'annotations' (image_id, bbox)"
)
_REMEDY = "Mend them, or leave them out of the file."


class Boxes(NamedTuple):
    """People's boxes in an image.

    Attributes:
        places: (n, 4) left, top, right, bottom in pixels.
        scores: (n,) between 0 and 1.
        names: of the class of each.
    """

    places: np.ndarray
    scores: np.ndarray
    names: Sequence[str]


class ListedBoxes:
    """Boxes of a file, by the names of its images.

    Args:
        path: a file of tools/predict.py, or one in COCO's format.
    Raises:
        DatasetError: it cannot be read, is of another kind, or boxes in it are unusable: all of them, with counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DatasetError(f"--boxes: {str(path)!r} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"--boxes: {str(path)!r} is no JSON file: {error}") from error
        problems = Problems()
        self.found: dict[str, list[tuple[list[float], float, str]]] = {}
        if isinstance(content, Mapping) and isinstance(content.get("predictions"), list):
            self._take_predictions(content["predictions"], problems)
        elif isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
            self._take_annotations(content, problems)
        else:
            raise DatasetError(f"--boxes: {str(path)!r} is of no known kind. {_HELP}")
        problems.settle(f"--boxes: {str(path)!r}", "raise", _REMEDY)

    def _take_predictions(self, entries: Sequence[Any], problems: Problems) -> None:
        for place, entry in enumerate(entries):
            name = entry.get("file") if isinstance(entry, Mapping) else None
            objects = entry.get("objects") if isinstance(entry, Mapping) else None
            if not isinstance(name, str) or not isinstance(objects, list):
                problems.add("predictions without a file or objects", f"number {place}")
                continue
            self.found.setdefault(name, [])
            for x in objects:
                self._add(name, x, x.get("box") if isinstance(x, Mapping) else None, problems)

    def _take_annotations(self, content: Mapping[str, Any], problems: Problems) -> None:
        names = {x["id"]: x["file_name"] for x in _entries(content, "images") if isinstance(x.get("file_name"), str)}
        classes = {x["id"]: x.get("name") for x in _entries(content, "categories")}
        for name in names.values():
            self.found.setdefault(name, [])
        for place, entry in enumerate(content["annotations"]):
            key = entry.get("image_id") if isinstance(entry, Mapping) else None
            if not isinstance(key, (int, str)) or key not in names:
                problems.add("boxes of images that are not listed", f"number {place} of image_id {key!r:.40}")
                continue
            box = entry.get("bbox")
            if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
                box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            category = entry.get("category_id")
            named = classes.get(category) if isinstance(category, (int, str)) else None
            self._add(names[key], {"class": named, **entry}, box, problems)

    def _add(self, name: str, entry: Any, box: Any, problems: Problems) -> None:
        score = entry.get("score", 1.0) if isinstance(entry, Mapping) else None
        known = isinstance(box, list) and len(box) == 4 and all(is_number(x) and abs(x) < LARGEST for x in box)
        if not known or box[2] <= box[0] or box[3] <= box[1]:
            problems.add("boxes without area", f"{box!r:.60} of {name!r}")
        elif not is_number(score) or not 0 <= score <= 1:
            problems.add("boxes whose score is no number from 0 to 1", f"{score!r:.40} of {name!r}")
        else:
            named = entry.get("class")
            self.found[name].append(([float(x) for x in box], float(score), named if isinstance(named, str) else ""))

    def boxes_of(self, path: Path, image: Image.Image, classes: Sequence[str], least: float) -> Boxes:
        """Boxes of an image file, by its path as it is in the file, or by its name alone.

        Args:
            path: of the image.
            image: its pixels.
            classes: names of what is looked for; a box of another class is left out, one without a class is not.
            least: score.
        Raises:
            DatasetError: the file names no such image, or two of that name, or a box is outside of the image.
        """
        names = [name for name in self.found if name == str(path)]
        names = names or [name for name in self.found if Path(name).name == path.name]
        if len(names) != 1:
            said = "two images of this name" if names else "no such image"
            raise DatasetError(f"--boxes: {str(self.path)!r} names {said}: {path.name!r}")
        chosen = [x for x in self.found[names[0]] if x[1] >= least and (not x[2] or x[2] in classes)]
        outside = [x[0] for x in chosen if not _overlaps(x[0], image.size)]
        if outside:
            raise DatasetError(
                f"--boxes: {len(outside)} of {len(chosen)} boxes are outside of the image of {image.width}×"
                f"{image.height} pixels, as {outside[0]} (left, top, right, bottom)"
            )
        return _boxes(chosen)


class DetectedBoxes:
    """Boxes that a trained detector finds.

    Args:
        path: a checkpoint of a detection task, or an exported file of one.
        threshold: least score; None for the detector's own.
    Raises:
        CheckpointError, ExportedFileError: (ValueErrors) it is of no known task, or of one that finds no boxes.
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: Path, threshold: float | None) -> None:
        predictor: Any = load_exported(path) if is_exported(path) else _trained(path)
        if not set(predictor.columns) >= _OF_A_DETECTOR:
            raise ExportedFileError(
                f"--detector: {str(path)!r} is of a task which finds no boxes; give a detector's file"
            )
        if threshold is not None and any(field.name == "threshold" for field in fields(predictor)):
            predictor = replace(predictor, threshold=threshold)
        self.path = path
        self.predictor = predictor

    def boxes_of(self, path: Path, image: Image.Image, classes: Sequence[str], least: float) -> Boxes:
        """Boxes of the classes that are looked for, or of a detector's only class.

        Args: see `ListedBoxes`.
        Raises:
            DatasetError: the detector has several classes, and none of those.
        """
        there = list(getattr(self.predictor, "classes", ()))
        wanted = there if len(there) == 1 else [name for name in there if name in classes]
        if not wanted:
            raise DatasetError(
                f"--detector: {str(self.path)!r} finds {', '.join(there[:5])}{', …' if len(there) > 5 else ''}, "
                f"but key points are of {', '.join(classes)}"
            )
        sample = self.predictor.read(path)
        (result,) = self.predictor([sample])
        objects = result.plain()["objects"]
        chosen = [
            (list(x["box"]), float(x["score"]), str(x["class"]) if x["class"] in classes else "")
            for x in objects
            if x["class"] in wanted and x["score"] >= least and _overlaps(x["box"], image.size)
        ]
        return _boxes(chosen)


NO_BOXES = (
    "key points are found in people's boxes: give a file of them, --boxes boxes.json, or a detector's checkpoint or "
    "exported file, --detector best.pth"
)


def people_of(boxes: Path | None, detector: Path | None, threshold: float | None) -> ListedBoxes | DetectedBoxes | None:
    """What tells where people are, if anything does.

    Raises:
        ValueError: both are given, or the threshold is out of range; and see the two classes.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be from 0 to 1, got {threshold}")
    if boxes is not None and detector is not None:
        raise ValueError("boxes and detector both say where people are; give one of them")
    if boxes is not None:
        return ListedBoxes(Path(boxes))
    return None if detector is None else DetectedBoxes(Path(detector), threshold)


_OF_A_DETECTOR = {"class", "score", "left", "top", "right", "bottom"}


def _trained(path: Path) -> Any:
    """The predictor of a detector's checkpoint."""
    # PyTorch is not imported where an exported file says where people are.
    from visionssm.checkpoints import CheckpointError
    from visionssm.engine.checkpoint import read_trained
    from visionssm.engine.description import description_of

    checkpoint = read_trained(path)
    name = description_of(checkpoint).get("task") if isinstance(checkpoint, Mapping) else None
    if not isinstance(name, str) or name not in task_names():
        raise CheckpointError(f"--detector: {str(path)!r} was not written by the training of a known task")
    predictor: Any = find_task(name).predictor(checkpoint)
    if not set(predictor.columns) >= _OF_A_DETECTOR:
        raise CheckpointError(
            f"--detector: {str(path)!r} is of the task {name!r}, which finds no boxes; give a detector's checkpoint"
        )
    return predictor


def _entries(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Entries of a list that have a usable id; none where there is no list."""
    listed = content.get(name)
    entries = listed if isinstance(listed, list) else []
    return [x for x in entries if isinstance(x, Mapping) and isinstance(x.get("id"), (int, str))]


def _overlaps(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box has an area inside an image of this width and height."""
    return min(box[2], size[0]) > max(box[0], 0) and min(box[3], size[1]) > max(box[1], 0)


def _boxes(chosen: Sequence[tuple[Sequence[float], float, str]]) -> Boxes:
    return Boxes(
        np.array([x[0] for x in chosen], dtype=np.float64).reshape(-1, 4),
        np.array([x[1] for x in chosen], dtype=np.float64),
        [x[2] for x in chosen],
    )
