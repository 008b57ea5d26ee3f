#!/usr/bin/env python3
"""Routes for LocalMamba, from a trained supernet: tools/search_routes.py --help."""

import sys

from visionssm.cli.search_routes import main

if __name__ == "__main__":
    sys.exit(main())
