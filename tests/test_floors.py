"""Imports run downwards: what the folders of the package may import of each other."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "visionssm"
FLOORS = """
cli
serving
prediction benchmarks catalogue visualization
tasks
integrations
engine heads
backbones pointcloud
checkpoints layers
kernels data drawing
files extras processes
"""
"""From the top down; within a line, and between the folders of `tasks`, there may be arrows but no circles."""

HEIGHTS = {room: height for height, line in enumerate(reversed(FLOORS.split("\n"))) for room in line.split()}


def room_of(module: str) -> str:
    """Folder that a module stands for: "tasks.video" for what is in tasks/video/."""
    parts = module.split(".")[1:]
    return ".".join(parts[: 2 if parts[:1] == ["tasks"] and len(parts) > 2 else 1])


def arrows() -> dict[tuple[str, str], str]:
    """(importing room, imported room) and a line where that is, of all imports, those within functions too."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("visionssm", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = (PACKAGE.parent / Path(*node.module.split("."))).is_dir()
                names = [f"{node.module}.{alias.name}" if inside else node.module for alias in node.names]
            for name in names:
                here, there = room_of(module), room_of(name)
                if name.startswith("visionssm.") and there in HEIGHTS.keys() | {here} | tasks() and here != there:
                    found.setdefault((here, there), f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}")
    return {arrow: line for arrow, line in found.items() if arrow[0] not in ("__init__", "__main__", "")}


def tasks() -> set[str]:
    return {f"tasks.{path.name}" for path in (PACKAGE / "tasks").iterdir() if path.is_dir()}


def height(room: str) -> int:
    return HEIGHTS[room.split(".")[0]]


def test_every_folder_has_a_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py") and not path.name.startswith("_")}
    assert rooms == HEIGHTS.keys()


def test_no_import_runs_up() -> None:
    up = [f"{line} imports {there}" for (here, there), line in arrows().items() if height(there) > height(here)]
    assert not up, "\n".join(up)


def test_no_folders_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {}
    for here, there in arrows():
        below.setdefault(here, set()).add(there)

    def walk(room: str, way: tuple[str, ...]) -> None:
        if room in way:
            circle = (*way[way.index(room) :], room)
            pytest.fail("\n".join(f"{arrows()[pair]} imports {pair[1]}" for pair in pairwise(circle)))
        for other in below.get(room, ()):
            walk(other, (*way, room))

    for room in below:
        walk(room, ())
