#!/usr/bin/env python3
"""Export a model: tools/export.py CHECKPOINT_OR_MODEL [--format onnx|pt2] [--dynamic] [--out FILE]

The first argument is a checkpoint that tools/train.py wrote, an official or bare one (with --model NAME), or the name
of a registered model (untrained weights, unless --pretrained). The exported file is run and compared with eager
PyTorch before it gets its name.

Exit status: 0 if the file was written, 2 if the model cannot be exported or the arguments are unusable.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn

import visionssm  # noqa: F401  registers the models
from visionssm.integrations.export import ExportError, export_archive, export_onnx
from visionssm.prediction import load_classifier

FORMATS = {"onnx": export_onnx, "pt2": export_archive}


def load_model(source: str, *, name: str | None, pretrained: bool) -> nn.Module:
    """The model of a checkpoint file, or a registered model by name."""
    if not Path(source).exists() and timm.is_model(source):
        return timm.create_model(source, pretrained=pretrained)
    return load_classifier(source, model_name=name).model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint file or registered model name")
    parser.add_argument("--model", metavar="NAME", help="registered variant, for official and bare checkpoints")
    parser.add_argument("--pretrained", action="store_true", help="for a model name: the published weights")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="image size (default: the model's)")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file to write (default: SOURCE.onnx or SOURCE.pt2 in this folder)")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {options.batch_size}")

    try:
        model = load_model(options.source, name=options.model, pretrained=options.pretrained)
        channels, *size = model.default_cfg["input_size"]
        batch = max(2, options.batch_size) if options.dynamic else options.batch_size  # the exporter fixes a batch of 1
        image = torch.randn(batch, channels, *(options.size or size))
        out = options.out or Path(f"{Path(options.source).stem}.{options.format}")
        print(f"exporting {options.source} to {out} …", file=sys.stderr)
        difference = FORMATS[options.format](model, out, image, dynamic=options.dynamic)
    except (ExportError, ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = "any batch and size" if options.dynamic else f"input {tuple(image.shape)}"
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB), {sizes}; largest difference to eager {difference:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
