"""CONTRIBUTING.md: every place, name and command that its lists mention is there."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import re
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "CONTRIBUTING.md"
TEXT = re.sub(r"(?ms)^ *```.*?^ *```$", "", PAGE.read_text(encoding="utf-8"))
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", TEXT)))
PARTS = re.split(r"(?m)^## ", TEXT)[1:]
# What stands for any family, operator or route, and some of which it must be true.
EXAMPLES = {
    "<family>": ("vim", "groupmamba"),
    "<operator>": ("ssd", "deformable_sum"),
    "<route>": ("ss2d", "zigzag"),
    "<size>": ("*",),
    "<task>": ("segmentation", "video"),
}
OTHERS = {"inputs", "index", "B", "H W", "L", "D", "N", "K", "R", "T", "slow", "device", ".venv", "-n0", "-n4"}


def _expanded(text: str) -> list[str]:
    """The text with every placeholder replaced by each of its examples."""
    found = [text]
    for placeholder, examples in EXAMPLES.items():
        found = [one.replace(placeholder, example) for one in found for example in examples]
    return sorted(set(found))


def _is_place(span: str) -> bool:
    return bool(re.fullmatch(r"[\w<>./*-]+", span)) and ("/" in span or span.endswith((".md", ".py", ".toml")))


@functools.cache
def _names(path: Path) -> frozenset[str]:
    """Every name that a Python file defines, the names of arguments included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).rpartition(".")[2])
    return frozenset(found)


@functools.cache
def _all_names() -> frozenset[str]:
    files = [path for folder in ("visionssm", "tests", "tools") for path in (ROOT / folder).rglob("*.py")]
    return frozenset().union(*(_names(path) for path in files)) | frozenset(dir(builtins))


def _resolves(dotted: str) -> bool:
    """Whether a name with dots leads to something that can be imported."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for part in parts[n:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def _paths_of(text: str) -> list[str]:
    return [word for word in text.split() if _is_place(word)]


@pytest.mark.parametrize("span", [span for span in SPANS if _is_place(span)])
def test_every_place_exists(span: str) -> None:
    for place in _expanded(span):
        assert list(ROOT.glob(place.rstrip("/"))), place


@pytest.mark.parametrize(
    "span", [span for span in SPANS if re.match(r"(\.venv/bin/)?(python|pytest)\b|\w+ check", span)]
)
def test_every_command_is_one(span: str) -> None:
    for command in _expanded(span.partition(" && ")[0]):
        for place in _paths_of(command):
            assert (ROOT / place).exists() or place.startswith(".venv/"), place
        module = re.search(r"-m ([\w.]+)", command)
        assert module is None or _resolves(module[1]), command
        tool = re.search(r"(tools/\w+\.py) ([a-z]+)", command)
        if tool:
            files = [ROOT / tool[1], ROOT / "visionssm" / "cli" / Path(tool[1]).name]
            text = "".join(file.read_text(encoding="utf-8") for file in files if file.exists())
            assert f'add_parser("{tool[2]}"' in text, command


@pytest.mark.parametrize("span", [span for span in SPANS if re.fullmatch(r"[A-Za-z_][\w.]*(\(.*\))?", span)])
def test_every_name_is_defined(span: str) -> None:
    name = span.partition("(")[0]
    if _is_place(span) or span in OTHERS:
        return
    assert _resolves(name) if "." in name else name in _all_names(), span


def _names_in_places() -> list[tuple[str, str]]:
    """Names and the file that is said to have them: "`A` and `B` of `tests/c.py`"."""
    found = []
    listed = r"((?:`\w+(?:\([^`]*\))?`(?:, | and )?)+)\s+(?:of|in)\s+`([\w/.]+\.py)`"
    for names, place in re.findall(listed, TEXT):
        found += [(name, place) for name in re.findall(r"`(\w+)", names)]
    return found


@pytest.mark.parametrize("name, place", _names_in_places())
def test_names_are_in_the_files_where_they_are_said_to_be(name: str, place: str) -> None:
    assert name in _names(ROOT / place)


def test_the_page_says_where_things_are() -> None:
    assert len(_names_in_places()) >= 8
    assert len([span for span in SPANS if _is_place(span)]) >= 40


@pytest.mark.parametrize("part", [part for part in PARTS if part.startswith("Add a")], ids=lambda part: part[:16])
def test_adding_something_is_a_numbered_list(part: str) -> None:
    numbers = [int(number) for number in re.findall(r"(?m)^(\d+)\. ", part)]
    assert len(numbers) >= 4
    assert numbers == list(range(1, len(numbers) + 1))


def test_there_are_lists_for_families_routes_kernels_and_tasks() -> None:
    headings = {part.splitlines()[0] for part in PARTS}
    assert {"Add a family", "Add a route", "Add a kernel", "Add a task"} <= headings


def test_commands_to_set_up_and_test_are_the_readmes() -> None:
    (block,) = blocks(PAGE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert ".[all,dev]" in block.code
    assert ".[all,dev]" in readme
