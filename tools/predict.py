#!/usr/bin/env python3
"""Classify image files: tools/predict.py CHECKPOINT IMAGE_OR_FOLDER… [--top-k 5] [--out predictions.csv]

CHECKPOINT is one that tools/train.py wrote; for an official or bare checkpoint, name the variant with --model.
Files that cannot be read are listed on standard error and do not stop the rest.

Exit status: 0 if at least one image was classified, 1 if none could be read, 2 if the arguments or the checkpoint are
unusable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import visionssm  # noqa: F401  registers the models
from visionssm.prediction import Predictions, find_files, load_classifier, predict_files, write_predictions

Row = tuple[str, str, str]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exits with status 2 on unusable arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders, which are searched to any depth")
    parser.add_argument("--model", metavar="NAME", help="registered variant, for official and bare checkpoints")
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the predictions to a .csv or .json file")
    parsed = parser.parse_args(arguments)
    if parsed.top_k < 1 or parsed.batch_size < 1:
        parser.error("--top-k and --batch-size must be at least 1")
    if parsed.out is not None and parsed.out.suffix.lower() not in (".csv", ".json"):
        parser.error(f"--out must end in .csv or .json, got {parsed.out}")
    return parsed


def print_table(predictions: Predictions) -> None:
    """Print files, classes and scores; drawn by rich on a terminal, where that is installed."""
    rows: list[Row] = [
        (str(prediction.path) if rank == 0 else "", name, f"{score:.4f}")
        for prediction in predictions.read
        for rank, (name, score) in enumerate(prediction.best)
    ]
    header: Row = ("file", "class", "score")
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table
    except ImportError:
        return _print_plain(header, rows)
    console = Console()
    if not console.is_terminal:  # a pipe or a file: lines that other programs can take apart
        return _print_plain(header, rows)
    table = Table(*header)
    table.columns[2].justify = "right"
    for file, name, score in rows:
        table.add_row(escape(file), escape(name), score)
    console.print(table)


def _print_plain(header: Row, rows: Sequence[Row]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(2)]
    for file, name, score in (header, *rows):
        print(f"{file:<{widths[0]}}  {name:<{widths[1]}}  {score:>6}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        classifier = load_classifier(options.checkpoint, model_name=options.model)
        files = find_files(options.images)
        predictions = predict_files(
            classifier, files, top_k=options.top_k, device=options.device, batch_size=options.batch_size
        )
        if options.out is not None:
            write_predictions(predictions, options.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if predictions.read:
        print_table(predictions)
    if predictions.unreadable:
        print(f"{len(predictions.unreadable)} of {len(files)} files could not be read:", file=sys.stderr)
        for unreadable in predictions.unreadable:
            print(f"  {unreadable.path}: {unreadable.reason}", file=sys.stderr)
    elif not files:
        print("no files were found", file=sys.stderr)
    return 0 if predictions.read else 1


if __name__ == "__main__":
    sys.exit(main())
