"""A work folder belongs to one run at a time, and keeps what former runs left in it."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from visionssm.engine.errors import ConfigError

_OF_A_RUN = ("epoch_*.pth", "iter_*.pth", "best.pth", "best.safetensors", "last_checkpoint", "*.png", "*.csv")


def check_writable(folder: str | Path) -> None:
    """Make a folder if it is absent.

    Raises:
        ConfigError: nothing can be written there.
    """
    folder = Path(folder)
    probe = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(bytes(1 << 16))  # a full disk still has room for names
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise ConfigError(
            f"nothing can be written into the work folder {str(folder)!r}: {error}; give --work-dir"
        ) from error


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep other trainings out of a folder; the lock ends with the process, however that ends.

    Raises:
        ConfigError: another training runs there.
    """
    lock = FileLock(Path(folder) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another training runs in {str(folder)!r}: wait for it, or give --work-dir") from None
    try:
        yield
    finally:
        lock.release()


def set_aside(folder: str | Path, load_from: str | None = None) -> tuple[Path | None, str | None]:
    """Move checkpoints and figures of a former run into a folder of their own.

    Args:
        folder: the work folder.
        load_from: a file that the new run starts from, which may be one of them.
    Returns:
        the new folder, None if there was nothing; and where `load_from` is now.
    """
    folder = Path(folder)
    found = [path for pattern in _OF_A_RUN for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not any(path.suffix in (".pth", ".safetensors") for path in found):
        return None, load_from
    aside = folder / f"before_{time.strftime('%Y%m%d_%H%M%S')}"
    number = 1
    while aside.exists():
        aside, number = folder / f"before_{time.strftime('%Y%m%d_%H%M%S')}_{number}", number + 1
    aside.mkdir()
    start = None if load_from is None else Path(load_from).expanduser().resolve()
    for path in found:
        moved = path.resolve() == start
        path.rename(aside / path.name)
        if moved:
            load_from = str(aside / path.name)
    return aside, load_from
