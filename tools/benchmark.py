#!/usr/bin/env python
"""Benchmarks, as ratios of medians in one run: `tools/benchmark.py kernels`."""

from __future__ import annotations

import argparse

import torch

from visionssm.benchmarks import kernels
from visionssm.benchmarks.timing import machine, table, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scan = commands.add_parser("kernels", help="the selective scan on the CPU against published implementations")
    scan.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="batch sizes (default: 1 8)")
    scan.add_argument("--seconds", type=float, default=6.0, help="time for each row (default: 6)")
    scan.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    scan.add_argument("--json", default="work_dirs/benchmark_kernels.json", help="where to write the figures")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    rows = kernels.run(batches=tuple(options.batches), seconds=options.seconds)
    print(table(rows))
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine().items()))
    write_json(options.json, rows)


if __name__ == "__main__":
    main()
