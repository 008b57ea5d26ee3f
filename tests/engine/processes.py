"""Training on two gloo processes."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.children import ROOT, environment


def run_on_two_processes(config: Path, *arguments: str) -> None:
    """tools/train.py under torchrun with two processes on this machine; fails with what they printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    command += [f"--master-port={port}", str(ROOT / "tools/train.py"), str(config), "--launcher", "pytorch"]
    variables = environment(OMP_NUM_THREADS="1")
    done = subprocess.run([*command, *arguments], env=variables, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
