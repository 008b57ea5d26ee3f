"""The pages that people read, taken apart: code blocks, commands, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*)\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: (?P<reason>[^>]+) -->\s*\Z")
_WITH = re.compile(r"<!-- with: (?P<packages>[\w, ]+) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        line: of the page at which it begins.
        not_run: why it cannot run, from the comment `<!-- not run: … -->` before it; None for blocks that run.
        packages: that it needs beside this one's, from the comment `<!-- with: NAME, NAME -->`; it runs by itself.
    """

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        comment = _NOT_RUN.search(before)
        code = re.sub(f"(?m)^{found['indent']}", "", found["code"])
        reason = comment["reason"] if comment else None
        needed = _WITH.search(before)
        packages = tuple(re.split(r",\s*", needed["packages"])) if needed else ()
        yield Block(page, before.count("\n") + 1, found["language"], code, reason, packages)


def commands(code: str) -> list[str]:
    """The commands of a shell block, with continued lines joined and `&&` taken apart; comments are kept."""
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    return [part.strip() for line in lines for part in line.split(" && ") if part.strip() and not part.startswith("#")]


def without_blocks(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, outside of code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_blocks(page)))


def anchors(page: Path) -> set[str]:
    """What a link to a part of a page may name."""
    headings = re.findall(r"(?m)^#+ (.+)$", without_blocks(page))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}
