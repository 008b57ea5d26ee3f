"""What mkdocs does to the pages: tables that are computed, and files of the repository's root."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the model zoo's rows, and whole files, where comments ask for them."""
    if "<!-- model zoo -->" in markdown:
        markdown = markdown.replace("<!-- model zoo -->", _model_zoo())
    if "<!-- citations -->" in markdown:
        markdown = markdown.replace("<!-- citations -->", _citations())
    if "<!-- segmenters -->" in markdown:
        markdown = markdown.replace("<!-- segmenters -->", _segmenters())
    return re.sub(r"<!-- file: (\S+) -->", lambda found: _file(found[1]), markdown)


def _model_zoo() -> str:
    from visionssm.catalogue.zoo import HEADER, rows

    return "\n".join((*HEADER, *rows()))


def _citations() -> str:
    from visionssm.catalogue.zoo import citations

    return "\n\n".join(citations())


def _segmenters() -> str:
    from visionssm.benchmarks.segmenters import HEADER, rows

    return "\n".join((*HEADER, *rows()))


def _file(name: str) -> str:
    """A file of the root, whose links to pages become those of a page."""
    return re.sub(r"\]\(docs/", "](", (ROOT / name).read_text(encoding="utf-8"))
