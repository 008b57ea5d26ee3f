"""The areas of the package, their files, and the tests of each."""

from __future__ import annotations

import importlib.util
from pathlib import Path

TESTS = {
    "kernels": ["kernels"],
    "layers": ["layers", "backbones"],
    "backbones": ["backbones"],
    "data": ["data", "tasks"],
    "engine": ["engine", "tasks"],
    "tasks": ["tasks", "tools", "engine"],
    "prediction": ["tools", "tasks", "engine"],
    "heads": ["heads", "tasks"],
    "checkpoints": ["checkpoints"],
    "pointcloud": ["pointcloud", "tasks"],
    "serving": ["serving"],
    "cli": ["cli", "tools"],
    "integrations": ["integrations", "tasks"],
}
"""The folders of `tests` that hold the tests of a folder of the package."""
GPU = "gpu"
"""An area of its own, the Triton kernels, which the random sample of all areas leaves out: their tests run them in
Triton's interpreter, and take minutes."""
AREAS = (*TESTS, GPU)


def files_of(area: str, root: Path) -> list[Path]:
    """The files of an area; of OpenMMLab's only where it is installed, since without it their tests are skipped."""
    folder = root / "visionssm" / ("kernels" if area == GPU else area)
    files = [path for path in sorted(folder.rglob("*.py")) if _is_gpu(path.relative_to(root)) == (area == GPU)]
    has_openmmlab = importlib.util.find_spec("mmdet") is not None
    return [path for path in files if has_openmmlab or "openmmlab" not in path.parts]


def tests_of(path: Path, root: Path) -> list[Path]:
    """The files of tests of a file of the package, both relative to the repository.

    First come those that have the name of the file and of its folder in their own, then those that mention them.
    """
    gpu = _is_gpu(path)
    names = {path.stem, path.parent.name} - {"__init__", path.parts[1]}
    found = [test for folder in TESTS[path.parts[1]] for test in sorted((root / "tests" / folder).rglob("test_*.py"))]
    found = [test.relative_to(root) for test in found if test.stem.endswith("_gpu") == gpu]

    def distance(test: Path) -> tuple[int, int]:
        text = (root / test).read_text(encoding="utf-8")
        return -sum(name in str(test) for name in names), -sum(name in text for name in names)

    return sorted(found, key=distance)


def _is_gpu(path: Path) -> bool:
    return path.parts[1] == "kernels" and path.name.startswith("gpu")
