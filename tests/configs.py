"""Where the shipped configurations are; tests name them by their file names, which are unique."""

from __future__ import annotations

from pathlib import Path

import timm

CONFIGS = Path(__file__).parents[1] / "configs"


def shipped_config(name: str) -> Path:
    """The shipped configuration of this name, without `.py`, in whatever folder it is."""
    (path,) = CONFIGS.rglob(f"{name}.py")
    return path


def shipped_configs(pattern: str) -> list[Path]:
    """All shipped configurations whose file names match, at least one, sorted by name.

    Without `_base_`, and without EfficientViM's where timm is older than 1.0.31, which has it.
    """
    absent = {"_base_"} if timm.is_model("efficientvim_m1") else {"_base_", "efficientvim"}
    paths = (path for path in CONFIGS.rglob(pattern) if path.parent.name not in absent)
    found = sorted(paths, key=lambda path: path.name)
    assert found, pattern
    return found
