"""Whether a mutant is noticed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutants import forks
from tests.mutants.changes import Mutant
from tests.mutants.forks import Ended
from tests.mutants.recording import Recorded

_FIRST = 4.0  # seconds of tests that run first
_FILES = (
    1,
    3,
    8,
)  # whose tests run together, since each run takes some time to start: most mutants need the first only
_SHARE = 1 / 3  # of the budget, for the tests of one file that execute the changed line, and as much for its others
_COMPILING = 300.0  # seconds that changed kernels may take to be compiled
_FAR_BELOW = 3  # how much quicker the unchanged code must be before a mutant without end counts as noticed


def candidates(mutant: Mutant, tests: Sequence[Recorded]) -> tuple[list[Recorded], list[Recorded]]:
    """The tests of a file that execute a changed line, and the others that may notice; none if it is of something else.

    Among the others, first come those that execute another line of the changed file (a constant is read when the module
    is imported), then those of its folder (compiled kernels are not seen), then the rest (what is cached runs in one
    test only). Within each, the quickest are first.
    """
    path, folder = str(mutant.path), f"{mutant.path.parent}/"
    lines = set(mutant.lines())

    def distance(test: Recorded) -> int:
        if not lines.isdisjoint(test.lines.get(path, ())):
            return 0
        return 1 if path in test.lines else 2 if any(x.startswith(folder) for x in test.lines) else 3

    distances = {test.name: distance(test) for test in tests}
    if min(distances.values(), default=3) == 3:
        return [], []
    ranked = sorted(tests, key=lambda test: (distances[test.name], test.seconds, test.name))
    return [x for x in ranked if not distances[x.name]], [x for x in ranked if distances[x.name]]


def within(tests: Sequence[Recorded], seconds: float) -> list[Recorded]:
    """Those of the tests, in their order, that fit into some seconds together; the first in any case."""
    chosen: list[Recorded] = []
    for test in tests:
        if not chosen or sum(x.seconds for x in chosen) + test.seconds <= seconds:
            chosen.append(test)
    return chosen


@dataclass
class Judge:
    """Runs tests on mutants in a copy of the repository.

    Attributes:
        copy: the copy; it is as before after each mutant.
        budget: how many seconds of tests a mutant must survive.
        patience: how many seconds tests may take on a mutant, and ten times what they compute besides.
    """

    copy: Path
    budget: float
    patience: float = 60
    _sound: dict[tuple[str, ...], bool] = field(default_factory=dict)

    def verdict(self, mutant: Mutant, files: Iterable[Sequence[Recorded]]) -> str | None:
        """What notices a mutant, None if it survives the tests of all files, or those that the budget allows.

        A failure counts only if the same tests pass on the unchanged code.
        """
        left, several = self.budget, iter(files)
        for count in itertools.chain(_FILES, itertools.repeat(_FILES[-1])):
            near: list[Recorded] = []
            others: list[Recorded] = []
            group = list(itertools.islice(several, count))
            for tests in group:
                executing, rest = candidates(mutant, tests)
                near += within(executing, self.budget * _SHARE)
                others += within(rest, self.budget * _SHARE)
            every = within([*near, *others], left)
            first = within(every, _FIRST)
            for batch in (first, [test for test in every if test not in first]):
                verdict = self._failure(mutant, batch)
                if verdict:
                    return verdict
            left -= sum(test.seconds for test in every)
            if not group or left <= 0:
                return None
        raise AssertionError("the counts have no end")

    def _failure(self, mutant: Mutant, batch: Sequence[Recorded]) -> str | None:
        names = [test.name for test in batch]
        limit = self.patience + 10 * sum(test.seconds for test in batch)
        limit += _COMPILING if mutant.area == "kernels" else 0
        while names:
            ended = self._run_changed(mutant, names, limit)
            if ended.passed:
                break
            if self._passes_unchanged((ended.failed,) if ended.failed else tuple(names), limit):
                return str(ended)
            print(f"  {ended} on the unchanged code too", flush=True)
            names = [name for name in names if name != ended.failed] if ended.failed else []
        return None

    def _run_changed(self, mutant: Mutant, names: Sequence[str], limit: float) -> Ended:
        target = self.copy / mutant.path
        times = target.stat()
        compiled = self._compiled() if mutant.area == "kernels" else {}
        target.write_bytes(mutant.changed())
        # Byte code of the unchanged file must not be taken for that of the mutant, which differ by the time alone.
        os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns + 10**10))
        try:
            return forks.run_tests(self.copy, names, limit)
        finally:
            target.write_bytes(mutant.source)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
            for path, code in compiled.items():
                if not path.exists() or path.read_bytes() != code:
                    path.write_bytes(code)

    def _compiled(self) -> dict[Path, bytes]:
        """The machine code that is kept of the unchanged kernels, which a mutant's takes the place of."""
        return {path: path.read_bytes() for path in (self.copy / "visionssm").rglob("*.kernel")}

    def _passes_unchanged(self, names: tuple[str, ...], limit: float) -> bool:
        if names not in self._sound:
            self._sound[names] = forks.run_tests(self.copy, names, limit / _FAR_BELOW).passed
        return self._sound[names]
