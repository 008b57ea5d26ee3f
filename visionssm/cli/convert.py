"""Convert a classifier to this package's layout: tools/convert_checkpoint.py SRC DST.safetensors --model NAME

  visionssm convert vssm1_tiny_0230s_ckpt_epoch_264.pth vmamba.safetensors --model vmamba_tiny_s1l8

SRC is the authors' file, or one that tools/train.py wrote, which says which model it is of (no --model). The result
needs no pickle and loads with timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=dict(file=DST)).
Nothing is written unless every key fits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("convert", __doc__)
    parser.add_argument("source", type=Path, help="the authors' file (PyTorch or safetensors)")
    parser.add_argument("destination", type=Path, help="file to write, ending in .safetensors")
    parser.add_argument("--model", metavar="NAME", help="registered variant, e.g. vmamba_tiny_s1l8")
    parser.add_argument(
        "--prefer",
        metavar="KEY",
        nargs="+",
        help="wrapper keys of the source in order of preference, e.g. model_ema for the moving average",
    )
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.destination.suffix != ".safetensors":
        parser.error(f"DST must end in .safetensors, got {options.destination}")
    import visionssm.backbones  # noqa: F401  registers the models
    from visionssm.checkpoints import create_official, save_converted
    from visionssm.engine.checkpoint import DESCRIPTION, read_trained
    from visionssm.engine.description import description_of
    from visionssm.engine.plain import to_plain

    try:
        content = read_trained(options.source)
        about = description_of(content) if isinstance(content, Mapping) else {}
        said = about["model"].get("name") if isinstance(about.get("model"), Mapping) else None
        name = options.model or said
        if not isinstance(name, str):
            raise ValueError(f"{str(options.source)!r} does not say which model it is of; name it with --model")
        model = create_official(name, options.source, prefer=options.prefer)
        metadata = {"architecture": name, "num_classes": str(model.num_classes)}
        if said == name:
            metadata[DESCRIPTION] = json.dumps(to_plain(about))
        written = save_converted(model, options.destination, metadata=metadata)
    except (ValueError, TypeError, OSError) as error:
        tell(error)
        return 2
    values = sum(parameter.numel() for parameter in model.parameters())
    print(f"wrote {written}: {len(model.state_dict())} tensors, {values:,} parameters, {model.num_classes} classes")
    return 0
