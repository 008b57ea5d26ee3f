#!/usr/bin/env python3
"""Export a model: tools/export.py --help."""

import sys

from visionssm.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
