"""See the package's docstring."""

from __future__ import annotations

import argparse
import collections
import fcntl
import functools
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tests.mutants
from tests.mutants import forks
from tests.mutants.areas import AREAS, GPU, files_of, tests_of
from tests.mutants.changes import Mutant, choose, mutants_of
from tests.mutants.judge import Judge
from tests.mutants.recording import record

ROOT = Path(__file__).parents[2]
ENOUGH = 0.9


def main(arguments: Sequence[str] | None = None) -> int:
    """Run random mutants; the exit status is 1 if fewer than 90 % were noticed."""
    options = _options(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with open(options.folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"another run uses {options.folder}: choose another --folder")
        copy = _copied(options.folder)
        if options.again:
            chosen = _survivors(options.again)
        else:
            areas = options.area or [area for area in AREAS if area != GPU]
            chosen = choose([files_of(area, ROOT) for area in areas], options.count, random.Random(options.seed), ROOT)
        forks.prepare()
        print(f"{len(chosen)} mutants, {dict(collections.Counter(mutant.area for mutant in chosen))}", flush=True)
        return _run(chosen, Judge(copy, options.budget), options)


def _run(chosen: Sequence[Mutant], judge: Judge, options: argparse.Namespace) -> int:
    records = options.folder / "records"
    records.mkdir(exist_ok=True)
    recorded = functools.cache(lambda file: record(file, judge.copy, records, options.longest))
    total: collections.Counter[str] = collections.Counter()
    noticed: collections.Counter[str] = collections.Counter()
    for number, mutant in enumerate(chosen, start=1):
        begin = time.monotonic()
        verdict = judge.verdict(mutant, map(recorded, tests_of(mutant.path, judge.copy)))
        seconds = f"{time.monotonic() - begin:.0f} s"
        print(f"{number}/{len(chosen)} in {seconds}: {verdict or 'SURVIVED'}\n{mutant.diff()}\n", flush=True)
        total[mutant.area] += 1
        noticed[mutant.area] += verdict is not None
        if not verdict and options.survivors:
            with options.survivors.open("a", encoding="utf-8") as survivors:
                survivors.write(json.dumps([str(mutant.path), mutant.change()]) + "\n")
    for area in total:
        print(f"{area}: {noticed[area]} of {total[area]}")
    share = noticed.total() / max(1, total.total())
    print(f"{noticed.total()} of {total.total()} mutants were noticed, {share:.1%}")
    return 0 if share >= ENOUGH else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=tests.mutants.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("count", type=int, nargs="?", default=20, help="how many mutants (20)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other mutants (0)")
    one = "a folder of the package instead of all, or the Triton kernels; more than one may be given"
    parser.add_argument("--area", action="append", choices=AREAS, help=one)
    parser.add_argument("--budget", type=float, default=30, help="seconds of tests that a mutant must survive (30)")
    longest = "seconds that a test may compute, or else it is left out (60)"
    parser.add_argument("--longest", type=float, default=60, help=longest)
    parser.add_argument("--survivors", type=Path, metavar="FILE", help="add the survivors to this file")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try the survivors in this file instead")
    usual = Path(tempfile.gettempdir()) / f"visionssm-mutants-{os.getuid()}"
    parser.add_argument("--folder", type=Path, default=usual, help=f"for the copy and the records ({usual})")
    return parser.parse_args(arguments)


def _survivors(file: Path) -> list[Mutant]:
    """The mutants of the code of today that change what a file of survivors says."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        path, change = json.loads(line)
        same = [x for x in mutants_of(ROOT / path, ROOT) if x.change() == change] if (ROOT / path).exists() else []
        if not same:
            print(f"{path} has this no more:\n{change}\n")
        found += same[:1]
    return found


def _copied(folder: Path) -> Path:
    """The repository once more; the machine code that an earlier run compiled there stays."""
    copy = folder / "copy"
    for path in copy.rglob("*") if copy.exists() else ():
        if path.is_file() and path.suffix != ".kernel":
            path.unlink()
    ignored = shutil.ignore_patterns(".git", ".venv", "work_dirs", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, copy, ignore=ignored, dirs_exist_ok=True)
    return copy


if __name__ == "__main__":
    sys.exit(main())
