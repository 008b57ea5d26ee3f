#!/usr/bin/env python3
"""Pictures of what models look at: tools/visualize.py --help."""

import sys

from visionssm.cli.visualize import main

if __name__ == "__main__":
    sys.exit(main())
