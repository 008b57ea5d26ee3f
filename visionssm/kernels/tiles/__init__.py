"""Tiles of the Triton scan by GPU: files of ranges and tiles in this folder, `<GPU name>.json`, before `default.json`.

`visionssm benchmark gpu --tune` writes such a file. Tiles decide on speed alone: saved states lie `saved_apart` steps
from each other whatever they are, so shapes stay the same, and results differ by rounding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from visionssm.files import complete_or_absent

FOLDER = Path(__file__).parent
PASSES = ("forward", "backward")
FEW_STATES = 4

_RANGES = {"states": (1, 64), "rank": (0, 1 << 30), "itemsize": (1, 8)}
_NUMBERS = {"steps": (16, 64), "channels": (16, 256), "num_warps": (1, 8)}
_OPTIONS = {"num_stages": (1, 8), "maxnreg": (32, 255)}
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Tile:
    """Steps × channels that a program holds at once, its warps, the registers that a thread of them may take, stages.

    `maxnreg` and `num_stages` are the compiler's choice if None.
    """

    steps: int
    channels: int
    num_warps: int
    maxnreg: int | None = None
    num_stages: int | None = None


@dataclass(frozen=True)
class Row:
    """A tile for one pass of all scans within ranges, both ends included: of N, of R, of bytes of a number of dt."""

    pass_: str
    states: tuple[int, int]
    rank: tuple[int, int]
    itemsize: tuple[int, int]
    tile: Tile

    def holds(self, pass_: str, d_state: int, rank: int, itemsize: int) -> bool:
        """Whether the row is for such a scan."""
        within = zip((self.states, self.rank, self.itemsize), (d_state, rank, itemsize), strict=True)
        return self.pass_ == pass_ and all(low <= x <= high for (low, high), x in within)


def saved_apart(d_state: int) -> int:
    """Steps between two states that are saved for the backward pass: a function of N alone, whatever the tiles are.

    That is K·N/steps bytes for each byte of a float32 map: 64 steps keep four routes of 16 states at one map.
    """
    return 16 if d_state <= FEW_STATES else 64


def tile_for(pass_: str, d_state: int, rank: int = 0, itemsize: int = 2, *, gpu: str | None = None) -> Tile:
    """The tile of a scan's pass.

    Args:
        pass_: "forward" or "backward".
        d_state: N.
        rank: R of low-rank step sizes.
        itemsize: bytes of one of their numbers.
        gpu: its name; None for the default.

    Raises:
        ValueError: the GPU's table is no table of tiles, or another GPU's.
    """
    rows = (*_own_rows(gpu), *_default_rows())
    return next(row.tile for row in rows if row.holds(pass_, d_state, rank, itemsize))


def path_of(gpu: str) -> Path:
    """Where the table of a GPU is, or would be."""
    return FOLDER / f"{re.sub(r'[^A-Za-z0-9]+', '_', gpu).strip('_')}.json"


@cache
def _default_rows() -> tuple[Row, ...]:
    return read_table(FOLDER / "default.json", "default")


@cache
def _own_rows(gpu: str | None) -> tuple[Row, ...]:
    if gpu is None or not path_of(gpu).exists():
        return ()
    return read_table(path_of(gpu), gpu)


def forget_tables() -> None:
    """Read the files anew when tiles are next asked for."""
    _default_rows.cache_clear()
    _own_rows.cache_clear()


def read_table(path: Path, gpu: str) -> tuple[Row, ...]:
    """The rows of a table.

    Args:
        path: of the file.
        gpu: the name that must be in it.

    Raises:
        ValueError: it is no table of tiles, has tiles that no kernel takes, or is another GPU's.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} has more than {_MOST_BYTES} bytes; that is no table of tiles: remove or rewrite it")
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}): remove it, or write it with visionssm benchmark gpu --tune"
        ) from None
    if not isinstance(table, dict) or not isinstance(table.get("tiles"), list):
        raise ValueError(f"{path} has no list of tiles: remove it, or write it with visionssm benchmark gpu --tune")
    if table.get("gpu") != gpu:
        raise ValueError(
            f"{path} has tiles of {table.get('gpu')!r}, and this is {gpu!r}: measure them here, with --tune"
        )
    return tuple(_row(row, f"{path}: tiles[{i}]") for i, row in enumerate(table["tiles"]))


def write_table(path: Path, gpu: str, rows: Sequence[Row], **about: str) -> None:
    """Write a table that `read_table` reads; `about` says how it came about."""
    tiles = [
        {"pass": r.pass_, "states": r.states, "rank": r.rank, "itemsize": r.itemsize, **asdict(r.tile)} for r in rows
    ]
    with complete_or_absent(path) as temporary:
        temporary.write_text(json.dumps({"gpu": gpu, **about, "tiles": tiles}, indent=1) + "\n", encoding="utf-8")


def _row(row: Any, where: str) -> Row:
    names = {"pass", *_RANGES, *_NUMBERS, *_OPTIONS}
    if not isinstance(row, dict) or set(row) != names:
        raise ValueError(f"{where} is not an object with {', '.join(sorted(names))}")
    if row["pass"] not in PASSES:
        raise ValueError(f"{where}: pass={row['pass']!r} is none of {', '.join(PASSES)}")
    for name, (low, high) in _RANGES.items():
        value = row[name]
        right = isinstance(value, list) and len(value) == 2 and all(type(x) is int for x in value)
        if not right or not low <= value[0] <= value[1] <= high:
            raise ValueError(f"{where}: {name}={value!r} is no range of whole numbers from {low} to {high}")
    for name, (low, high) in _NUMBERS.items():
        value = row[name]
        if type(value) is not int or not low <= value <= high or value & (value - 1):
            raise ValueError(f"{where}: {name}={value!r} is no power of two from {low} to {high}")
    for name, (low, high) in _OPTIONS.items():
        value = row[name]
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise ValueError(f"{where}: {name}={value!r} is neither null nor a whole number from {low} to {high}")
    apart = saved_apart(row["states"][0])
    if apart % row["steps"]:
        raise ValueError(f"{where}: steps={row['steps']} does not divide the {apart} steps between saved states")
    tile = Tile(*(row[name] for name in ("steps", "channels", "num_warps", "maxnreg", "num_stages")))
    (states, rank, itemsize) = ((row[name][0], row[name][1]) for name in _RANGES)
    return Row(row["pass"], states, rank, itemsize, tile)
