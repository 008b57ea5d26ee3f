"""A server that can fail in every way that servers do."""

from __future__ import annotations

import http.server
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Served:
    """What the server does for one address."""

    content: bytes = b""
    status: int = 200
    etag: str | None = None
    cut_after: list[int] = field(default_factory=list)  # bytes sent by the next responses before they hang up
    send_length: bool = True
    fail_first: int = 0  # responses that are 503


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, and notes the headers of every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def serve(self, name: str, content: bytes = b"", **options: Any) -> str:
        self.files[name] = Served(content, **options)
        return self.url(name)


class Handler(http.server.BaseHTTPRequestHandler):
    """Ranges, ETags, hang-ups and errors, as `Served` says."""

    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        wanted = self.headers.get("Range")
        self.server.requests.append((name, wanted))
        served = self.server.files.get(name, Served(b"gone", status=404))
        if served.fail_first:
            served.fail_first -= 1
            self.send_error(503)
            return
        start = 0
        if wanted and served.etag and self.headers.get("If-Range") == served.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = served.content[start:]
        self.send_response(206 if start else served.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        if served.send_length:
            self.send_header("Content-Length", str(len(body)))
        if served.etag:
            self.send_header("ETag", served.etag)
        self.end_headers()
        self.wfile.write(body[: served.cut_after.pop(0)] if served.cut_after else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
