"""Annotations of other programs in COCO's format: tools/convert_annotations.py yolo IMAGES LABELS OUT.json --classes …

  visionssm convert_annotations yolo mine/images/train mine/labels/train mine/train.json --classes cat dog

A text file per image has a line per object: class number from 0, then centre x, centre y, width and height in shares of
the image. The result goes into `CocoInstances`, with IMAGES as its `images`. Nothing is written unless every line fits,
or --skip is given.

Exit status: 0 if the file was written, 2 if something is wrong.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of
from visionssm.data.yolo_labels import yolo_to_coco
from visionssm.files import complete_or_absent


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("convert_annotations", __doc__)
    forms = parser.add_subparsers(dest="form", required=True)
    yolo = forms.add_parser("yolo", help="a text file per image, as YOLO programs have them")
    yolo.add_argument("images", type=Path, metavar="IMAGES", help="folder of the images")
    yolo.add_argument("labels", type=Path, metavar="LABELS", help="folder of the text files")
    yolo.add_argument("out", type=Path, metavar="OUT.json", help="file to write")
    yolo.add_argument("--classes", nargs="+", required=True, metavar="NAME", help="class names, from number 0 on")
    yolo.add_argument("--skip", action="store_true", help="leave out what is wrong, and tell how much")
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.out.suffix.lower() != ".json":
        parser.error(f"OUT must end in .json, got {options.out}")
    try:
        wrong = "skip" if options.skip else "raise"
        content = yolo_to_coco(options.images, options.labels, options.classes, wrong)
        with complete_or_absent(options.out) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except (ValueError, OSError) as error:
        tell(error)
        return 2
    print(f"wrote {options.out}: {len(content['images'])} images, {len(content['annotations'])} objects")
    return 0
