"""The server that an application runs in."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 30.0
"""Seconds within which a connection must have asked for something."""


class Impatient(H11Protocol):
    """HTTP that closes connections which ask for nothing: they count, and a few dozens would keep all others out."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(PATIENCE, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server:
    """uvicorn with what an endpoint for strangers needs.

    Args:
        app: what answers.
        connections: at one time; more are answered with 503.
    """

    def __init__(self, app: FastAPI, *, connections: int = 64) -> None:
        self.uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Impatient,
                log_level="warning",
                server_header=False,
                limit_concurrency=connections,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=10,
                proxy_headers=False,  # else any client could say which address it has
            )
        )

    def run(self, place: socket.socket) -> None:
        """Serve on a listening socket until SIGINT or SIGTERM, or until `stop` is called."""
        try:
            self.uvicorn.run(sockets=[place])
        except KeyboardInterrupt:  # which uvicorn raises again after it has ended
            return

    def stop(self) -> None:
        """End soon; may be called from another thread."""
        self.uvicorn.should_exit = True
