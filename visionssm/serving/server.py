"""The server that an application runs in."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI


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
