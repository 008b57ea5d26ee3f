#!/usr/bin/env python3
"""Train a model from a configuration: tools/train.py --help."""

import sys

from visionssm.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
