"""Ctrl-C and SIGTERM end a training after the step in hand, with a checkpoint to go on from."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A training was asked to stop, and did. `status`: the exit status that shells expect."""

    def __init__(self, number: int, checkpoint: str | None) -> None:
        told = f"saved {checkpoint}; go on with --resume" if checkpoint else "nothing was saved"
        super().__init__(f"stopped by {signal.Signals(number).name}: {told}")
        self.status = 128 + number


class Requests:
    """The signal that asked to stop, if one did; a second one ends the process at once."""

    def __init__(self, tell: Any) -> None:
        self.signal = 0
        self._tell = tell

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take both signals over, in the main thread; elsewhere nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        former = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        self.signal = number
        self._tell(f"{signal.Signals(number).name}: the step in hand is finished and saved; once more to stop at once")
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def agreed(self) -> int:
        """The signal, the same in all processes: they must leave their loops after the same step."""
        if get_world_size() == 1:
            return self.signal
        number = torch.tensor(self.signal)
        if torch.cuda.is_available():
            number = number.cuda()
        all_reduce(number, op="max")
        return int(number)
