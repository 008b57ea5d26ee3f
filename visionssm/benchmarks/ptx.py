"""Execute compiled PTX on the CPU, thread by thread in lockstep, and count the memory that it touches.

What a Triton kernel reads and writes is decided by the compiler as much as by the source: which threads repeat a load,
how wide it is, how often a loop runs. This interpreter runs the very instructions that a GPU would be given, on real
tensors, so that traffic, arithmetic and results of compiled kernels are known where there is no GPU.

It knows the instructions that elementwise kernels, scans, reductions and products of small matrices compile to;
branches must be taken by all threads of a block together. Whatever it does not know, it refuses. (NVIDIA, PTX ISA 8.8)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
from torch import Tensor

from visionssm.benchmarks.ptx_block import (
    Block,
    Instruction,
    Memory,
    OutOfBoundsError,
    Program,
    Trace,
    UnsupportedInstructionError,
)
from visionssm.benchmarks.ptx_instructions import OPERATIONS

__all__ = ["OutOfBoundsError", "Program", "Trace", "UnsupportedInstructionError", "parse", "run"]


@lru_cache(64)
def parse(text: str) -> Program:
    """Parse the one kernel in a PTX file."""
    threads = re.search(r"\.reqntid\s+(\d+)", text)
    head = re.search(r"\.entry\s+\w+\((.*?)\)", text, re.DOTALL)
    if threads is None or head is None:
        raise UnsupportedInstructionError("the text holds no kernel with a fixed number of threads")
    body = text[text.index("{", head.end()) : text.rindex("}")]
    body = re.sub(r"//[^\n]*", "", body)
    body = re.sub(r"(?m)^\s*\.(loc|file|reg|pragma)\b[^\n]*$", "", body)
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for statement in body.split(";"):
        words = " ".join(statement.split()).lstrip("{} ")
        while label := re.match(r"(\$?\w+):\s*", words):
            labels[label[1]] = len(instructions)
            words = words[label.end() :].lstrip("{} ")
        if not words or words.startswith("."):
            continue
        guard = re.match(r"@(!?)(%p\d+)\s+", words)
        words = words[guard.end() :] if guard else words
        name, _, rest = words.partition(" ")
        operands = tuple(re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest))
        instructions.append(
            Instruction(
                name,
                tuple(name.replace("::cta", "").split(".")),
                tuple(o.strip() for o in operands),
                guard[2] if guard else None,
                bool(guard and guard[1]),
            )
        )
    return Program(tuple(instructions), labels, head[1].count(".param"), int(threads[1]))


def run(
    text: str,
    arguments: Mapping[str, Tensor | int | None],
    programs: Iterable[int],
    *,
    shared_bytes: int,
) -> Trace:
    """Execute some programs (thread blocks) of a kernel on CPU tensors, which it changes as a GPU would.

    Args:
        text: PTX of the kernel, compiled for these arguments.
        arguments: all run-time arguments in order; None and 1 were compiled in and are skipped, as Triton does.
        programs: which programs of a one-dimensional grid run, one after the other.
        shared_bytes: shared memory of a program.

    Raises:
        UnsupportedInstructionError: an instruction is unknown, or the threads of a block part ways.
        OutOfBoundsError: memory outside the tensors is touched.
    """
    kernel = parse(text)
    given = {k: v for k, v in arguments.items() if v is not None and not (isinstance(v, int) and v == 1)}
    memory = Memory({k: v for k, v in given.items() if isinstance(v, Tensor)})
    values = [memory.address[k] if isinstance(v, Tensor) else v for k, v in given.items()]
    values += [0] * (kernel.parameters - len(values))  # scratch memory, which these kernels do not ask for
    trace = Trace()
    with np.errstate(all="ignore"):
        for program in programs:
            _execute(Block(kernel, memory, values, program, shared_bytes, trace))
    return trace


def _execute(block: Block) -> None:
    """Walk a program from its first instruction to its return."""
    at, instructions = 0, block.kernel.instructions
    while at < len(instructions):
        one = instructions[at]
        active = block.everyone
        if one.guard is not None:
            active = block.registers[one.guard] != one.negated
        at += 1
        kind = one.parts[0]
        if kind in ("bra", "ret"):
            if active.all():
                if kind == "ret":
                    break
                at = block.kernel.labels[one.operands[0]]
            elif active.any():
                raise UnsupportedInstructionError("threads of one block branch differently")
            continue
        block.trace.executed[one.name] += int(active.sum())
        operation = OPERATIONS.get(kind)
        if operation is None:
            raise UnsupportedInstructionError(f"{one.name} {', '.join(one.operands)}")
        operation(block, one, active)
    for key, touched in block.touched.items():
        block.trace.distinct[key] += int(touched.sum())
