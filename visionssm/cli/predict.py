"""Apply a checkpoint to files, as it was trained for: classes of images, objects in them, classes of their pixels, …

    tools/predict.py CHECKPOINT FILE_OR_FOLDER… [--out predictions.csv] [--pictures FOLDER] [--masks FOLDER]

    visionssm predict work_dirs/vmamba_nano_digits/best.pth photo.jpg folder/ --out predictions.csv

CHECKPOINT is one that tools/train.py wrote; for an official or bare classifier, name the variant with --model.
It may be an exported file too: .onnx, which onnxruntime runs without PyTorch, or .pt2, a torch.export archive.
The name of a registered model, as vmamba_tiny_s1l8, stands for its published weights, which are downloaded once.
Of a classifier of videos, a folder of images is one clip, in the order of the numbers in their names.
Files that cannot be read are listed on standard error and do not stop the rest. Restored images are written beside the
files that they are made of, or into the folder of --pictures with a comparison each.

Several GPUs or processes share the files: torchrun --nproc-per-node=8 tools/predict.py CHECKPOINT FOLDER --out …

Exit status: 0 if at least one file could be used, 1 if none could be read, 2 if the arguments or the checkpoint are
unusable, 130 after Ctrl-C, which leaves the pictures that are there complete and writes no --out.
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import visionssm.tasks  # noqa: F401  makes the tasks known
from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of
from visionssm.cli.tables import print_columns
from visionssm.data.text import printable
from visionssm.engine.task import all_tasks
from visionssm.prediction import (
    Predictions,
    Predictor,
    find_files,
    load_exported,
    predict_share,
    together,
    write_predictions,
)
from visionssm.prediction.exported import is_exported
from visionssm.prediction.files import Outcome
from visionssm.processes import LAUNCHERS, Group, LostProcessError, device, joined, launcher, rank, silent

Row = tuple[str, ...]
_MENDABLE = (ValueError, OSError, ImportError)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("predict", __doc__)
    add_predictor_options(parser)
    parser.add_argument("images", type=Path, nargs="+", help="files, or folders, which are searched to any depth")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the predictions to a .csv or .json file")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="also draw what was found in every file")
    parser.add_argument("--masks", type=Path, metavar="FOLDER", help="also write label images, of segmentation")
    parser.add_argument(
        "--launcher", choices=LAUNCHERS, default=launcher(), help="slurm: srun started several; torchrun is noticed"
    )
    return parser


def add_predictor_options(parser: argparse.ArgumentParser) -> None:
    """The checkpoint and what `predictor_of` makes of it."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", metavar="NAME", help="registered variant, for official and bare checkpoints")
    parser.add_argument("--top-k", type=int, help="classes that a classifier lists; 5 by default")
    parser.add_argument(
        "--threshold", type=float, help="least score of an object that is listed; by default 0.5, of Mamba-YOLO 0.25"
    )
    parser.add_argument("--device", help="of PyTorch (default: cuda where there is a GPU, else cpu)")
    for task in all_tasks():
        for name, about in task.files.items():
            parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=about)
        for name, about in task.numbers.items():
            parser.add_argument(f"--{name}", type=int, metavar="N", help=about)
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="that makes another task known"
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 on unusable arguments."""
    parser = make_parser()
    with silent() if rank() else nullcontext():
        return _checked(parser, parser.parse_args(arguments))


def _options_of_tasks(options: argparse.Namespace) -> dict[str, Path | int | None]:
    """What the arguments that tasks have added say."""
    names = {name for task in all_tasks() for name in (*task.files, *task.numbers)}
    return {name: getattr(options, name, None) for name in names}


def _checked(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> argparse.Namespace:
    if (parsed.top_k is not None and parsed.top_k < 1) or parsed.batch_size < 1:
        parser.error("--top-k and --batch-size must be at least 1")
    if parsed.threshold is not None and not 0 <= parsed.threshold <= 1:
        parser.error(f"--threshold must be from 0 to 1, got {parsed.threshold:g}")
    if parsed.out is not None and parsed.out.suffix.lower() not in (".csv", ".json"):
        parser.error(f"--out must end in .csv or .json, got {parsed.out}")
    return parsed


def print_progress(total: int, done: int) -> None:
    """Tell on one line of the terminal how far it is; the last call takes the line away."""
    line = "" if done == total else f"{done} of {total} files"
    print(f"\r{line:<40}\r{line}", end="", file=sys.stderr, flush=True)


def print_table(predictions: Predictions) -> None:
    """Print files and what was found in them; drawn by rich on a terminal, where that is installed."""
    rows: list[Row] = []
    for prediction in predictions.read:
        found = prediction.result.rows() or [("",) * len(predictions.columns)]
        for number, row in enumerate(found):
            values = [f"{x:.4f}" if isinstance(x, float) else printable(x) for x in row]
            rows.append((printable(prediction.path) if number == 0 else "", *values))
    header: Row = ("file", *predictions.columns)
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        return print_columns(header, rows)
    console = Console()
    if not console.is_terminal:  # a pipe or a file: lines that other programs can take apart
        return print_columns(header, rows)
    table = Table(*header)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse_arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    try:
        with joined(options.launcher) as group:
            return group.agree(_run(options, group))
    except (LostProcessError, ValueError) as error:
        tell(error)
        return 2


def _run(options: argparse.Namespace, group: Group) -> int:
    """This process's share; process 0 writes and prints what all have found, and returns the exit status."""
    predictor: Predictor | None = None
    try:
        predictor, place = predictor_of(options)
    except _MENDABLE as error:
        tell(error)
    files = group.agree(find_files(options.images, predictor) if predictor is not None and group.rank == 0 else [])
    found = None if predictor is None else _share(options, group, predictor, place, files)
    shares = group.gather(found)
    if shares is None:
        return 0  # what counts is process 0's
    if None in shares:
        return 2
    return _report(options, files, shares)


def _share(
    options: argparse.Namespace, group: Group, predictor: Predictor, place: Any, files: Sequence[Path]
) -> tuple[tuple[str, ...], list[Outcome]] | None:
    """The columns and what came of this process's files; None if that cannot be said, which is told."""
    try:
        outcomes = predict_share(
            predictor,
            files,
            share=(group.rank, group.count),
            device=place,
            batch_size=options.batch_size,
            pictures=options.pictures,
            masks=options.masks,
            beside=options.pictures is None and getattr(predictor, "writes_beside", False),
            summarised=True,
            progress=partial(print_progress, len(files)) if group.rank == 0 and sys.stderr.isatty() else None,
        )
        return predictor.columns, outcomes
    except _MENDABLE as error:
        tell(error)
        return None


def predictor_of(options: argparse.Namespace) -> tuple[Predictor, Any]:
    """The predictor and its device; PyTorch is imported unless the file is an exported one.

    Raises:
        ValueError: an option does not apply to an exported file; and see `load_exported` and `load_predictor`.
    """
    for module in options.imports:
        importlib.import_module(module)
    chosen = {"top_k": options.top_k, "threshold": options.threshold, **_options_of_tasks(options)}
    if is_exported(options.checkpoint):
        if options.model is not None or options.device not in (None, "cpu"):
            raise ValueError("--model and --device do not apply to an exported file, which runs on the CPU")
        return load_exported(options.checkpoint, **chosen), "cpu"
    import torch

    from visionssm.prediction import load_predictor

    usual = "cuda" if torch.cuda.is_available() else "cpu"
    return load_predictor(options.checkpoint, model_name=options.model, **chosen), device(options.device or usual)


def _report(options: argparse.Namespace, files: Sequence[Path], shares: Sequence[Any]) -> int:
    """Write and print what was found; returns the exit status."""
    try:
        predictions = together(shares[0][0], [outcomes for _, outcomes in shares])
        if options.out is not None:
            write_predictions(predictions, options.out)
    except _MENDABLE as error:
        tell(error)
        return 2
    if predictions.read:
        print_table(predictions)
    if predictions.unreadable:
        print(f"{len(predictions.unreadable)} of {len(files)} files could not be read:", file=sys.stderr)
        for unreadable in predictions.unreadable:
            print(f"  {printable(unreadable.path)}: {printable(unreadable.reason)}", file=sys.stderr)
    elif not files:
        print("no files were found", file=sys.stderr)
    return 0 if predictions.read else 1
