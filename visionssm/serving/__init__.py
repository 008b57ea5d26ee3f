"""A model as a service: a predictor behind limits, an HTTP endpoint (FastAPI), and a page for a browser.

`Service` answers to the content of a file and knows nothing of HTTP. `make_app` puts it behind `/predict`, `/model` and
`/health`, and `visionssm serve` and `visionssm demo` run that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visionssm.serving.service import Answer, Limits, RefusedError, Service

if TYPE_CHECKING:
    from visionssm.serving.endpoint import make_app

__all__ = ["Answer", "Limits", "RefusedError", "Service", "make_app"]


def __getattr__(name: str) -> Any:
    if name != "make_app":  # which needs the demo extra
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("visionssm.serving.endpoint").make_app
