"""Checkpoint files with random damage and random ill will: an error of ours in good time, or the right weights."""

from __future__ import annotations

import pickle
import pickletools
import random
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.files import authors_file, saved
from tests.checkpoints.pickled import tensor, zipped
from tests.fuzz.cases import case, cases, mutated, watched
from visionssm.checkpoints import CheckpointError, read_checkpoint, sealed, unwrap_state_dict

resource = pytest.importorskip("resource", reason="tells how much memory was taken; POSIX only")

WEIGHTS = {"a.weight": torch.arange(60.0).reshape(5, 12), "a.bias": torch.ones(7).half(), "n": torch.tensor(3)}
CHECKED = {"zip": saved({"model": WEIGHTS, "epoch": 3}), "sealed": sealed.to_bytes(WEIGHTS, {"architecture": "x"})}
pytestmark = pytest.mark.filterwarnings("ignore")  # of pickletools, on escapes in damaged texts

UNCHECKED = {
    "legacy": saved({"model": WEIGHTS, "epoch": 3}, _use_new_zipfile_serialization=False),
    "authors": authors_file(),
}


def read(path: Path, content: bytes) -> Any:
    """What is read, None if it is refused; nothing else may happen, not to the machine either."""
    path.write_bytes(content)
    before, found, message = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None, ""
    with watched() as events:
        try:
            found = read_checkpoint(path)
            unwrap_state_dict(found)
        except CheckpointError as error:
            found, message = None, str(error)
    assert len(message) < 3000
    assert not any(ord(letter) < 32 and letter != "\n" for letter in message), f"control characters in {message!r}"
    asked = [event for event in events if str(path) not in event and "encodings" not in event]
    assert not asked, asked
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "kilobytes"
    return found


@pytest.mark.parametrize("kind", sorted(CHECKED))
def test_damage_to_a_file_with_checksums_is_refused_or_changes_no_weight(kind: str, tmp_path: Path) -> None:
    for number, draw in cases(400):
        with case(number):
            found = read(tmp_path / "damaged.pth", mutated(CHECKED[kind], draw))
            if found is None:
                continue
            state = unwrap_state_dict(found)
            assert state.keys() == WEIGHTS.keys()
            assert all(torch.equal(state[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("kind", sorted(UNCHECKED))
def test_damage_to_a_file_without_checksums_is_refused_or_read(kind: str, tmp_path: Path) -> None:
    for number, draw in cases(150):
        with case(number):
            read(tmp_path / "damaged.pth", mutated(UNCHECKED[kind], draw))


def test_damaged_pickle_with_right_checksums_is_refused_or_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(BytesIO(CHECKED["zip"])) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    pickled = records["data.pkl"]
    storages = {name.removeprefix("data/"): x for name, x in records.items() if name.startswith("data/")}
    for number, draw in cases(400):
        with case(number):
            read(tmp_path / "hostile.pth", zipped(mutated(pickled, draw), storages))


NAMES = [
    *("os system", "posix mkdir", "subprocess Popen", "builtins eval", "builtins getattr", "__builtin__ set"),
    *("__builtin__ bytearray", "collections OrderedDict", "torch FloatStorage", "torch._utils _rebuild_tensor_v2"),
    *("torch._utils _rebuild_parameter", "torch._utils _rebuild_qtensor", "torch._tensor _rebuild_from_type_v2"),
    *("torch Size", "torch device", "torch float32", "torch load", "argparse Namespace", "_codecs encode"),
    *("numpy dtype", "numpy ndarray", "numpy.core.multiarray scalar", "numpy._core.multiarray _reconstruct"),
    *(
        "pathlib PosixPath",
        "yacs.config CfgNode",
        "visionssm.checkpoints.read read_checkpoint",
        "timm.models create_model",
    ),
]
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        1,
        -1,
        255,
        1 << 31,
        1 << 40,
        1 << 62,
        -(1 << 70),
        1 << 2000,
        0.5,
        1e300,
        float("nan"),
        "",
        "model",
    ),
    *("state_dict", "latin1", "f4", "O", "<", "0", "../../etc/passwd", "x" * 5000, b"", b"\0" * 16, (), (1,), (2, 3)),
)
BARE = [
    opcode.code.encode("latin1")
    for opcode in pickletools.opcodes
    if opcode.arg is None and opcode.name not in ("STOP", "PROTO")
]


def program(draw: random.Random) -> bytes:
    """Instructions in random order, more often than by chance such as have an effect."""
    parts = [b"\x80\x02", b"}", b"(", b"]"]
    for _ in range(draw.choice((3, 10, 40, 200))):
        match draw.randrange(10):
            case 0 | 1:
                parts.append(pickle.dumps(draw.choice(VALUES), protocol=3)[2:-1])
            case 2:
                parts.append(b"c" + draw.choice(NAMES).replace(" ", "\n").encode() + b"\n")
            case 3:
                parts.append(b"c" + draw.choice(NAMES).replace(" ", "\n").encode() + b"\n")
                values = tuple(draw.choice(VALUES) for _ in range(draw.randrange(4)))
                parts.append(pickle.dumps(values, protocol=3)[2:-1] + draw.choice((b"R", b"\x81")))
            case 4:
                sizes = [draw.choice((0, 1, 2, 3, 1 << 20, 1 << 62)) for _ in range(draw.randrange(4))]
                steps = [draw.choice((0, 1, 2, 1 << 40)) for _ in sizes]
                parts.append(
                    tensor(
                        tuple(sizes), tuple(steps), numel=draw.choice((4, 1 << 40)), offset=draw.choice((0, 1, 1 << 60))
                    )
                )
            case 5:
                parts.append(draw.choice((b"q", b"h")) + bytes([draw.randrange(4)]))
            case 6:
                parts.append(draw.choice((b"b", b"s", b"u", b"a", b"e", b"\x90", b"R", b"\x81", b"Q", b"2", b"0")))
            case 7:
                parts.append(
                    draw.choice((b"\x8b", b"\x8d", b"\x8e", b"B", b"X", b"T"))
                    + struct.pack("<I", draw.choice((3, 1 << 31)))
                )
            case _:
                parts.append(draw.choice(BARE))
    return b"".join(parts) + draw.choice((b".", b"s.", b"u.", b"e.", b""))


def test_random_pickle_programs_are_refused_or_read(tmp_path: Path) -> None:
    for number, draw in cases(600):
        with case(number):
            read(tmp_path / "hostile.pth", zipped(program(draw), {"0": bytes(16)}))
