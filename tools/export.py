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
from PIL import Image
from torch import nn

import visionssm  # noqa: F401  registers the models
from visionssm.integrations.export import ExportError, export_archive, export_onnx
from visionssm.prediction import load_classifier

FORMATS = {"onnx": export_onnx, "pt2": export_archive}
LEAST_OPEN_SIDE = 64  # exporters take a side of one pixel, as the last map of a smaller image has, for a fixed one


def load_model(source: str, *, name: str | None, pretrained: bool) -> tuple[nn.Module, Sequence[int]]:
    """The model of a checkpoint file, or a registered model by name; and the size (C, H, W) of the images it is for."""
    if not Path(source).exists() and timm.is_model(source):
        model = timm.create_model(source, pretrained=pretrained)
        return model, model.default_cfg["input_size"]
    classifier = load_classifier(source, model_name=name)
    blank = classifier.transform(Image.new(classifier.image_mode, (64, 64)))  # a checkpoint may be for other images
    return classifier.model, blank.shape


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
        model, (channels, *size) = load_model(options.source, name=options.model, pretrained=options.pretrained)
        batch = max(2, options.batch_size) if options.dynamic else options.batch_size  # the exporter fixes a batch of 1
        if options.dynamic:
            size = [max(side, LEAST_OPEN_SIDE) for side in size]
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
