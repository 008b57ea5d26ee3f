#!/usr/bin/env python3
"""Evaluate a checkpoint: tools/test.py --help."""

import sys

from visionssm.cli.test import main

if __name__ == "__main__":
    sys.exit(main())
