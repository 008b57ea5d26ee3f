"""The mutation run changes one place at a time, and tells whether a test notices."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests import mutants
from tests.mutants import AREAS, PACKAGE, Mutant, area_tests, choose, mutants_of

FILES = sorted(path for area in AREAS for path in (PACKAGE / area).rglob("*.py") if path.read_text().strip())
SOURCE = '''"""A module."""

LIMIT = 3


def clipped(x: int, *, loud: bool = False) -> int:
    """Not above the limit: 3."""
    if x < 0 and not loud:
        raise ValueError(f"{x + 1} is below {0}")
    return LIMIT if x > LIMIT else x * 2
'''
TEST = """from visionssm.data.clip import clipped

def test_it():
    assert [clipped(x) for x in (0, 1, 2, 3, 4, 5)] == [0, 2, 4, 6, 3, 3]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one file that two of the mutants below can change unnoticed."""
    (tmp_path / "visionssm" / "data").mkdir(parents=True)
    (tmp_path / "visionssm" / "data" / "clip.py").write_text(SOURCE)
    (tmp_path / "tests" / "data").mkdir(parents=True)
    (tmp_path / "tests" / "data" / "test_clip.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path / "visionssm")
    return tmp_path


def _lines(mutant: Mutant) -> str:
    return mutant.changed().decode()


def test_numbers_comparisons_operators_and_conditions_are_changed_and_messages_are_not(project: Path) -> None:
    found = {_lines(mutant) for mutant in mutants_of(project / "visionssm" / "data" / "clip.py")}
    expected = [
        ("LIMIT = 3", "LIMIT = 4"),
        ("loud: bool = False", "loud: bool = True"),
        ("x < 0", "x <= 0"),
        ("x < 0", "x < 1"),
        ("0 and not", "0 or not"),
        ("not loud", "loud"),
        ("if x < 0 and not loud", "if False"),
        ("x > LIMIT", "x >= LIMIT"),
        ("if x > LIMIT else", "if False else"),
        ("x * 2", "x + 2"),
        ("x * 2", "x * 3"),
    ]
    assert found == {SOURCE.replace(before, after, 1) for before, after in expected}


def test_a_mutant_survives_if_and_only_if_the_tests_pass(project: Path) -> None:
    every = {mutant.diff().splitlines()[-1]: mutant for mutant in mutants_of(project / "visionssm/data/clip.py")}
    failure = mutants.failure_of(every["+     return LIMIT if x > LIMIT else x + 2"], project, timeout=60)
    assert failure is not None
    assert "test_clip.py::test_it" in failure
    assert mutants.failure_of(every["+     if False:"], project, timeout=60) is None
    assert (project / "visionssm/data/clip.py").read_text() == SOURCE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_has_tests_that_are_there(path: Path) -> None:
    places = [place for place in area_tests(path.relative_to(mutants.ROOT)) if place.startswith("tests")]
    assert places
    assert places != ["tests"]
    for place in places:
        assert (mutants.ROOT / place).exists(), place


def test_chosen_mutants_are_of_all_areas_valid_and_the_same_for_a_seed() -> None:
    folders = [PACKAGE / area for area in ("layers", "prediction", "heads")]
    chosen = choose(folders, 9, random.Random(3))
    assert chosen == choose(folders, 9, random.Random(3))
    assert [sum(mutant.path.parts[1] == folder.name for mutant in chosen) for folder in folders] == [3, 3, 3]
    assert all(mutant.is_valid() for mutant in chosen)
