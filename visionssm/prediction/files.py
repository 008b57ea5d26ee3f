"""Applying a predictor to files, and writing what came of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from visionssm.data.errors import UnreadableFileError
from visionssm.engine.task import Predictor, Result, Source
from visionssm.files import complete_or_absent


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
    """Expand folders to all the files in and below them, in order of name; hidden files are left out."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.is_file())
            visible = (f for f in inside if not any(part.startswith(".") for part in f.relative_to(path).parts))
            found.extend(sorted(visible))
        else:
            found.append(path)
    return found


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
    """Apply a predictor to files; those that cannot be read are reported and do not stop the rest.

    Args:
        pictures: folder that gets pictures of what was found in every file, as the task's results save them; None for
            none.
        masks: folder that gets what was found as label images, of segmentation PNG files with a class number per pixel;
            None for none.
        progress: is told after every batch how many files are done.

    Raises:
        ValueError: `batch_size` is below 1, or the task has no masks.
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
        files, samples = [], []
        for path in paths[start : start + batch_size]:
            try:
                samples.append(predictor.read(path))
                files.append(path)
            except UnreadableFileError as error:
                unreadable.append(error)
        results = predictor(samples) if samples else ()
        for path, sample, result in zip(files, samples, results, strict=True):
            source = Source(f"{len(read):04d}_{path.stem}", sample)
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            if pictures is not None:
                result.save(Path(pictures), source)
            if masks is not None:
                result.save_masks(Path(masks), source)  # type: ignore[attr-defined]
            read.append(Prediction(path, result))
        if progress is not None:
            progress(min(start + batch_size, len(paths)))
    return Predictions(predictor.columns, read, unreadable)


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write predictions as .csv (file, the task's columns, error; a line per row of a result) or .json, by the suffix.

    The file is complete or absent. Files that could not be read are in it too, with the reason.
    """
    path = Path(path)
    writers = {".csv": _as_csv, ".json": _as_json}
    if path.suffix.lower() not in writers:
        raise ValueError(f"out must end in .csv or .json, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as temporary:
        temporary.write_text(writers[path.suffix.lower()](predictions), encoding="utf-8", newline="")


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
