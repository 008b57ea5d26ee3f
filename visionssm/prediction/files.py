"""Applying a predictor to files, and writing what came of it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import files_below
from visionssm.data.text import printable
from visionssm.engine.task import Predictor, Result, Source
from visionssm.files import complete_or_absent


class UnusableFileError(UnreadableFileError):
    """A file could be read, but the model cannot be applied to it.

    Attributes:
        cause: what the predictor raised.
    """

    def __init__(self, path: Path, cause: Exception) -> None:
        super().__init__(path, f"the model cannot be applied to it ({type(cause).__name__}: {cause})")
        self.cause = cause


@dataclass(frozen=True)
class Prediction:
    """What was found in one file."""

    path: Path
    result: Result


@dataclass(frozen=True)
class Predictions:
    """What came of a list of files: predictions, and the files that could not be read with the reason.

    Attributes:
        columns: names of what a row of the results holds.
    """

    columns: tuple[str, ...]
    read: Sequence[Prediction]
    unreadable: Sequence[UnreadableFileError]


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Expand folders to everything in and below them, in order of name, through links to folders; see `files_below`.

    Hidden files are left out. Folders that cannot be listed stay in the list, so that they are told as unreadable.
    """
    return [file for path in map(Path, paths) for file in (files_below(path) if os.path.isdir(path) else [path])]


@torch.inference_mode()
def predict_files(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 16,
    pictures: str | Path | None = None,
    masks: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Apply a predictor to files; those that it cannot be applied to are reported and do not stop the rest.

    Args:
        pictures: folder that gets pictures of what was found in every file, as the task's results save them; None for
            none.
        masks: folder that gets what was found as label images, of segmentation PNG files with a class number per pixel;
            None for none.
        progress: is told after every batch how many files are done.

    Raises:
        ValueError: `batch_size` is below 1, or the task has no masks.
        Exception: whatever the predictor raises, if it does so for every file that can be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if masks is not None and not getattr(predictor, "has_masks", False):
        raise ValueError(f"masks does not apply here: a {type(predictor).__name__} gives no label images")
    folders = [Path(folder) for folder in (pictures, masks) if folder is not None]
    predictor.model.to(device)
    read: list[Prediction] = []
    unreadable: list[UnreadableFileError] = []
    for start in range(0, len(paths), batch_size):
        batch = _samples(predictor, paths[start : start + batch_size], unreadable)
        for path, sample, result in _results(predictor, batch, unreadable):
            source = Source(_picture_name(len(read), path), sample)
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            if pictures is not None:
                result.save(Path(pictures), source)
            if masks is not None:
                result.save_masks(Path(masks), source)  # type: ignore[attr-defined]
            read.append(Prediction(path, result))
        if progress is not None:
            progress(min(start + batch_size, len(paths)))
    failures = [error.cause for error in unreadable if isinstance(error, UnusableFileError)]
    if failures and not read:  # no file is to blame
        raise failures[0]
    return Predictions(predictor.columns, read, unreadable)


def _samples(
    predictor: Predictor, paths: Sequence[Path], unreadable: list[UnreadableFileError]
) -> list[tuple[Path, Any]]:
    """Samples of those files that can be read; the others are noted."""
    found = []
    for path in paths:
        try:
            found.append((path, predictor.read(path)))
        except UnreadableFileError as error:
            unreadable.append(error)
    return found


def _results(
    predictor: Predictor, batch: Sequence[tuple[Path, Any]], unreadable: list[UnreadableFileError]
) -> list[tuple[Path, Any, Result]]:
    """Results of a batch; where the predictor fails, of the samples one by one, and those it fails for are noted."""
    if not batch:
        return []
    try:
        results = predictor([sample for _, sample in batch])
    except Exception as error:
        if len(batch) > 1:
            return [found for item in batch for found in _results(predictor, [item], unreadable)]
        unreadable.append(UnusableFileError(batch[0][0], error))
        return []
    return [(path, sample, result) for (path, sample), result in zip(batch, results, strict=True)]


def _picture_name(number: int, path: Path) -> str:
    """Name of a picture, without suffix, that any file system takes."""
    stem = printable(path.stem).replace("\\", "_")
    return f"{number:04d}_{stem.encode()[:150].decode(errors='ignore')}"


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write predictions as .csv (file, the task's columns, error; a line per row of a result) or .json, by the suffix.

    The file is complete or absent. Files that could not be read are in it too, with the reason. Bytes of file names
    that are not UTF-8 are written as "\\udcff"; `os.fsencode` of what JSON gives back is the name as it was.
    """
    path = Path(path)
    writers = {".csv": _as_csv, ".json": _as_json}
    if path.suffix.lower() not in writers:
        raise ValueError(f"out must end in .csv or .json, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        temporary.write_bytes(writers[path.suffix.lower()](predictions).encode("utf-8", "backslashreplace"))


def _as_csv(predictions: Predictions) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["file", *predictions.columns, "error"])
    for prediction in predictions.read:
        for row in prediction.result.rows():
            lines.writerow([prediction.path, *(f"{x:.6g}" if isinstance(x, float) else x for x in row), ""])
    for error in predictions.unreadable:
        lines.writerow([error.path, *[""] * len(predictions.columns), error.reason])
    return text.getvalue()


def _as_json(predictions: Predictions) -> str:
    content = {
        "predictions": [{"file": str(p.path), **p.result.plain()} for p in predictions.read],
        "unreadable": [{"file": str(error.path), "reason": error.reason} for error in predictions.unreadable],
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
