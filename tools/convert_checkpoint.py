#!/usr/bin/env python3
"""Convert a classifier to this package's layout: tools/convert_checkpoint.py --help."""

import sys

from visionssm.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
