"""The command lines. `tools/NAME.py` and `visionssm NAME` call `main` of the module of that name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from visionssm.cli.errors import stoppable, tell
from visionssm.data.spelling import closest

COMMANDS = {
    "train": "train a model from a configuration",
    "test": "measure a checkpoint on the test data of a configuration",
    "predict": "apply a checkpoint to files and folders",
    "demo": "try a model in a browser",
    "serve": "answer to files over HTTP",
    "visualize": "draw routes, receptive fields, feature maps, class activations",
    "export": "write a model as ONNX or as an archive of torch.export",
    "convert": "turn a published checkpoint into a safetensors file of this package's layout",
    "convert_annotations": "turn annotations of other programs into COCO's format",
    "search_routes": "choose the routes of a LocalMamba from a trained supernet",
    "benchmark": "measure operators and models on this machine, on a CPU or a GPU",
    "models": "list the models, what is published of them, and where their weights are",
    "completion": "print the completion of these commands for a shell",
}
_USAGE = (
    "usage: visionssm COMMAND …\n\n{}\n\nEach tells more with --help. To begin:  visionssm train vmamba_nano_digits"
)


def usage() -> str:
    """What `visionssm --help` prints."""
    width = max(map(len, COMMANDS))
    return _USAGE.format("\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The console command `visionssm NAME …`; returns the exit status."""
    return run(list(sys.argv[1:] if arguments is None else arguments))


@stoppable
def run(given: list[str]) -> int:
    """One of `COMMANDS` with its arguments, or what is told of them all."""
    if given[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if given[:1] == ["--version"]:
        import visionssm

        print(f"visionssm {visionssm.__version__}")
        return 0
    if not given or given[0] not in COMMANDS:
        print(usage(), file=sys.stderr)
        if given:
            tell(ValueError(f"there is no command {given[0]!r}; closest: {closest(given[0], COMMANDS)}"))
        return 2
    return int(importlib.import_module(f"visionssm.cli.{given[0]}").main(given[1:]))
