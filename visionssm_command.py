"""The console command `visionssm`, outside of the package, so that the package knows who imports it.

`import visionssm` registers all models with timm, for which it imports PyTorch. The command does without until one of
its parts needs them: it tells how it is used at once, and `visionssm predict model.onnx` runs where PyTorch is not
installed. While this module is imported, `visionssm` leaves the models to the command. Nothing else imports it.
"""

import sys


def main() -> int:
    """Run `visionssm COMMAND …`; returns the exit status."""
    from visionssm.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
