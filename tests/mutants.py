"""Do the tests notice small changes of the code? python -m tests.mutants 20 [--seed 1] [--area kernels]

Each mutant changes one place in a copy of the repository: a number, a comparison, an operator, a condition, or a
statement that is left out. Then the tests of its area run until the first failure. A mutant that all of them pass has
survived: either it changes nothing that can be observed, or a test is missing. Survivors are printed as a diff.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "visionssm"
AREAS = ("kernels", "layers", "backbones", "data", "engine", "tasks", "prediction", "heads", "checkpoints")

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is not": "is", "is": "is not"}
_OPERATORS = {"+": "-", "-": "+", "*": "+", "/": "*", "//": "*", "%": "*", "**": "*"}
_SYMBOLS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
    ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**",
}  # fmt: skip
Place = Callable[[ast.AST], tuple[int, int]]
# What only says something: its changes cannot be noticed, or need not be.
_TALK = (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class Mutant:
    """One changed place in a file.

    Attributes:
        path: relative to the repository.
        source: the file before the change.
        start, end: the bytes that are replaced.
        text: what comes in their place.
    """

    path: Path
    source: bytes
    start: int
    end: int
    text: str

    def changed(self) -> bytes:
        """The file after the change."""
        return self.source[: self.start] + self.text.encode() + self.source[self.end :]

    def is_valid(self) -> bool:
        """Whether the changed file is Python."""
        try:
            compile(self.changed(), "mutant", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
        return True

    def diff(self) -> str:
        """The changed lines, before and after."""
        source = self.source
        line = source[: self.start].count(b"\n")
        lengthened = self.changed().count(b"\n") - source.count(b"\n")
        last = line + source[self.start : self.end].count(b"\n") + 1
        old, new = source.decode().splitlines(), self.changed().decode().splitlines()
        before = "\n".join(f"- {text}" for text in old[line:last])
        after = "\n".join(f"+ {text}" for text in new[line : last + lengthened])
        return f"{self.path}:{line + 1}\n{before}\n{after}"


def mutants_of(path: Path) -> list[Mutant]:
    """Every mutant of a file of the package; a few are no valid Python."""
    source = path.read_bytes()
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    def place(node: ast.AST) -> tuple[int, int]:
        found = node.lineno, node.col_offset, node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return starts[found[0] - 1] + found[1], starts[found[2] - 1] + found[3]

    return [Mutant(path.relative_to(ROOT), source, *change) for change in _changes(ast.parse(source), source, place)]


def choose(folders: Sequence[Path], count: int, generator: random.Random) -> list[Mutant]:
    """Valid mutants, as many from every folder."""
    left = {folder: [x for path in sorted(folder.rglob("*.py")) for x in mutants_of(path)] for folder in folders}
    for mutants in left.values():
        generator.shuffle(mutants)
    chosen: list[Mutant] = []
    while len(chosen) < count and any(left.values()):
        for mutants in left.values():
            while mutants and not mutants[-1].is_valid():
                mutants.pop()
            if mutants and len(chosen) < count:
                chosen.append(mutants.pop())
    return chosen


def _changes(tree: ast.AST, source: bytes, place: Place) -> Iterator[tuple[int, int, str]]:
    for node in _observable(tree):
        if isinstance(node, ast.Constant):
            start, end = place(node)
            value = node.value
            if isinstance(value, bool):
                yield start, end, str(not value)
            elif isinstance(value, int):
                yield start, end, str(value + 1)
            elif isinstance(value, float):
                yield start, end, repr(value * 1.5 if value else 1.0)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _SYMBOLS:
            symbol = _SYMBOLS[type(node.ops[0])]
            yield from _between(node.left, node.comparators[0], symbol, _COMPARISONS[symbol], source, place)
        elif isinstance(node, ast.BinOp) and type(node.op) in _SYMBOLS:
            symbol = _SYMBOLS[type(node.op)]
            yield from _between(node.left, node.right, symbol, _OPERATORS[symbol], source, place)
        elif isinstance(node, ast.BoolOp):
            symbol, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            yield from _between(node.values[0], node.values[1], symbol, other, source, place)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start, _ = place(node)
            yield start, place(node.operand)[0], ""
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            start, _ = place(node)
            yield start, place(node.operand)[0], "+"
        elif isinstance(node, ast.If | ast.IfExp):
            start, end = place(node.test)
            yield start, end, "False"
        elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield *place(node), "pass"


def _observable(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it, without annotations, docstrings, messages, and what type checkers alone read."""
    if isinstance(node, _TALK) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
        return
    if isinstance(node, ast.Call) and "logger" in ast.dump(node.func).lower():
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _observable(child)


def _between(
    left: ast.expr, right: ast.expr, symbol: str, other: str, source: bytes, place: Place
) -> Iterator[tuple[int, int, str]]:
    """Replace the operator that stands between two expressions."""
    start, end = place(left)[1], place(right)[0]
    at = source[start:end].find(symbol.encode())
    if at >= 0 and b"#" not in source[start:end]:
        yield start + at, start + at + len(symbol), other


def area_tests(path: Path) -> list[str]:
    """The tests of the area of a file of the package, those first that are likely to notice, with pytest's options."""
    parts = path.relative_to("visionssm").with_suffix("").parts
    name = parts[-1]
    match parts:
        case ("kernels", "routes"):
            return ["tests/kernels/test_routes.py", "tests/kernels/test_properties.py"]
        case ("kernels", operator, *_) if (PACKAGE / "kernels" / operator).is_dir():
            gpu = name.startswith("gpu")
            tests = [x for x in (ROOT / "tests" / "kernels").glob("test_*.py") if x.stem.endswith("_gpu") == gpu]
            tests = [x for x in tests if operator in x.name or (not gpu and operator in x.read_text(encoding="utf-8"))]
            tests.sort(key=lambda x: (operator not in x.name, x.name))
            return [str(test.relative_to(ROOT)) for test in tests]
        case ("kernels", *_):
            return ["tests/kernels", "-k", "not gpu"]
        case ("layers", *_):
            own = [test for test in [f"tests/layers/test_{name}.py"] if (ROOT / test).exists()]
            return [*own, "tests/layers", *_tests_of_families(_users_of(name))]
        case ("backbones", family, *_) if not family.startswith("_"):
            return _tests_of_families([family])
        case ("backbones", *_):
            return ["tests/backbones"]
        case ("tasks", task, *_) if (ROOT / "tests" / "tasks" / task).is_dir():
            return [f"tests/tasks/{task}", "tests/tools"]
        case ("prediction", *_):
            return ["tests/tools", "tests/tasks/test_readers.py", "tests/tasks/test_another_task.py"]
        case ("heads", *_):
            return ["tests/tasks/test_published_constants.py", "tests/tasks/detection", "tests/tasks/segmentation"]
        case (area, *_) if (ROOT / "tests" / area).is_dir():
            own = [test for test in [f"tests/{area}/test_{name}.py"] if (ROOT / test).exists()]
            return [*own, f"tests/{area}"]
    return ["tests"]


def _users_of(layer: str) -> list[str]:
    """The families whose files name a class that a file of layers defines, or the file itself."""
    source = (PACKAGE / "layers" / f"{layer}.py").read_text(encoding="utf-8")
    names = [x.name for x in ast.parse(source).body if isinstance(x, ast.ClassDef)]
    pattern = re.compile(rf"\b({'|'.join([*names, rf'layers.{layer}'])})\b")
    files = [path for path in (PACKAGE / "backbones").rglob("*.py") if path.name != "__init__.py"]
    texts = {path.relative_to(PACKAGE / "backbones").parts[0]: path.read_text(encoding="utf-8") for path in files}
    users = [name.removesuffix(".py") for name, text in texts.items() if pattern.search(text)]
    own = sorted(user for user in users if not user.startswith("_"))
    return own if len(own) == len(users) else []  # the common files are used by many


def _tests_of_families(families: Sequence[str]) -> list[str]:
    """The tests of some families, of all if there are none."""
    if not families:
        return ["tests/backbones"]
    own = [f"test_{family}.py" for family in families if (ROOT / "tests" / "backbones" / f"test_{family}.py").exists()]
    common = [f"test_{name}.py" for name in ("published_constants", "conformance", "reference_cases")]
    places = [f"tests/backbones/{name}" for name in [*own, *common]]
    return [*places, "-k", " or ".join([*families, *own])]


def first_failure(path: Path, copy: Path, timeout: float) -> str | None:
    """What the first test of a file's area says that fails in a copy of the repository; None if all pass."""
    command = [sys.executable, "-m", "pytest", "-n0", "-x", "-q", "-p", "no:cacheprovider", *area_tests(path)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if process.wait(timeout) == 0:
                return None
        except subprocess.TimeoutExpired:
            return f"no end within {timeout:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests have started
                process.wait()
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return [*lines[-1:], f"exit status {process.returncode}", *named][-1]


def failure_of(mutant: Mutant, copy: Path, timeout: float) -> str | None:
    """What notices a mutant, None if it survives; the copy of the repository is as before afterwards."""
    target = copy / mutant.path
    target.write_bytes(mutant.changed())
    try:
        return first_failure(mutant.path, copy, timeout)
    finally:
        target.write_bytes(mutant.source)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run random mutants; the exit status is 1 if fewer than 90 % were noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=20, help="how many mutants (20)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other mutants (0)")
    parser.add_argument("--area", choices=AREAS, help="one folder of the package instead of all")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the tests of one mutant (900)")
    parser.add_argument("--unchecked", action="store_true", help="do not first run the tests on the unchanged code")
    options = parser.parse_args(arguments)
    folders = [PACKAGE / area for area in ([options.area] if options.area else AREAS)]
    chosen = choose(folders, options.count, random.Random(options.seed))
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "work_dirs", "__pycache__"))
        sound: dict[str, str | None] = {}
        for number, mutant in enumerate(chosen, start=1):
            tests = " ".join(area_tests(mutant.path))
            if tests not in sound:
                sound[tests] = None if options.unchecked else first_failure(mutant.path, copy, options.timeout)
            if sound[tests] is not None:
                sys.exit(f"{tests} must pass before a mutant is tried: {sound[tests]}")
            begin = time.monotonic()
            failure = failure_of(mutant, copy, options.timeout)
            seconds = f"{time.monotonic() - begin:.0f} s"
            print(f"{number}/{len(chosen)} in {seconds}: {failure or 'SURVIVED'}\n{mutant.diff()}\n", flush=True)
            survivors += [] if failure else [mutant]
    noticed = len(chosen) - len(survivors)
    print(f"{noticed} of {len(chosen)} mutants were noticed, {noticed / len(chosen):.0%}")
    return int(noticed < 0.9 * len(chosen))


if __name__ == "__main__":
    sys.exit(main())
