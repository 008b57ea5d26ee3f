"""Several processes that share one piece of work: which one this is, and what they tell each other.

torchrun and slurm start the same command several times and say in environment variables which of them a process is.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:
    import torch
    from torch import distributed

LAUNCHERS = ("none", "pytorch", "slurm")
"""What may have started the processes, as `--launcher` names it."""

_PATIENCE = datetime.timedelta(days=7)
"""How long one process waits for another's part. That a process is gone shows at once, by its connection."""


class LostProcessError(RuntimeError):
    """Another of the processes that share the work has ended."""


def launcher() -> str:
    """How this process was started, as `--launcher` names it: "pytorch" by torchrun, else "none".

    A job step of slurm cannot be told from a shell in an allocation; `--launcher slurm` says that it is one.
    """
    return "pytorch" if "TORCHELASTIC_RUN_ID" in os.environ else "none"


def rank() -> int:
    """Number of this process, from 0 on."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def count() -> int:
    """How many processes share the work; 1 unless torchrun started this one, or `adopt` was told who did."""
    if _have_met():
        from torch import distributed

        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1")) if launcher() == "pytorch" or _adopted else 1


def _have_met() -> bool:
    """Whether PyTorch connects this process with others; those that run exported files alone do not import it."""
    module: Any = sys.modules.get("torch.distributed")
    return module is not None and module.is_initialized()


_adopted = False


def device(name: str) -> torch.device:
    """The device of this process: "cuda" stands for a GPU of its own where several processes run on a machine."""
    import torch

    if name == "cuda" and count() > 1 and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device(name)


def adopt(launched_by: str) -> None:
    """Be one of several processes: what slurm's variables say is said in torchrun's, and those that are set stay.

    Processes that slurm started meet at the first node of the job step, at a port that follows the job's number.

    Args:
        launched_by: "pytorch" or "slurm"; with "none" nothing happens.
    Raises:
        ValueError: the launcher's variables are missing.
    """
    global _adopted
    if launched_by == "slurm":
        if not {"SLURM_PROCID", "SLURM_NTASKS"} <= os.environ.keys():
            raise ValueError("--launcher slurm needs srun: srun --ntasks=PROCESSES python TOOL … --launcher slurm")
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST") or ""
        single = os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")) == "1"
        os.environ.setdefault("RANK", os.environ["SLURM_PROCID"])
        os.environ.setdefault("WORLD_SIZE", os.environ["SLURM_NTASKS"])
        os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1" if single or not nodes else first_host(nodes))
        os.environ.setdefault("MASTER_PORT", str(15000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 16384))
    elif launched_by == "pytorch" and not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        raise ValueError("--launcher pytorch needs torchrun: torchrun --nproc-per-node=GPUS TOOL … --launcher pytorch")
    _adopted = launched_by != "none"


def first_host(nodes: str) -> str:
    """First name of a list of nodes as slurm writes it.

    Example:
        >>> first_host("gpu[03-07,12],login")
        'gpu03'
    """
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", nodes).split(",")[0]


@dataclass(frozen=True)
class Group:
    """The processes that share the work, which may be one alone.

    Attributes:
        rank: number of this one.
        count: how many there are.
        channel: PyTorch's group that they talk in; None for one alone.
    """

    rank: int = 0
    count: int = 1
    channel: distributed.ProcessGroup | None = None

    def gather(self, part: Any) -> list[Any] | None:
        """The parts of all processes in their order, in process 0; None in the others."""
        if self.count == 1:
            return [part]
        from torch import distributed

        parts: list[Any] | None = [None] * self.count if self.rank == 0 else None
        distributed.gather_object(part, parts, dst=0, group=self.channel)
        return parts

    def agree(self, value: Any) -> Any:
        """What process 0 gives, in all of them."""
        if self.count == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.channel)
        return box[0]


@contextlib.contextmanager
def joined(launched_by: str) -> Iterator[Group]:
    """The group of this process, for the time of the block.

    Args:
        launched_by: "none", "pytorch" or "slurm".
    Raises:
        LostProcessError: another process ended before the work was done, or SIGTERM asked this one to end, which is how
            torchrun and slurm end the others.
        ValueError: the launcher's variables are missing.
    """
    adopt(launched_by)
    if launched_by == "none" or count() == 1:
        yield Group()
        return
    from torch import distributed

    with _ended_by_sigterm(), naming_lost_processes():
        distributed.init_process_group("gloo")
        with channel() as patient:
            yield Group(rank(), count(), patient)
        distributed.destroy_process_group()


@contextlib.contextmanager
def channel() -> Iterator[distributed.ProcessGroup]:
    """A group of PyTorch for Python objects of all processes, which waits for them as long as their work takes."""
    from torch import distributed

    group = cast("distributed.ProcessGroup", distributed.new_group(backend="gloo", timeout=_PATIENCE))
    yield group
    distributed.destroy_process_group(group)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM raises an error that says so."""

    def end(number: int, frame: Any) -> NoReturn:
        _let_it_be_told()
        raise LostProcessError(_sentence("SIGTERM ended it"))

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, former)


def _let_it_be_told() -> None:
    """torchrun's SIGTERM, which follows the end of another process, does not stop this one before it has said why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def naming_lost_processes() -> Iterator[None]:
    """Turn PyTorch's errors of connections to processes that are gone into a sentence.

    Raises:
        LostProcessError: so.
    """
    try:
        yield
    except RuntimeError as error:
        if count() == 1:
            raise
        from torch import distributed

        lost = isinstance(error, distributed.DistError) or "gloo/transport" in str(error)
        if not lost:
            raise
        _let_it_be_told()
        raise LostProcessError(_sentence("its connection is closed")) from error


def _sentence(reason: str) -> str:
    return f"another of the {count()} processes that share the work has ended, and so this run ends ({reason})"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing is printed in the block: by the processes that have the same to say as the first."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def is_first_to_say(text: str) -> bool:
    """Whether no other process of this run has asked for the same text; one of them says what all have to say."""
    if count() == 1:
        return True
    from torch import distributed

    with_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not with_agent and not distributed.is_initialized():
        return int(os.environ.get("LOCAL_RANK", "0")) == 0  # nobody to ask yet: one on every machine speaks
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection((address, port), timeout=3).close()  # PyTorch's would print where it failed
        store = distributed.TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=3))
        run = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        said = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
        return cast(int, store.add(f"visionssm/said/{run}/{said}", 1)) == 1
    except (RuntimeError, KeyError, OSError):  # the process that keeps count is gone too
        return True
