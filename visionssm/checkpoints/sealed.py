"""Safetensors files with a digest of their own: the format itself has no checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
from torch import Tensor

DIGEST = "visionssm.sha256"
"""Metadata key of the SHA-256 of all the rest: names, types, shapes, other metadata, values."""

_MARK, _MARKED = "visionssm.sealed", "yes"  # damage to the digest's own name must not make the file one without it
_METADATA = "__metadata__"
_BLOCK = 1 << 22


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file with the digest among its metadata, for `read` to check.

    Args:
        tensors: contiguous and on the CPU, no two of which share memory.
        metadata: further entries.
    """
    plain = safetensors.torch.save(dict(tensors), metadata={"format": "pt", _MARK: _MARKED, **(metadata or {})})
    size = int.from_bytes(plain[:8], "little")
    header, values = json.loads(plain[8 : 8 + size]), memoryview(plain)[8 + size :]
    header[_METADATA][DIGEST] = _digest(header, [values])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values stay aligned
    return b"".join([len(text).to_bytes(8, "little"), text, values])


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        ValueError, safetensors.SafetensorError: it is damaged, or another digest is written in it than it has.
    """
    tensors = safetensors.torch.load_file(path, device="cpu")
    with path.open("rb") as file:
        header = _header(file)
        metadata = header.get(_METADATA) or {}
        written = metadata.get(DIGEST)
        if written is None and any(key.startswith("visionssm") or value == _MARKED for key, value in metadata.items()):
            raise ValueError(f"its metadata are damaged: the digest {DIGEST!r} is missing")
        if written is not None and written != _digest(header, iter(lambda: file.read(_BLOCK), b"")):
            raise ValueError("its content is not what was written: the digest (SHA-256) differs")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file that `read` accepted."""
    with path.open("rb") as file:
        return dict(_header(file).get(_METADATA) or {})


def _header(file: BinaryIO) -> dict[str, Any]:
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert isinstance(header, dict)  # safetensors has read it
    return header


def _digest(header: Mapping[str, Any], values: Any) -> str:
    metadata = {key: value for key, value in header[_METADATA].items() if key != DIGEST}
    text = json.dumps({**header, _METADATA: metadata}, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode())
    for block in values:
        digest.update(block)
    return digest.hexdigest()
