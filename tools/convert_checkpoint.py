#!/usr/bin/env python3
"""Convert a published checkpoint to this package's layout: tools/convert_checkpoint.py SRC DST.safetensors --model NAME

The result needs no pickle and loads with
timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=DST)).
Nothing is written unless every key fits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import visionssm  # noqa: F401  registers the models
from visionssm.checkpoints import create_official, save_converted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the authors' file (PyTorch or safetensors)")
    parser.add_argument("destination", type=Path, help="file to write, ending in .safetensors")
    parser.add_argument("--model", required=True, metavar="NAME", help="registered variant, e.g. vmamba_tiny_s1l8")
    parser.add_argument(
        "--prefer",
        metavar="KEY",
        nargs="+",
        help="wrapper keys of the source in order of preference, e.g. model_ema for the moving average",
    )
    options = parser.parse_args(arguments)
    if options.destination.suffix != ".safetensors":
        parser.error(f"DST must end in .safetensors, got {options.destination}")
    try:
        model = create_official(options.model, options.source, prefer=options.prefer)
        written = save_converted(model, options.destination, metadata={"architecture": options.model})
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    values = sum(parameter.numel() for parameter in model.parameters())
    print(f"wrote {written}: {len(model.state_dict())} tensors, {values:,} parameters, {model.num_classes} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
