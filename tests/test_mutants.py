"""The mutation run changes one place at a time, and tells whether a test notices."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.mutants import areas, forks
from tests.mutants.areas import AREAS, GPU, TESTS, files_of
from tests.mutants.changes import Mutant, choose, mutants_of
from tests.mutants.judge import Judge, candidates, within
from tests.mutants.recording import Recorded

ROOT = Path(__file__).parents[1]
FILES = [path for area in AREAS for path in files_of(area, ROOT) if path.read_text(encoding="utf-8").strip()]
SOURCE = '''"""A module."""

LIMIT = 3
TILE = 16


def clipped(x: int, *, loud: bool = False) -> int:
    """Not above the limit: 3."""
    if x < 0 and not loud:
        warnings.warn(f"{x} is below {0}", stacklevel=2)
        raise ValueError(f"{x + 1} is below {0}")
    return LIMIT if x > LIMIT else x * 2
'''
PACKAGE = """
import functools

@functools.cache
def table():
    return [3, 4]

def third(x):
    return table()[0] * x

def unused(x):
    return x + 1
"""
TEST = """
import pytest
from visionssm.data.clip import table, third

@pytest.fixture(scope="module")
def tripled():
    return third(5)

def test_a():
    assert len(table()) == 2

def test_b():
    assert table()[1] == 4

def test_c(tripled):
    assert tripled == 15

def test_fails():
    assert third(1) == 4
"""


def _mutants(folder: Path, source: str) -> dict[str, Mutant]:
    """The mutants of a file of a repository, by the last line of their changes."""
    path = folder / "visionssm" / "data" / "clip.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return {mutant.change().splitlines()[-1]: mutant for mutant in mutants_of(path, folder)}


def test_numbers_comparisons_operators_and_conditions_are_changed_but_neither_messages_nor_tiles(
    tmp_path: Path,
) -> None:
    found = {mutant.changed().decode() for mutant in _mutants(tmp_path, SOURCE).values()}
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


def test_a_mutant_knows_its_lines(tmp_path: Path) -> None:
    mutant = _mutants(tmp_path, SOURCE)["+     return LIMIT if x > LIMIT else x + 2"]
    assert list(mutant.lines()) == [12]
    assert mutant.area == "data"
    assert mutant.diff() == (
        "visionssm/data/clip.py:12\n"
        "-     return LIMIT if x > LIMIT else x * 2\n"
        "+     return LIMIT if x > LIMIT else x + 2"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "visionssm")))
def test_every_file_has_tests_that_are_there(path: Path) -> None:
    found = areas.tests_of(path.relative_to(ROOT), ROOT)
    assert found
    assert all((ROOT / test).is_file() for test in found)


def test_every_folder_with_tests_is_that_of_an_area() -> None:
    assert all((ROOT / "visionssm" / area).is_dir() for area in TESTS)
    assert all((ROOT / "tests" / folder).is_dir() for folders in TESTS.values() for folder in folders)
    gpu = {test.name for test in areas.tests_of(Path("visionssm/kernels/ssd/gpu_kernels.py"), ROOT)}
    cpu = {test.name for test in areas.tests_of(Path("visionssm/kernels/ssd/cpu_kernels.py"), ROOT)}
    assert "test_ssd_gpu.py" in gpu
    assert "test_ssd.py" in cpu
    assert not gpu & cpu
    assert not set(files_of(GPU, ROOT)) & set(files_of("kernels", ROOT))


@pytest.mark.parametrize(
    "path, test",
    [
        ("tasks/segmentation/data.py", "tasks/segmentation/test_data.py"),
        ("kernels/cpu/math.py", "kernels/test_cpu_math.py"),
        ("backbones/convs5/layer.py", "backbones/test_convs5.py"),
    ],
)
def test_tests_with_the_name_of_the_file_come_first(path: str, test: str) -> None:
    assert areas.tests_of(Path("visionssm") / path, ROOT)[0] == Path("tests") / test


def test_chosen_mutants_are_of_all_areas_in_proportion_valid_and_the_same_for_a_seed() -> None:
    files = [files_of(area, ROOT) for area in ("layers", "prediction", "backbones")]
    chosen = choose(files, 40, random.Random(3), ROOT)
    assert chosen == choose(files, 40, random.Random(3), ROOT)
    assert chosen != choose(files, 40, random.Random(4), ROOT)
    counts = Counter(mutant.area for mutant in chosen)
    assert counts.keys() == {"layers", "prediction", "backbones"}
    assert counts["backbones"] > counts["layers"] > counts["prediction"]
    assert all(mutant.is_valid() for mutant in chosen)


def test_tests_that_execute_the_changed_line_come_before_those_of_its_file_and_of_its_folder(tmp_path: Path) -> None:
    mutant = _mutants(tmp_path, SOURCE)["+     return LIMIT if x > LIMIT else x + 2"]
    path = "visionssm/data/clip.py"
    tests = [
        Recorded("tests/a.py::cached", 0.1, {"visionssm/engine/x.py": {12}}),
        Recorded("tests/a.py::folder", 0.2, {"visionssm/data/images.py": {12}}),
        Recorded("tests/a.py::file", 0.3, {path: {9}}),
        Recorded("tests/a.py::slow", 50.0, {path: {12}}),
        Recorded("tests/a.py::quick", 0.4, {path: {9, 12}}),
    ]
    near, others = ([test.name.rpartition(":")[2] for test in found] for found in candidates(mutant, tests))
    assert near == ["quick", "slow"]
    assert others == ["file", "folder", "cached"]
    assert candidates(mutant, tests[:1]) == ([], [])


def test_tests_stay_within_some_seconds_but_one_runs_in_any_case() -> None:
    tests = [Recorded(f"tests/a.py::{index}", seconds, {}) for index, seconds in enumerate([1.0, 2.0, 3.0, 90.0, 4.0])]
    assert [test.seconds for test in within(tests, 10)] == [1.0, 2.0, 3.0, 4.0]
    assert [test.seconds for test in within(tests, 5)] == [1.0, 2.0]
    assert [test.seconds for test in within(tests[3:], 20)] == [90.0]
    assert within([], 20) == []


def test_files_of_tests_are_tried_until_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = _mutants(tmp_path, SOURCE)["+     return LIMIT if x > LIMIT else x + 2"]
    lines = {"visionssm/data/clip.py": {12}}
    files = [[Recorded(f"tests/{n}.py::{x}", 1.0, lines) for x in "ab"] for n in range(20)]
    ran = []

    def run_tests(copy: Path, names: list[str], seconds: float) -> forks.Ended:
        ran.extend(names)
        return forks.Ended(0, 1.0, "")

    monkeypatch.setattr(forks, "run_tests", run_tests)
    assert Judge(tmp_path, budget=20).verdict(mutant, files) is None
    assert ran == [f"tests/{n}.py::{x}" for n in range(10) for x in "ab"]
    ran.clear()
    assert Judge(tmp_path, budget=90).verdict(mutant, files) is None
    assert len(ran) == 40


@pytest.mark.parametrize("quick", [True, False])
def test_a_mutant_without_end_is_noticed_if_the_unchanged_code_ends_far_earlier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    mutant = _mutants(tmp_path, SOURCE)["+     return LIMIT if x > LIMIT else x + 2"]
    test = Recorded("tests/a.py::quick", 2.0, {"visionssm/data/clip.py": {12}})
    limits = []

    def run_tests(copy: Path, names: list[str], seconds: float) -> forks.Ended:
        limits.append(seconds)
        changed = (copy / mutant.path).read_bytes() != mutant.source
        return forks.Ended(None if changed or not quick else 0, seconds, "")

    monkeypatch.setattr(forks, "run_tests", run_tests)
    verdict = Judge(tmp_path, budget=30, patience=10).verdict(mutant, [[test]])
    assert verdict == ("no end within 30 s" if quick else None)
    assert limits == [30, 10]


PROGRAM = """
import json, pathlib, sys
from tests.mutants import forks
from tests.mutants.changes import mutants_of
from tests.mutants.judge import Judge
from tests.mutants.recording import record

copy = pathlib.Path(sys.argv[1])
records = copy.parent / "records"
records.mkdir()
tests = record(pathlib.Path("tests/data/test_clip.py"), copy, records)
path = copy / "visionssm/data/clip.py"
source = path.read_text()
judge = Judge(copy, budget=30, patience=600)
every = {mutant.change().splitlines()[-1].strip("+ "): mutant for mutant in mutants_of(path, copy)}
verdicts = {text: judge.verdict(every[text], [tests]) for text in sys.argv[2:]}
recorded = {x.name.partition("::")[2]: sorted(x.lines.get("visionssm/data/clip.py", ())) for x in tests}
unchanged = path.read_text() == source
again = record(pathlib.Path("tests/data/test_clip.py"), copy, records) == tests
print(json.dumps([recorded, verdicts, unchanged, again]))
"""


def test_mutants_survive_if_and_only_if_the_tests_that_pass_otherwise_pass(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    _mutants(copy, PACKAGE)
    (copy / "tests" / "data").mkdir(parents=True)
    (copy / "tests" / "data" / "test_clip.py").write_text(TEST)
    (copy / "pytest.ini").write_text("[pytest]")
    expected = {"return [3, 5]": "test_b", "return table()[0] + x": "test_c", "return x + 2": None}
    command = [sys.executable, "-c", PROGRAM, str(copy), *expected]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    recorded, verdicts, unchanged, again = json.loads(done.stdout.splitlines()[-1])
    assert recorded == {"test_a": [4, 6], "test_b": [], "test_c": [8, 9]}
    assert verdicts == {text: test and f"tests/data/test_clip.py::{test}" for text, test in expected.items()}
    assert unchanged
    assert again
