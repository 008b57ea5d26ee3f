"""Applying a predictor to files, and writing what came of it."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionssm.data.errors import UnreadableFileError
from visionssm.data.folders import files_below
from visionssm.data.text import printable
from visionssm.engine.task import Predictor, Result, Source
from visionssm.files import complete_or_absent

if TYPE_CHECKING:
    import torch


class UnusableFileError(UnreadableFileError):
    """A file could be read, but the model cannot be applied to it.

    Attributes:
        cause: what the predictor raised.
    """

    def __init__(self, path: Path, cause: Exception, reason: str | None = None) -> None:
        super().__init__(path, reason or f"the model cannot be applied to it ({type(cause).__name__}: {cause})")
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return UnusableFileError, (self.path, _portable(self.cause), self.reason)


def _portable(error: Exception) -> Exception:
    """An error that another process can be given: itself, or its text where it cannot be copied."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@dataclass(frozen=True)
class Prediction:
    """What was found in one file."""

    path: Path
    result: Result


@dataclass(frozen=True)
class Summary:
    """What tables tell of a result, in place of the result itself: its pictures may be large."""

    lines: Sequence[tuple[str | int | float, ...]]
    content: Mapping[str, Any]

    def rows(self) -> list[tuple[str | int | float, ...]]:
        """As the result's."""
        return list(self.lines)

    def plain(self) -> dict[str, Any]:
        """As the result's."""
        return dict(self.content)

    def save(self, folder: Path, source: Source) -> None:
        """Never: pictures are of the result.

        Raises:
            TypeError: always.
        """
        raise TypeError("a summary has no pictures; ask for them where the result is made")


@dataclass(frozen=True)
class Predictions:
    """What came of a list of files: predictions, and the files that could not be read with the reason.

    Attributes:
        columns: names of what a row of the results holds.
    """

    columns: tuple[str, ...]
    read: Sequence[Prediction]
    unreadable: Sequence[UnreadableFileError]


def find_files(paths: Sequence[str | Path], predictor: Predictor | None = None) -> list[Path]:
    """Expand folders to everything in and below them, in order of name, through links to folders; see `files_below`.

    Hidden files are left out. Folders that cannot be listed stay in the list, so that they are told as unreadable.

    Args:
        paths: files and folders.
        predictor: what they are for: a classifier of videos takes a folder of frames as one clip.
    """
    below: Callable[[Path], list[Path]] = getattr(predictor, "samples_below", files_below)
    return [file for path in map(Path, paths) for file in (below(path) if os.path.isdir(path) else [path])]


Outcome = tuple[int, Prediction | UnreadableFileError]
"""What came of a file, behind its number in the list of files."""


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
            none. Their names begin with the file's number in `paths`.
        masks: folder that gets what was found as label images, of segmentation PNG files with a class number per pixel;
            None for none.
        progress: is told after every batch how many files are done.

    Raises:
        ValueError: `batch_size` is below 1, or the task has no masks.
        Exception: whatever the predictor raises, if it does so for every file that can be read.
    """
    options: dict[str, Any] = {"device": device, "batch_size": batch_size, "pictures": pictures, "masks": masks}
    return together(predictor.columns, [predict_share(predictor, paths, progress=progress, **options)])


@contextmanager
def applied(predictor: Predictor, device: str | torch.device = "cpu") -> Iterator[None]:
    """Where and how a predictor's results are computed: on a device, without what derivatives would need.

    Those of exported files run in onnxruntime, on the CPU, and import no PyTorch.
    """
    if getattr(predictor, "model", None) is None:
        yield
        return
    import torch

    predictor.model.to(device)
    with torch.inference_mode():
        yield


def predict_share(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    share: tuple[int, int] = (0, 1),
    device: str | torch.device = "cpu",
    batch_size: int = 16,
    pictures: str | Path | None = None,
    masks: str | Path | None = None,
    beside: bool = False,
    summarised: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[Outcome]:
    """One process's share of what `predict_files` does; `together` makes one list of all shares.

    Batches are the same however many processes share them, and so are the results.

    Args:
        share: number of this process, and of how many: it takes every batch whose number leaves that remainder.
        beside: write results that are files beside the files that they are made of.
        summarised: give what tables tell of the results, not the results, which fill the memory where files are many.
        paths, device, batch_size, pictures, masks, progress: see `predict_files`.
    Raises:
        ValueError: `batch_size` is below 1, or the task has no masks.
        OSError: `pictures` or `masks` cannot be made a folder, or not be written into.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if masks is not None and not getattr(predictor, "has_masks", False):
        raise ValueError(f"masks does not apply here: a {type(predictor).__name__} gives no label images")
    given = {"pictures": pictures, "masks": masks}
    folders = {name: Path(folder) for name, folder in given.items() if folder is not None}
    batch_size = min(batch_size, getattr(predictor, "at_once", batch_size))
    number, count = share
    outcomes: list[Outcome] = []
    with applied(predictor, device):
        for start in range(number * batch_size, len(paths), count * batch_size):
            found = _samples(predictor, paths, range(start, min(start + batch_size, len(paths))), outcomes)
            for place, sample, result in _results(predictor, paths, found, outcomes):
                source = Source(_picture_name(place, paths[place]), sample)
                for name, folder in folders.items():
                    _make(name, folder)
                if pictures is not None:
                    with _into("pictures", pictures):
                        result.save(Path(pictures), source)
                if masks is not None:
                    with _into("masks", masks):
                        result.save_masks(Path(masks), source)  # type: ignore[attr-defined]
                if beside:
                    _save_beside(result, paths[place])
                kept = Summary(result.rows(), result.plain()) if summarised else result
                outcomes.append((place, Prediction(paths[place], kept)))
            if progress is not None:
                progress(min(start + batch_size, len(paths)))
    return outcomes


def _make(name: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{name}={str(folder)!r} cannot be made a folder ({error.strerror or error}); name another one"
        ) from error


@contextmanager
def _into(name: str, folder: str | Path) -> Iterator[None]:
    """Say of an error of writing which argument named the folder."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write into {name}={str(folder)!r} ({error.strerror or error}); name another folder"
        ) from error


def _save_beside(result: Result, path: Path) -> None:
    try:
        result.save_beside(path)  # type: ignore[attr-defined]
    except OSError as error:
        raise OSError(
            f"cannot write beside {str(path)!r} ({error.strerror or error}); name another folder with --pictures"
        ) from error


def together(columns: tuple[str, ...], shares: Iterable[Sequence[Outcome]]) -> Predictions:
    """All shares as one, in the order of the files.

    Raises:
        Exception: whatever the predictor raised, if it did so for every file that could be read.
    """
    ordered = [found for _, found in sorted((x for share in shares for x in share), key=lambda outcome: outcome[0])]
    read = [found for found in ordered if isinstance(found, Prediction)]
    unreadable = [found for found in ordered if isinstance(found, UnreadableFileError)]
    failures = [error.cause for error in unreadable if isinstance(error, UnusableFileError)]
    if failures and not read:  # no file is to blame
        raise failures[0]
    return Predictions(columns, read, unreadable)


def _samples(
    predictor: Predictor, paths: Sequence[Path], places: Iterable[int], outcomes: list[Outcome]
) -> list[tuple[int, Any]]:
    """Samples of those files that can be read, behind their numbers; the others are noted."""
    found = []
    for place in places:
        try:
            found.append((place, predictor.read(paths[place])))
        except UnreadableFileError as error:
            outcomes.append((place, error))
    return found


def _results(
    predictor: Predictor, paths: Sequence[Path], batch: Sequence[tuple[int, Any]], outcomes: list[Outcome]
) -> list[tuple[int, Any, Result]]:
    """Results of a batch; where the predictor fails, of the samples one by one, and those it fails for are noted."""
    if not batch:
        return []
    try:
        results = predictor([sample for _, sample in batch])
    except Exception as error:
        if len(batch) > 1:
            return [found for item in batch for found in _results(predictor, paths, [item], outcomes)]
        outcomes.append((batch[0][0], UnusableFileError(paths[batch[0][0]], error)))
        return []
    return [(place, sample, result) for (place, sample), result in zip(batch, results, strict=True)]


def _picture_name(number: int, path: Path) -> str:
    """Name of a picture, without suffix, that any file system takes."""
    stem = printable(path.resolve().name if path.is_dir() else path.stem).replace("\\", "_")
    return f"{number:04d}_{stem.encode()[:150].decode(errors='ignore')}"


def write_predictions(predictions: Predictions, path: str | Path) -> None:
    """Write predictions as .csv (file, the task's columns, error; a line per row of a result) or .json, by the suffix.

    The file is complete or absent. Files that could not be read are in it too, with the reason. Bytes of file names
    that are not UTF-8 are written as "\\udcff"; `os.fsencode` of what JSON gives back is the name as it was.

    Raises:
        ValueError: the suffix is another one.
        OSError: the file cannot be written.
    """
    path = Path(path)
    writers = {".csv": _as_csv, ".json": _as_json}
    if path.suffix.lower() not in writers:
        raise ValueError(f"out must end in .csv or .json, got {str(path)!r}")
    content = writers[path.suffix.lower()](predictions).encode("utf-8", "backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with complete_or_absent(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OSError(f"cannot write out={str(path)!r} ({error.strerror or error}); name another file") from error


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
