"""Pictures of what models look at.

  visionssm visualize routes ss2d --size 8 8       (tools/visualize.py is the same)

  tools/visualize.py routes ss2d --size 8 8 --out ss2d.png       (or .gif: the routes are walked)
  tools/visualize.py erf vmamba_tiny_s1l8 work_dirs/run/best.pth --images photos/
  tools/visualize.py features work_dirs/run/best.pth photo.jpg
  tools/visualize.py cam vmamba_tiny_s1l8 photo.jpg --pretrained --class 207
  tools/visualize.py groups sweep.bin --model lion_mamba_nano
  tools/visualize.py heatmaps work_dirs/run/best.pth photo.jpg --box 10 20 200 400
  tools/visualize.py assignment configs/yolo/mambayolo_nano_shapes.py --index 3

A model is a checkpoint of any task that tools/train.py wrote, an official or bare one (with --model NAME), or the name
of a registered model (untrained weights, unless --pretrained).

Exit status: 0 if the picture was written, 2 if an argument or a file is unusable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of

ROUTES = (
    *("atrous", "bidirectional", "column", "column_zigzag", "diagonal", "diagonals", "hilbert", "interleaved"),
    *("joined_low", "joined_windows", "mhsvm", "raster", "rasters", "reversed_column", "reversed_raster", "spiral"),
    *("spirals", "ss2d", "window", "zigzag", "zigzags"),
)
"""Names of all routes, to be told without PyTorch."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("visualize", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", type=Path, help="picture to write (default: a name in this folder)")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", metavar="NAME", help="registered variant, for official and bare checkpoints")
    model.add_argument("--pretrained", action="store_true", help="for a model name: the published weights")

    routes = commands.add_parser("routes", parents=[common], help="the order in which pixels are visited")
    routes.add_argument("name", help=", ".join(ROUTES))
    routes.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), default=(8, 8), help="default: 8 8")
    routes.add_argument("--option", type=int, metavar="N", help="step of atrous (2), side of window's windows (4)")

    erf = commands.add_parser("erf", parents=[common, model], help="effective receptive field of the last map")
    erf.add_argument("sources", nargs="+", metavar="MODEL", help="checkpoints or names, drawn side by side")
    erf.add_argument("--images", nargs="+", metavar="PATH", help="files or folders (default: random noise)")
    erf.add_argument("--count", type=int, default=8, help="most images to average over (default: 8)")
    erf.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of random noise (default: the model's)")

    features = commands.add_parser("features", parents=[common, model], help="maps of an image after every stage")
    features.add_argument("source", metavar="MODEL")
    features.add_argument("image")
    features.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="resize to (default: the model's size)")

    cam = commands.add_parser("cam", parents=[common, model], help="where the last map speaks for a class (Grad-CAM)")
    cam.add_argument("source", metavar="MODEL")
    cam.add_argument("image")
    cam.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="resize to (default: the model's size)")
    cam.add_argument("--class", dest="class_index", type=int, metavar="K", help="class number (default: the predicted)")

    groups = commands.add_parser(
        "groups", parents=[common], help="groups of voxels of a sweep, and voxels that are made"
    )
    groups.add_argument("sweep", type=Path, help=".bin file of KITTI's")
    groups.add_argument("--model", default="lion_mamba_nano", help="checkpoint or name (default: lion_mamba_nano)")

    heatmaps = commands.add_parser("heatmaps", parents=[common], help="where a pose estimator sees each key point")
    heatmaps.add_argument("source", metavar="CHECKPOINT", help="of pose estimation")
    heatmaps.add_argument("image")
    heatmaps.add_argument(
        "--box",
        type=float,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="of a person, in pixels (default: the whole image)",
    )

    assigned = commands.add_parser(
        "assignment", parents=[common], help="points of Mamba-YOLO that train on the boxes of a sample"
    )
    assigned.add_argument("config", help="of a training on MosaicDetection")
    assigned.add_argument("--checkpoint", type=Path, help="weights (default: those that a training starts with)")
    assigned.add_argument("--index", type=int, default=0, help="of the sample (default: 0)")
    assigned.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default: 0)")

    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command == "erf" and options.count < 1:
        parser.error(f"--count must be at least 1, got {options.count}")
    return options


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(arguments)
    from visionssm.cli.drawings import DRAW

    try:
        out = DRAW[options.command](options)
    except (ImportError, ValueError, OSError) as error:
        tell(error)
        return 2
    print(f"wrote {out}")
    return 0
