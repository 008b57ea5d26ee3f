"""Compiled kernels as lists of machine instructions, and what their loops cost: counts that need no GPU.

A kernel that walks a sequence spends its time in one loop; how many instructions that loop issues for each step is the
figure that decides on its speed once memory is fast enough, and the compiler's own code tells it. The text is that of
`cuobjdump -sass` (NVIDIA) or the assembly that the compiler wrote (AMD).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_AMD_LABEL = re.compile(r"^([.\w$]+):")
_AMD_INSTRUCTION = re.compile(r"^\s+([a-z]+_[a-z0-9_]+)\s*(.*)$")

# What instructions are called in the two languages.
BARRIERS = ("BAR", "s_barrier")
SHUFFLES = ("SHFL", "ds_bpermute", "ds_permute", "ds_swizzle")
SHARED = ("LDS", "STS", "LDSM", "STSM", "ds_read", "ds_write", "ds_load", "ds_store")
GLOBAL = ("LDG", "STG", "RED", "ATOMG", "global_", "buffer_", "flat_")
LOCAL = ("LDL", "STL", "scratch_")
SPECIALS = ("MUFU", "v_exp_f32", "v_rcp_f32", "v_log_f32", "v_sqrt_f32", "v_rsq_f32")
MATRIX = ("HMMA", "QGMMA", "HGMMA", "UTCHMMA", "v_mfma")


@dataclass(frozen=True)
class Loop:
    """A loop of the machine code: its instructions' names, without those of the loops inside it, and these."""

    names: tuple[str, ...]
    inner: tuple[Loop, ...]

    def count(self, trips: float = 1.0) -> int:
        """Instructions of a turn, where each loop directly inside takes `trips` turns."""
        return round(len(self.names) + sum(trips * x.count() for x in self.inner))

    def of_kind(self, kinds: Sequence[str], trips: float = 1.0) -> int:
        """Those whose names start as one of `kinds`."""
        own = sum(name.startswith(tuple(kinds)) for name in self.names)
        return round(own + sum(trips * x.of_kind(kinds) for x in self.inner))

    def by_name(self) -> Counter[str]:
        """How often each instruction occurs, by the first part of its name; loops inside are left out."""
        return Counter(name.partition(".")[0] for name in self.names)


@dataclass(frozen=True)
class _Instruction:
    place: int
    name: str
    target: int | None  # of a branch


def loops(text: str) -> list[Loop]:
    """The outermost loops of a kernel, in the order of the code."""
    instructions = _sass(text) if "/*0000*/" in text else _amd(text)
    spans: dict[int, int] = {}
    for i, one in enumerate(instructions):
        if one.target is not None and one.target <= i:
            if one.target == i:  # the trap after a kernel's end jumps to itself
                continue
            spans[one.target] = max(spans.get(one.target, 0), i)
    return _nested(instructions, sorted(spans.items()), 0, len(instructions))[1]


def _nested(
    instructions: Sequence[_Instruction], spans: Sequence[tuple[int, int]], first: int, stop: int
) -> tuple[tuple[str, ...], list[Loop]]:
    """Names between two places that lie in no loop, and the loops there."""
    names: list[str] = []
    found = []
    at = first
    while at < stop:
        inside = [(a, b) for a, b in spans if a == at and b < stop and (a, b) != (first - 1, stop - 1)]
        if not inside:
            names.append(instructions[at].name)
            at += 1
            continue
        start, end = inside[0]
        deeper = [(a, b) for a, b in spans if start < a and b <= end]
        own, inner = _nested(instructions, deeper, start, end + 1)
        found.append(Loop(own, tuple(inner)))
        at = end + 1
    return tuple(names), found


def _sass(text: str) -> list[_Instruction]:
    found: list[tuple[str, int | None]] = []
    places: dict[int, int] = {}
    for match in _SASS.finditer(text):
        address, _, name, operands = match.groups()
        places[int(address, 16)] = len(found)
        if name != "NOP":  # which fill the code up
            target = re.search(r"0x([0-9a-f]+)\s*$", operands) if name.startswith("BRA") else None
            found.append((name, int(target[1], 16) if target else None))
    return [_Instruction(i, name, None if to is None else places.get(to)) for i, (name, to) in enumerate(found)]


def _amd(text: str) -> list[_Instruction]:
    found: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _AMD_LABEL.match(line):
            labels[label[1]] = len(found)
        elif one := _AMD_INSTRUCTION.match(line):
            found.append((one[1], one[2].split(";")[0].strip()))
    return [
        _Instruction(i, name, labels.get(operands) if name.startswith(("s_cbranch", "s_branch")) else None)
        for i, (name, operands) in enumerate(found)
    ]
