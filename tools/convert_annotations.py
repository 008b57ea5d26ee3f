#!/usr/bin/env python3
"""Annotations of other programs in COCO's format: tools/convert_annotations.py --help."""

import sys

from visionssm.cli.convert_annotations import main

if __name__ == "__main__":
    sys.exit(main())
