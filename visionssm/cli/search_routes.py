"""Routes for LocalMamba, from a trained supernet: tools/search_routes.py CHECKPOINT [--count 4] [--out FILE.json] …

  visionssm train localvim_nano_supernet_digits
  visionssm search_routes work_dirs/localvim_nano_supernet_digits/best.pth --base localvim_nano_digits --config my.py
  visionssm train my.py

A table says how much each layer's routes weigh, in per cent; those with a star are chosen. --out writes them as JSON,
whose "directions" the models take. --config writes the configuration --base with these routes, ready to be trained.

Exit status: 0 if the routes were chosen, 2 if something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of
from visionssm.cli.tables import print_columns
from visionssm.engine.errors import USER_ERRORS
from visionssm.files import complete_or_absent

if TYPE_CHECKING:
    from visionssm.backbones.localmamba_search import RouteShares


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("search_routes", __doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="of a supernet, as training wrote it")
    parser.add_argument(
        "--count", type=int, default=4, metavar="N", help="routes to choose in each layer; 4 by default"
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the routes, and what they weigh")
    parser.add_argument("--base", metavar="CONFIG", help="configuration to give the routes to: a file or a name")
    parser.add_argument("--config", type=Path, metavar="FILE.py", help="write --base with the routes")
    return parser


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    for path, suffix in ((options.out, ".json"), (options.config, ".py")):
        if path is not None and path.suffix != suffix:
            parser.error(f"the file must end in {suffix}, got {path}")
    if (options.base is None) != (options.config is None):
        parser.error("--base and --config belong together: the configuration to start from, and the file to write")
    try:
        from visionssm.backbones.localmamba_search import route_shares
        from visionssm.prediction import load_classifier

        shares = route_shares(load_classifier(options.checkpoint).model)
        header, rows = shares.rows(options.count)
        print_columns(header, rows, right=header)
        if options.out is not None:
            shares.save(options.out, options.count)
            print(f"wrote {options.out}")
        if options.config is not None:
            write_config(options.config, options.base, shares, options.count, options.checkpoint)
            print(f"wrote {options.config}")
    except (*USER_ERRORS, ValueError, OSError) as error:
        tell(error)
        return 2
    return 0


def write_config(path: Path, base: str, shares: RouteShares, count: int, source: Path) -> None:
    """A configuration that is `base` with the chosen routes.

    Raises:
        ConfigError: there is no configuration `base`, or it is not of a model of as many layers.
        OSError: the file cannot be written.
    """
    from visionssm.engine.config import load_config
    from visionssm.engine.errors import ConfigError
    from visionssm.engine.shipped import find_config

    chosen = shares.chosen(count)
    inherited = find_config(base).resolve()
    model = load_config(inherited).get("model", {})
    check_model(dict(model), chosen, base)
    relative = os.path.relpath(inherited, path.resolve().parent)
    lines = "".join(f"    {json.dumps(layer)},\n" for layer in chosen)
    told = f"The routes that a supernet chose: {count} for each layer, from {source.name}."
    text = (
        f'"""{told}"""\n\n_base_ = {json.dumps(Path(relative).as_posix())}\n\n_directions = [\n{lines}]\n'
        "model = dict(model_kwargs=dict(directions=_directions))\n"
    )
    try:
        with complete_or_absent(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"cannot write {str(path)!r}: no such folder") from error


def check_model(model: dict[str, object], chosen: Sequence[Sequence[str]], base: str) -> None:
    """Refuse a configuration whose model does not take these routes.

    Raises:
        ConfigError: it names no LocalVim or LocalVMamba, or one of another number of layers.
    """
    import timm
    import torch

    from visionssm.engine.errors import ConfigError

    name, options = model.get("name"), model.get("model_kwargs") or {}
    if not isinstance(name, str) or not name.startswith(("localvim_", "localvmamba_")):
        raise ConfigError(f"--base {base}: model.name={name!r} is no LocalVim or LocalVMamba, which take routes")
    assert isinstance(options, dict)
    try:
        with torch.device("meta"):
            timm.create_model(name, **{**options, "directions": chosen})
    except ValueError as error:
        raise ConfigError(f"--base {base}: {error}") from error
