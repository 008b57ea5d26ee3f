"""A process of a training that is killed ends the others, which say so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.engine.tiny import write_config
from tests.forks import run_forked
from visionssm.cli import train
from visionssm.engine.loops import ResumableEpochLoop


def test_a_killed_process_ends_a_training_with_one_sentence(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    step = ResumableEpochLoop.run_iter

    def work(rank: int) -> int:
        def dying(loop: ResumableEpochLoop, number: int, batch: object) -> None:
            if rank == 1 and number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            step(loop, number, batch)

        ResumableEpochLoop.run_iter = dying  # type: ignore[method-assign]  # of the forked process alone
        return train.main([str(config), "--work-dir", str(tmp_path / "run")])

    ended = run_forked(2, work, tmp_path / "said")
    assert [x.status for x in ended] == [1, -signal.SIGKILL], ended
    told = [line for line in ended[0].err.splitlines() if "Warning" not in line and "warn" not in line]
    assert told[-1].startswith("error: another of the 2 processes that share the work has ended"), told
    assert "Traceback" not in ended[0].err
