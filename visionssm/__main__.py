"""`python -m visionssm`: the command line, where the folder of console commands is not on the path."""

import sys

from visionssm.cli import main

if __name__ == "__main__":
    sys.exit(main())
