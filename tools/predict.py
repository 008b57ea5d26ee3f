#!/usr/bin/env python3
"""Apply a checkpoint to files: tools/predict.py --help."""

import sys

from visionssm.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
