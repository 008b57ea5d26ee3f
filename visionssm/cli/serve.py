"""Answer to files over HTTP: tools that speak HTTP send an image, and get what the model finds as JSON.

  visionssm serve work_dirs/vmamba_nano_digits/best.pth --port 8000
  curl -F file=@photo.jpg http://127.0.0.1:8000/predict

CHECKPOINT is what `visionssm predict` takes: a checkpoint, an exported file (.onnx), or the name of a model with
published weights. /openapi.json describes the endpoint, /model the model, /health says whether the server runs.
It listens on 127.0.0.1, where only this machine can ask, unless --host says otherwise.

Exit status: 0 when it was stopped, 2 if the checkpoint or the arguments are unusable.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionssm.cli.errors import stoppable, tell
from visionssm.cli.options import parser_of
from visionssm.cli.predict import add_predictor_options, predictor_of
from visionssm.data.text import printable
from visionssm.extras import needs_extra
from visionssm.serving.service import Limits, Service

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECTIONS = 64
"""At one time; more are answered with 503."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = parser_of("serve", __doc__)
    add_options(parser)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a server."""
    add_predictor_options(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is all (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (default: %(default)s)")
    usual = Limits()
    parser.add_argument(
        "--max-megabytes", type=float, default=usual.bytes / 2**20, help="of a file (default: %(default)g)"
    )
    parser.add_argument("--max-pixels", type=int, default=usual.pixels, help="of an image (default: %(default)s)")
    parser.add_argument(
        "--per-minute",
        type=int,
        default=usual.per_minute,
        help="requests of one address; 0: any (default: %(default)s)",
    )
    parser.add_argument("--waiting", type=int, default=usual.waiting, help="requests at a time (default: %(default)s)")


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(make_parser(), arguments)


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, *, page: bool = False) -> int:
    """Parse, load, serve until it is stopped; returns the exit status."""
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 65536:
        parser.error(f"--port must be from 0 to 65535, got {options.port}")
    try:
        with needs_extra("demo", f"visionssm {'demo' if page else 'serve'}"):
            from visionssm.serving.endpoint import make_app
            from visionssm.serving.server import Server
        limits = Limits(
            bytes=int(options.max_megabytes * 2**20),
            pixels=options.max_pixels,
            waiting=options.waiting,
            per_minute=options.per_minute,
        )
        with contextlib.closing(listening(options.host, options.port)) as place:
            service = make_service(options, limits)
            seconds = service.warm_up()
            first = f"; the first prediction took {seconds:.1f} s" if service.takes_images else ""
            print(f"loaded {service.name}{first}", file=sys.stderr)
            examples = _examples(options, service) if page else ()
            hosts = (*LOOPBACK, "[::1]") if options.host in LOOPBACK else ("*",)
            app = make_app(service, page=page, examples=examples, hosts=hosts)
            address = f"http://{_shown_host(place)}:{place.getsockname()[1]}"
            told = f"open {address}/" if page else f"curl -F file=@photo.jpg {address}/predict"
            print(f"{told}\nCtrl-C stops it", flush=True)
            Server(app, connections=CONNECTIONS).run(place)
    except (ImportError, ValueError, OSError) as error:
        tell(error)
        return 2
    return 0


def make_service(options: argparse.Namespace, limits: Limits) -> Service:
    """The service that the command line describes."""
    predictor, device = predictor_of(options)
    about: dict[str, Any] = {}
    if not options.checkpoint.exists():  # a model's name
        from visionssm.catalogue import model_info

        with contextlib.suppress(ValueError, KeyError):
            info = model_info(str(options.checkpoint))
            about = {"published scores": dict(info.scores) or None, "paper": info.paper, "origin": info.origin}
    return Service(predictor, printable(options.checkpoint.name), device, limits, about)


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: the address is not one of this machine, or the port is in use.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise OSError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from error


def _shown_host(place: socket.socket) -> str:
    host = str(place.getsockname()[0])
    return f"[{host}]" if ":" in host else host


def _examples(options: argparse.Namespace, service: Service) -> list[tuple[str, bytes]]:
    from visionssm.serving.examples import own_examples, rendered_examples

    paths: list[Path] = options.examples
    return own_examples(paths, service.limits.bytes) if paths else rendered_examples(service)
