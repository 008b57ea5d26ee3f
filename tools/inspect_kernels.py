#!/usr/bin/env python3
"""What the GPU kernels cost, without a GPU: tools/inspect_kernels.py [--json FILE] [--markdown FILE]

Compiles every operator's kernels for every target, executes the compiled scan on this machine's CPU to count what it
does, and prints four tables: resources (registers, spills, shared memory), traffic (bytes at the least, in our layout
and in the published one), floors (the least time by data sheets) and instructions (what the machine code of the scan
issues for 32 channels and one step, beside the published kernel). Nothing is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatch

import torch

from visionssm.benchmarks.inspection import floor_rows, markdown, resources, traffic_rows, write_tables
from visionssm.benchmarks.instructions import instruction_rows
from visionssm.benchmarks.kernels import SHAPES
from visionssm.kernels.aot import TARGETS

TABLES = ["resources", "traffic", "floors", "instructions"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS),
                        help="of the tables of resources and instructions")  # fmt: skip
    parser.add_argument("--shapes", nargs="+", metavar="PATTERN", default=["*"], help="scans, e.g. 'VMamba-T*'")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 128])
    parser.add_argument("--json", help="write the tables to this file")
    parser.add_argument("--markdown", help="write the tables to this file")
    options = parser.parse_args(arguments)
    shapes = [x for x in SHAPES if any(fnmatch(x.name, pattern) for pattern in options.shapes)]
    if not shapes:
        parser.error(f"no scan matches {' '.join(options.shapes)}; there are: {', '.join(x.name for x in SHAPES)}")
    if min(options.batches) < 1:
        parser.error("--batches must be at least 1")
    dtype = DTYPES[options.dtype]
    make = {
        "resources": lambda: resources(options.targets, dtype),
        "traffic": lambda: traffic_rows(shapes, options.batches, dtype),
        "floors": lambda: floor_rows(shapes, options.batches, dtype),
        "instructions": lambda: instruction_rows([x.name for x in shapes], options.targets, dtype),
    }
    try:
        tables = {name: make[name]() for name in options.tables}
        print(markdown(tables), end="")
        write_tables(tables, json_path=options.json, markdown_path=options.markdown)
    except (ImportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
