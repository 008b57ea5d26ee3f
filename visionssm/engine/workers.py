"""The processes that load data: they outlive signals that are for the training, and their end is told in a sentence."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.registry import DATASETS
from torch.utils.data import DataLoader, IterableDataset

from visionssm.engine.errors import USER_ERRORS, LoaderError

_ENDED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pid>[\d, ]+)\) "
    r"(?:is killed by signal: (?P<signal>[^.]+)|exited unexpectedly(?: with exit code (?P<code>\d+))?)"
)
_FEWER = "--cfg-options train_dataloader.num_workers=0 val_dataloader.num_workers=0"


def leave_signals_to_the_main_process(loader: DataLoader) -> None:
    """Let the workers of a loader live on when Ctrl-C or SIGTERM reach the whole process group.

    The main process still needs them, to finish its step and a validation; it ends them when it ends.
    """
    loader.worker_init_fn = partial(_start, loader.worker_init_fn)


def _start(initialise: Callable[[int], None] | None, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # it tells who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_for_the_main_process, daemon=True).start()
    if initialise is not None:
        initialise(number)


def _end_for_the_main_process() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Say in a sentence that a worker was killed, and what to do; without a worker's traceback what users can mend.

    Raises:
        LoaderError: so.
    """
    try:
        yield
    except USER_ERRORS as error:
        _, found, told = str(error).rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")
        if not found or "Original Traceback" not in str(error):
            raise
        raise type(error)(told.strip()) from None
    except RuntimeError as error:
        ended = _ENDED.search(str(error))
        if ended is None:
            raise
        raise LoaderError(_sentence(ended)) from error


def _sentence(ended: re.Match[str]) -> str:
    who, name, code = f"data-loading process {ended['pid']}", ended["signal"], ended["code"]
    if name == "Bus error":
        return (
            f"{who} found no shared memory left (/dev/shm is full): enlarge it (of a container: --shm-size=8g), or "
            f"load in the main process: {_FEWER}"
        )
    if name in (None, "Killed") and code is None:
        return (
            f"{who} was killed, as by the system when memory runs out: load with fewer processes or none ({_FEWER}), "
            "or with a smaller train_dataloader.batch_size, and go on with --resume"
        )
    how = f"by {name}" if name else f"with status {code}"
    return f"{who} ended {how}; loading in the main process shows where: {_FEWER}"


def loader_config(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a loader without what cannot apply: to no workers, or to a data set with an order of its own."""
    cfg = dict(cfg)
    if not cfg.get("num_workers"):  # what only workers have
        cfg = {key: x for key, x in cfg.items() if key not in ("persistent_workers", "prefetch_factor", "timeout")}
    if _brings_order(cfg.get("dataset")):
        cfg |= {"sampler": None, "persistent_workers": False}
        cfg.pop("batch_sampler", None)
    return cfg


def _brings_order(dataset: Any) -> bool:
    """Whether a data set is a stream: the attribute `brings_order` of its type says so of a config."""
    if not isinstance(dataset, Mapping):
        return isinstance(dataset, IterableDataset)
    kind = dataset.get("type")
    says = getattr(DATASETS.get(kind) if isinstance(kind, str) else kind, "brings_order", None)
    return says is not None and bool(says(**{key: value for key, value in dataset.items() if key != "type"}))
