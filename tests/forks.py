"""Several processes of one run as copies of the test's own process, which cost no import of PyTorch."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch


def start_autograd() -> None:
    """Let copies of this process run backward passes, whatever it does until then.

    The first backward pass of a process starts a thread for every GPU, and copies of a process with such threads may
    run none. Tracing with fake tensors makes PyTorch see a GPU where there is none; so a pass has to come before it.
    """
    torch.ones(1, requires_grad=True).sum().backward()


start_autograd()  # when tests are collected, which is before the first one


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status (−9 for SIGKILL) and what it printed."""

    status: int
    out: str
    err: str


def run_forked(count: int, work: Callable[[int], Any], folder: Path, *, by: str = "torchrun") -> list[Ended]:
    """Run `work(rank)` in `count` processes with the variables that torchrun or slurm ("slurm") sets.

    What `work` returns is the exit status; None is 0, and an exception is a traceback and 1.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    children = []
    sys.stdout.flush()
    sys.stderr.flush()
    for rank in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's threads stay behind: the child has one
            child = os.fork()
        if child == 0:
            os._exit(_child(rank, count, port, work, folder, by))
        children.append(child)
    statuses = _wait(children, seconds=400)
    return [
        Ended(status, *((folder / f"{rank}.{stream}").read_text() for stream in ("out", "err")))
        for rank, status in enumerate(statuses)
    ]


def _child(rank: int, count: int, port: int, work: Callable[[int], Any], folder: Path, by: str) -> int:
    try:
        for number, stream in enumerate(("out", "err"), start=1):
            os.dup2(os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "TORCHELASTIC_RUN_ID": 1}
        own |= {"MASTER_ADDR": "127.0.0.1"}
        if by == "slurm":
            own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": count, "SLURM_NNODES": 1}
            own |= {"SLURM_NODELIST": "node01"}
        os.environ |= {key: str(value) for key, value in own.items()} | {"MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        status = work(rank)
        return 0 if status is None else int(status)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _wait(children: list[int], seconds: float) -> list[int]:
    """Exit statuses; children that take longer are killed."""
    statuses: dict[int, int] = {}
    end = time.monotonic() + seconds
    while len(statuses) < len(children):
        for child in children:
            if child not in statuses:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    statuses[child] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return [statuses[child] for child in children]
