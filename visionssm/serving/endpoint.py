"""A service behind HTTP: `/predict`, `/model`, `/health`, `/openapi.json`, and a page for a browser."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import visionssm
from visionssm.serving.service import Limits, RefusedError, Service

PAGE = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
FORM = 64 << 10
"""Bytes that a form may have beside the file."""

PATIENCE = 30.0
"""Seconds that a body may take to come."""

ADDRESSES = 4096
"""Of how many clients the requests are counted."""

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

_logger = logging.getLogger(__name__)


class Prediction(BaseModel):
    """What was found in a file."""

    model: str = Field(description="name of the model")
    columns: list[str] = Field(description="names of what a row holds")
    rows: list[list[str | int | float]] = Field(description="a table, for people")
    result: dict[str, Any] = Field(description="the same for programs; its form is that of the task")
    milliseconds: dict[str, float] = Field(description="time of the file, the model and the pictures")
    pictures: list[str] = Field(description="PNG files as data addresses, if asked for")
    note: str = Field(description="what to know of them, for people")


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str


class Rates:
    """How many requests each address may still make: as many as `per_minute` at once, and then at that rate."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may ask again; 0 if it may now, which is counted."""
        if self.per_minute == 0:
            return 0.0
        with self._lock:
            left, then = self._left.pop(address, (float(self.per_minute), now))
            left = min(float(self.per_minute), left + (now - then) * self.per_minute / 60)
            allowed = left >= 1
            self._left[address] = (left - allowed, now)
            while len(self._left) > ADDRESSES:
                self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) * 60 / self.per_minute


class Gate:
    """What is refused before a body is read, or while it is: too many requests of an address (429), too large a body
    (413), one that does not come (408)."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.rates, self.most = app, Rates(limits.per_minute), limits.bytes + FORM
        self.patience = PATIENCE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        wait = self.rates.wait((scope.get("client") or ("", 0))[0], time.monotonic())
        if wait:
            told = f"too many requests: {self.rates.per_minute} are answered in a minute"
            refusal = JSONResponse({"detail": told}, 429, {"Retry-After": str(int(wait) + 1)})
            await refusal(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most:
            await JSONResponse({"detail": self._too_large()}, 413)(scope, receive, send)
            return
        read, whole, ends = 0, False, time.monotonic() + self.patience

        async def counted() -> Message:
            nonlocal read, whole
            if whole:  # what comes now is that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), ends - time.monotonic())
            except TimeoutError:
                raise HTTPException(408, f"the file did not come within {self.patience:g} seconds") from None
            read += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if read > self.most:
                raise HTTPException(413, self._too_large())
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> str:
        return f"the request is larger than the {self.most:,} bytes that are taken"


def make_app(
    service: Service, *, page: bool = False, examples: Sequence[tuple[str, bytes]] = (), hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """The application of a service.

    Args:
        service: what answers.
        page: serve the page for browsers at `/`.
        examples: names and contents of files that the page offers.
        hosts: names under which the server may be asked, against pages that make a browser ask for them.
    """
    app = FastAPI(
        title=f"visionssm: {service.name}", version=visionssm.__version__, docs_url=None, redoc_url=None
    )  # the pages with the documentation would load scripts from elsewhere
    app.add_middleware(Gate, limits=service.limits)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in error.errors()[:5])
        return JSONResponse({"detail": f"{told[:500]} (send the file as the field 'file' of a form)"}, 400)

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse({"detail": str(error)}, error.status, headers)

    statuses = (400, 408, 413, 429, 500, 503)

    @app.post("/predict", response_model=Prediction, responses={status: {"model": Refusal} for status in statuses})
    def predict(
        file: Annotated[UploadFile, File(description="an image, or what else the task takes")],
        pictures: Annotated[bool, Query(description="draw what was found")] = False,
        explain: Annotated[bool, Query(description="show what speaks for the best class")] = False,
    ) -> Response:
        """Apply the model to a file."""
        content = file.file.read(service.limits.bytes + 1)
        answer = service.answer(content, file.filename or "", pictures=pictures, explain=explain)
        return JSONResponse({"model": service.name, **asdict(answer)})

    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether the server runs."""
        return {"status": "ok", "model": service.name, "version": visionssm.__version__}

    @app.get("/model")
    def model() -> dict[str, Any]:
        """The model's card."""
        return service.card()

    if page:
        _add_page(app, examples)
    return app


def _add_page(app: FastAPI, examples: Sequence[tuple[str, bytes]]) -> None:
    """The page, what belongs to it, and the examples that it offers."""
    files = {path.name: (path.read_bytes(), KINDS[path.suffix]) for path in sorted(PAGE.iterdir())}

    @app.get("/", include_in_schema=False)
    def start() -> Response:
        return Response(files["index.html"][0], media_type="text/html", headers=SECURITY)

    @app.get("/page/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, "there is no such part of the page")
        content, kind = files[name]
        return Response(content, media_type=kind, headers=SECURITY)

    @app.get("/examples", include_in_schema=False)
    def names() -> list[str]:
        return [name for name, _ in examples]

    @app.get("/examples/{number}", include_in_schema=False)
    def example(number: int) -> Response:
        if not 0 <= number < len(examples):
            raise HTTPException(404, "there is no such example")
        return Response(examples[number][1], media_type="application/octet-stream", headers=SECURITY)
