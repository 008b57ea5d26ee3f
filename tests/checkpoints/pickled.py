"""Hand-made pickles in files as `torch.save` writes them, and files of other makers' bad will."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

PROTOCOL = b"\x80\x02"
STOP = b"."


def zipped(pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """A zip file with this pickle as its `data.pkl`, with right checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return buffer.getvalue()


def called(name: str, *arguments: Any) -> bytes:
    """Instructions that call a function or class, `module name`, with plain arguments."""
    inner = pickle.dumps(arguments, protocol=2)[2:-1]
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + inner + b"R"


def tensor(
    shape: tuple[int, ...], stride: tuple[int, ...], *, numel: int, offset: int = 0, kind: str = "Float"
) -> bytes:
    """Instructions for a tensor on the storage "0"."""
    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"Storage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    storage += plain(numel) + b"tQ"
    view = plain(offset) + plain(shape) + plain(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89" + b"ccollections\nOrderedDict\n)RtR"


def plain(value: Any) -> bytes:
    """Instructions for a plain value."""
    return pickle.dumps(value, protocol=2)[2:-1]


def in_model(value: bytes, key: str = "w") -> bytes:
    """A pickle of {"model": {key: value}}."""
    return PROTOCOL + b"}X\x05\x00\x00\x00model}" + plain(key) + value + b"ss" + STOP


def write(folder: Path, content: bytes, name: str = "hostile.pth") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
