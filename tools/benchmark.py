#!/usr/bin/env python3
"""Measure: tools/benchmark.py --help."""

import sys

from visionssm.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
