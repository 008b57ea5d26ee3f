#!/usr/bin/env python3
"""Export a model: tools/export.py CHECKPOINT_OR_MODEL [--format onnx|pt2] [--dynamic] [--out FILE]

The first argument is a checkpoint of any task that tools/train.py wrote, an official or bare one (with --model NAME),
or the name of a registered model (untrained weights, unless --pretrained). A classifier becomes image → scores, a
detector image → boxes, scores, labels (and masks), a segmentor image → classes of the pixels. The exported file is run
and compared with eager PyTorch before it gets its name.

Exit status: 0 if the file was written, 2 if the model cannot be exported or the arguments are unusable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import visionssm  # noqa: F401  registers the models
from visionssm.cli.errors import tell
from visionssm.cli.export import FORMATS, export, find
from visionssm.integrations.export import ExportError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint file or registered model name")
    parser.add_argument("--model", metavar="NAME", help="registered variant, for official and bare checkpoints")
    parser.add_argument("--pretrained", action="store_true", help="for a model name: the published weights")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument(
        "--dynamic", action="store_true", help="leave height and width open, and the batch if there is one"
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="image size (default: the model's)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to write (default: SOURCE.onnx or SOURCE.pt2 in this folder)")
    options = parser.parse_args(arguments)
    for name, value in (("--batch-size", options.batch_size), ("--size", min(options.size or [1]))):
        if value < 1:
            parser.error(f"{name} must be at least 1, got {value}")

    try:
        exportable = find(options.source, model_name=options.model, pretrained=options.pretrained)
        out = options.out or Path(f"{Path(options.source).stem}.{options.format}")
        print(f"exporting {options.source} to {out} …", file=sys.stderr)
        written = export(
            exportable,
            out,
            options.format,
            dynamic=options.dynamic,
            size=options.size and tuple(options.size),
            batch_size=options.batch_size,
        )
    except (ExportError, ImportError, ValueError, OSError) as error:
        tell(error)
        return 2
    sizes = f"any {', '.join(written.open_axes)}" if options.dynamic else f"input {written.shape}"
    size = out.stat().st_size / 1e6
    print(f"wrote {out} ({size:.1f} MB), {sizes}; largest difference to eager {written.difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
