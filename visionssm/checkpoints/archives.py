"""PyTorch's two file formats: where the pickle and the tensors' bytes lie, and whether those are undamaged."""

from __future__ import annotations

import contextlib
import io
import logging
import mmap
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from visionssm.checkpoints.makers import Storage, StorageType
from visionssm.checkpoints.pickles import unpickle

_logger = logging.getLogger(__name__)

_BLOCK = 1 << 22
_MAX_RECORDS = 400_000
_LOCAL_HEADER = 30  # bytes before the name
_UTF_8 = 0x800  # flag of a name's encoding
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class _Record:
    """One file of a zip file: its bytes are `start` to `end`."""

    name: str
    start: int
    end: int
    crc: int


class _File:
    """A file's bytes, mapped into memory; parts of it become storages without being copied."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self.bytes)
        self._storage = torch.UntypedStorage.from_file(str(path), False, self.size)  # a change of it stays in memory

    def storage(self, start: int, size: int, alignment: int) -> torch.UntypedStorage:
        """`size` bytes from `start` on."""
        part = self._storage[start : start + size]
        return part.clone() if start % alignment else part


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_File]:
    file = _File(path)
    try:
        yield file
    finally:
        file.bytes.close()


def read_zip(path: Path) -> Any:
    """Read what `torch.save` writes; the tensors stay in the file, memory-mapped, until they are used.

    Raises:
        UnsafePickleError: it names functions or classes that weights do not need.
        ValueError, zipfile.BadZipFile, …: it is damaged, or not of PyTorch.
    """
    with _opened(path) as file:
        records = _records(file, path)
        _check_sums(file, records, path)
        pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("it is a zip file, but not of PyTorch: it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "constants.pkl" in records:
            raise ValueError("it is a program (TorchScript, of torch.jit.save), not weights")
        if folder + "byteorder" in records:
            order = records[folder + "byteorder"]
            _check_byte_order(file.bytes[order.start : order.end].decode("ascii"))

        def read_storage(kind: StorageType, key: str, numel: int) -> Storage:
            record = records.get(f"{folder}data/{key}")
            if record is None:
                raise ValueError(f"the storage {key!r} is missing")
            width = 1 if kind.dtype is None else kind.dtype.itemsize
            size = record.end - record.start
            if kind.dtype is not None and numel * width != size:
                raise ValueError(f"the storage {key!r} has {size:,} bytes, but {numel:,} × {width} are declared")
            return Storage(kind, numel, file.storage(record.start, size, width))

        pickled = records[pickles[0]]
        stream = io.BytesIO(file.bytes[pickled.start : pickled.end])
        return unpickle(stream, pickled.end - pickled.start, read_storage)


def _check_byte_order(order: str) -> None:
    if order != sys.byteorder:
        raise ValueError(f"its numbers are {order}-endian, unlike this machine's; save it on such a machine anew")


def _records(file: _File, path: Path) -> dict[str, _Record]:
    """The files in a zip file, each of which must be stored as it is and have bytes of its own."""
    with zipfile.ZipFile(path) as archive:
        listed = archive.infolist()
    if len(listed) > _MAX_RECORDS:
        raise ValueError(f"it holds more than {_MAX_RECORDS:,} records")
    records: dict[str, _Record] = {}
    end = 0
    for info in sorted(listed, key=lambda info: info.header_offset):
        head = file.bytes[info.header_offset : info.header_offset + _LOCAL_HEADER]
        name_size, extra_size = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
        named = info.header_offset + _LOCAL_HEADER
        start = named + name_size + extra_size
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"its record {info.filename!r} is compressed, which PyTorch never does")
        name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF_8 else "cp437")
        if head[:4] != b"PK\x03\x04" or file.bytes[named : named + name_size] != name:
            raise ValueError(f"its record {info.filename!r} is not where its directory says")
        if info.header_offset < end or start + info.file_size > file.size:
            raise ValueError(f"its record {info.filename!r} overlaps another, or the end of the file")
        if info.filename in records:
            raise ValueError(f"two of its records are called {info.filename!r}")
        end = start + info.file_size
        records[info.filename] = _Record(info.filename, start, end, info.CRC)
    return records


def _check_sums(file: _File, records: dict[str, _Record], path: Path) -> None:
    """Compare every record with the CRC-32 that was written with it."""
    filled = [record for record in records.values() if record.end > record.start]
    if not any(record.crc for record in filled):
        _logger.warning(
            "%s was written without checksums (torch.serialization.set_crc32_options(False)): damage goes unnoticed",
            path,
        )
        return
    for record in filled:
        found = 0
        for start in range(record.start, record.end, _BLOCK):
            found = zlib.crc32(file.bytes[start : min(start + _BLOCK, record.end)], found)
        if found != record.crc:
            raise ValueError(f"its record {record.name!r} has another checksum (CRC-32) than was written")


def read_legacy(path: Path) -> Any:
    """Read what `torch.save` wrote before version 1.6: pickles, then the bytes of the storages. It has no checksums.

    Raises:
        UnsafePickleError: it names functions or classes that weights do not need.
        ValueError, …: it is damaged, or not of PyTorch.
    """
    with _opened(path) as file:
        for wanted in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            if unpickle(file.bytes, file.size, _no_storage) != wanted:
                raise ValueError("it does not start as PyTorch's files do")
        system = unpickle(file.bytes, file.size, _no_storage)
        _check_byte_order("little" if system["little_endian"] else "big")
        start = file.bytes.tell()
        declared: dict[str, tuple[StorageType, int]] = {}

        def declare(kind: StorageType, key: str, numel: int) -> Storage:
            known = declared.setdefault(key, (kind, numel))
            if known != (kind, numel):
                raise ValueError(f"the storage {key!r} is declared in two ways")
            return Storage(kind, numel, None)

        unpickle(file.bytes, file.size, declare)  # the storages follow: their places are not known yet
        places = _places(file, declared)
        file.bytes.seek(start)
        return unpickle(file.bytes, file.size, lambda kind, key, numel: Storage(kind, numel, places[key]))


def _places(file: _File, declared: dict[str, tuple[StorageType, int]]) -> dict[str, torch.UntypedStorage]:
    keys = unpickle(file.bytes, file.size, _no_storage)
    if not isinstance(keys, list) or len(keys) != len(declared) or set(keys) != set(declared):
        raise ValueError("the list of its storages is not that of its tensors")
    places = {}
    for key in keys:
        kind, numel = declared[key]
        if kind.dtype is None:
            raise ValueError("it holds a quantised tensor, in a format of PyTorch before 1.6")
        place = file.bytes.tell()
        written, size = int.from_bytes(file.bytes.read(8), "little"), numel * kind.dtype.itemsize
        if written != numel or place + 8 + size > file.size:
            raise ValueError(
                f"the storage {key!r} is cut off, or {written:,} elements long where {numel:,} are declared"
            )
        places[key] = file.storage(place + 8, size, kind.dtype.itemsize)
        file.bytes.seek(place + 8 + size)
    return places


def _no_storage(kind: StorageType, key: str, numel: int) -> Storage:
    raise ValueError("a tensor stands where there is none in PyTorch's files")
