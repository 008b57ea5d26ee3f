"""The mutants of a file: what is changed, and what is not because nobody could notice.

Left out are, by kind:

- what only says something: messages of errors and logs, assertions, annotations, docstrings, imports;
- what only sets how fast the code is: the sizes of tiles, caches and blocks of a file that is read (`_TUNING`), and the
  `num_warps` and `num_stages` of a Triton kernel. Results are the same with every value.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is not": "is", "is": "is not"}
_OPERATORS = {"+": "-", "-": "+", "*": "+", "/": "*", "//": "*", "%": "*", "**": "*"}
_SYMBOLS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is",
    ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**",
}  # fmt: skip
Place = Callable[[ast.AST], tuple[int, int]]
_TALK = (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)
_TALKERS = ("logger", "print_log", "warn")
_TUNING = re.compile(r"TILE|_FLOATS$|WARPS|STAGES|CACHED|MOST_KEPT|MOST_PLANS|MOST_SIGNATURES|_A_THREAD|BAND|^_BLOCK$")
_LAUNCH = ("num_warps", "num_stages", "stacklevel")


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

    @property
    def area(self) -> str:
        """The folder of the package."""
        return self.path.parts[1]

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

    def lines(self) -> range:
        """The numbers of the lines that are changed, from 1."""
        first = self.source[: self.start].count(b"\n") + 1
        return range(first, first + self.source[self.start : self.end].count(b"\n") + 1)

    def change(self) -> str:
        """The changed lines, before and after."""
        lines = self.lines()
        lengthened = self.changed().count(b"\n") - self.source.count(b"\n")
        old, new = self.source.decode().splitlines(), self.changed().decode().splitlines()
        before = [f"- {text}" for text in old[lines.start - 1 : lines.stop - 1]]
        after = [f"+ {text}" for text in new[lines.start - 1 : lines.stop - 1 + lengthened]]
        return "\n".join([*before, *after])

    def diff(self) -> str:
        """Where it is, and the changed lines."""
        return f"{self.path}:{self.lines().start}\n{self.change()}"


def mutants_of(path: Path, root: Path) -> list[Mutant]:
    """Every mutant of a file of the package in a repository; a few are no valid Python."""
    source = path.read_bytes()
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))

    def place(node: ast.AST) -> tuple[int, int]:
        found = node.lineno, node.col_offset, node.end_lineno, node.end_col_offset  # type: ignore[attr-defined]
        return starts[found[0] - 1] + found[1], starts[found[2] - 1] + found[3]

    return [Mutant(path.relative_to(root), source, *change) for change in _changes(ast.parse(source), source, place)]


def choose(areas: Sequence[Sequence[Path]], count: int, generator: random.Random, root: Path) -> list[Mutant]:
    """Valid mutants of lists of files, from each list in proportion to how many it has, but one at least."""
    pools = [[mutant for path in files for mutant in mutants_of(path, root)] for files in areas]
    for pool in pools:
        generator.shuffle(pool)
    size = sum(map(len, pools))
    shares = [max(1, round(count * len(pool) / size)) if pool else 0 for pool in pools]
    chosen = []
    for pool, share in zip(pools, shares):
        valid = (mutant for mutant in pool if mutant.is_valid())
        chosen += [mutant for mutant, _ in zip(valid, range(share))]
    generator.shuffle(chosen)
    return chosen[:count]


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
    """A node and those below it, without what the module's docstring leaves out."""
    if isinstance(node, _TALK) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
        return
    if isinstance(node, ast.Call) and any(name in ast.unparse(node.func).lower() for name in _TALKERS):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not [*_observable(node.value)]:
        return
    if isinstance(node, ast.Assign) and any(isinstance(x, ast.Name) and _TUNING.search(x.id) for x in node.targets):
        return
    if isinstance(node, ast.keyword) and node.arg in _LAUNCH:
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
