"""Where the shipped configurations are; tests name them by their file names, which are unique."""

from __future__ import annotations

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"


def shipped_config(name: str) -> Path:
    """The shipped configuration of this name, without `.py`, in whatever folder it is."""
    (path,) = CONFIGS.rglob(f"{name}.py")
    return path


def shipped_configs(pattern: str) -> list[Path]:
    """All shipped configurations whose file names match, at least one, sorted by name; without `_base_`."""
    paths = (path for path in CONFIGS.rglob(pattern) if path.parent.name != "_base_")
    found = sorted(paths, key=lambda path: path.name)
    assert found, pattern
    return found
