"""Files that are damaged or mean harm: an error of ours in good time, or the right weights."""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.checkpoints.files import NAME, saved
from tests.checkpoints.pickled import PROTOCOL, STOP, called, in_model, plain, tensor, write, zipped
from visionssm.checkpoints import CheckpointError, read_checkpoint, sealed, unwrap_state_dict

resource = pytest.importorskip("resource", reason="tells how much memory was taken; POSIX only")

WEIGHTS = {"a.weight": torch.arange(400.0).reshape(50, 8), "a.bias": torch.arange(7.0), "b": torch.arange(3)}


def flips(content: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """The content with one random bit changed, at places spread over all of it."""
    draw = random.Random(0)
    for part in range(count):
        place = draw.randrange(part * len(content) // count, (part + 1) * len(content) // count)
        yield place, content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def loads_right_or_not_at_all(path: Path, wanted: dict[str, torch.Tensor]) -> bool:
    """Whether the file was refused; what is read must be what was written."""
    try:
        read = unwrap_state_dict(read_checkpoint(path))
    except CheckpointError:
        return True
    assert read.keys() == wanted.keys()
    for key, value in wanted.items():
        assert read[key].dtype == value.dtype
        assert torch.equal(read[key], value), f"{key} has other values"
    return False


@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_one_flipped_bit_is_refused_or_changes_no_weight(tmp_path: Path, kind: str) -> None:
    content = saved({"model": WEIGHTS}) if kind == "zip" else sealed.to_bytes(WEIGHTS, {"architecture": NAME})
    path = tmp_path / "flipped"
    refused = 0
    for place, flipped in flips(content, 660):
        path.write_bytes(flipped)
        try:
            refused += loads_right_or_not_at_all(path, WEIGHTS)
        except AssertionError as error:
            raise AssertionError(f"byte {place}: {error}") from error
    assert refused > 250, "headers, paddings and dates apart, a change is noticed"


def test_flipped_bit_in_the_values_names_the_record_and_the_checksum(tmp_path: Path) -> None:
    content = saved({"w": torch.arange(1000.0)})
    place = content.index(torch.arange(1000.0).numpy().tobytes()) + 1234
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    with pytest.raises(CheckpointError, match=r"archive/data/0' has another checksum"):
        read_checkpoint(write(tmp_path, flipped))
    sealed_content = sealed.to_bytes({"w": torch.arange(1000.0)})
    with pytest.raises(CheckpointError, match=r"digest \(SHA-256\) differs"):
        read_checkpoint(write(tmp_path, sealed_content[:-5] + b"\x01" + sealed_content[-4:]))


def test_digest_is_that_of_header_and_values_and_the_file_stays_safetensors(tmp_path: Path) -> None:
    path = write(tmp_path, sealed.to_bytes(WEIGHTS, {"architecture": NAME}))
    torch.testing.assert_close(safetensors.torch.load_file(path), WEIGHTS, rtol=0, atol=0)
    metadata = sealed.read_metadata(path)
    assert metadata["architecture"] == NAME
    assert len(metadata[sealed.DIGEST]) == len(hashlib.sha256().hexdigest())
    assert metadata[sealed.DIGEST] != sealed.read_metadata(write(tmp_path, sealed.to_bytes(WEIGHTS)))[sealed.DIGEST]


def test_file_written_without_checksums_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        content = saved({"w": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(write(tmp_path, content))["w"], torch.ones(3))
    assert "damage goes unnoticed" in caplog.text


ITSELF = PROTOCOL + b"}q\x00X\x05\x00\x00\x00modelh\x00s."
assert pickle.loads(ITSELF)["model"]["model"], "as short as that"


def deep(count: int, start: bytes, each: bytes) -> bytes:
    return PROTOCOL + start + each * count + STOP


def doubled(count: int) -> bytes:
    """A list of two references to a list of two references to …"""
    level = b"".join(b"](h" + bytes([n]) + b"h" + bytes([n]) + b"eq" + bytes([n + 1]) for n in range(count))
    return PROTOCOL + b"]q\x00" + level + STOP


def encoded(count: int) -> bytes:
    """Bytes made of one long text again and again."""
    text = plain("A" * 10_000)
    return PROTOCOL + text[:-2] + b"q\x00" + b"0" + b"](" + b"c_codecs\nencode\nh\x00\x85R" * count + b"e" + STOP


HOSTILE = {
    "itself": (ITSELF, "contains itself"),
    "itself in a list": (PROTOCOL + b"]q\x00h\x00a" + STOP, "contains itself"),
    "nested lists": (deep(100_000, b"]", b"\x85"), "nested more than 64 deep"),
    "key of nested tuples": (PROTOCOL + b"}" + b"K\x01" + b"\x85" * 100_000 + b"K\x01s" + STOP, "nested tuples"),
    "doubled lists": (doubled(60), "too often"),
    "much text": (encoded(20_000), "more than its size accounts for"),
    "huge integer": (PROTOCOL + b"\x8b" + (1 << 20).to_bytes(4, "little") + b"\x7f" * (1 << 20) + STOP, "integer of"),
    "huge array": (PROTOCOL + called("numpy.core.multiarray _reconstruct", (1 << 40,)) + STOP, None),
    "huge bytearray": (PROTOCOL + called("__builtin__ bytearray", 1 << 40) + STOP, "damaged"),
    "compressed bytes": (PROTOCOL + called("_codecs encode", "A" * 99, "hex_codec") + STOP, "way of their own"),
    "tensor of a size alone": (PROTOCOL + called("torch FloatStorage", 1 << 40) + STOP, "damaged"),
    "state of a class": (PROTOCOL + b"cargparse\nNamespace\n}X\x01\x00\x00\x00xK\x01sb" + STOP, None),
    "colliding keys": (PROTOCOL + b"}" + plain(((1 << 61) - 1) * 3) + b"K\x01s" + STOP, "key of 63 bits"),
    "code": (PROTOCOL + called("os system", "true") + STOP, r"wants to run code.*os\.system"),
    "code by getattr": (
        PROTOCOL + b"c__builtin__\ngetattr\n" + plain("x") + b"X\x04\x00\x00\x00join\x86R)R" + STOP,
        "damaged",
    ),
    "code of protocol 4": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", r"os\.system"),
    "terminal escapes": (PROTOCOL + b"c\x1b[31mred\nx\n)R" + STOP, r"\\x1b\[31mred\.x"),
    "other persistent things": (PROTOCOL + b"X\x04\x00\x00\x00hereQ" + STOP, "damaged"),
    "missing storage": (in_model(tensor((2,), (1,), numel=2)), "'0' is missing"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_pickle_is_refused_or_harmless_in_good_time_and_memory(tmp_path: Path, name: str) -> None:
    pickled, message = HOSTILE[name]
    path = write(tmp_path, zipped(pickled))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if message is None:
        read_checkpoint(path)
    else:
        with pytest.raises(CheckpointError, match=message) as caught:
            read_checkpoint(path)
        assert len(str(caught.value)) < 1000
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kilobytes"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (tensor((1 << 40,), (1,), numel=1 << 40), "8 bytes, but 1,099,511,627,776"),
        (tensor((3,), (1,), numel=2), "beyond its storage"),
        (tensor((2,), (1,), numel=2, offset=1), "beyond its storage"),
        (tensor((2,), (1 << 62,), numel=2), "beyond its storage"),
        (tensor((-2,), (1,), numel=2), "no numbers of elements"),
        (tensor((1,) * 100, (1,) * 100, numel=2), "no numbers of elements"),
        (tensor((1 << 40, 1 << 40), (0, 0), numel=2), "'w' is a view that repeats its values"),
        (tensor((1,), (1,), numel=2, kind="QInt8"), "'w' is quantised"),
    ],
)
def test_tensor_that_is_not_in_the_file_is_refused(tmp_path: Path, part: bytes, message: str) -> None:
    path = write(tmp_path, zipped(in_model(part), {"0": bytes(8)}))
    with pytest.raises(CheckpointError, match=message):
        unwrap_state_dict(read_checkpoint(path))


def test_tensors_read_from_the_file_are_what_was_saved_whatever_their_views(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    wanted = {
        "rows": base[1:3],
        "columns": base.T[2:],
        "half": base.half(),
        "wide": base.to(torch.bfloat16),
        "double": base.double(),
        "parameter": torch.nn.Parameter(base.clone()),
        "empty": torch.empty(0, 3),
        "number": torch.tensor(3),
        "unsigned": torch.arange(5).to(torch.uint16),
        "complex": torch.tensor([1 + 2j]),
        "truth": torch.tensor([True, False]),
    }
    for options in ({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}):
        read = read_checkpoint(write(tmp_path, saved(wanted, **options)))
        for key, value in wanted.items():
            torch.testing.assert_close(read[key], value.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("change", ["compressed", "two of one name", "overlapping", "no pickle", "TorchScript"])
def test_zip_file_that_pytorch_does_not_write_is_refused(tmp_path: Path, change: str) -> None:
    good = in_model(tensor((2,), (1,), numel=2))
    if change == "compressed":
        content = zipped(good, {"0": bytes(1 << 20)}, compression=zipfile.ZIP_DEFLATED)
    elif change == "two of one name":
        buffer = io.BytesIO(zipped(good, {"0": bytes(8)}))
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("archive/data/0", bytes(range(8)))
        content = buffer.getvalue()
    elif change == "overlapping":
        content = bytearray(zipped(good, {"0": bytes(8), "1": bytes(8)}))
        entry = content.rindex(b"archive/data/1") - 46
        content[entry + 20 : entry + 28] = (400).to_bytes(4, "little") * 2
    else:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/readme", b"hello")
            if change == "TorchScript":
                archive.writestr("archive/data.pkl", good)
                archive.writestr("archive/constants.pkl", good)
        content = buffer.getvalue()
    message = {
        "compressed": "is compressed",
        "two of one name": "are called|overlaps",
        "overlapping": "overlaps",
        "no pickle": "not of PyTorch",
        "TorchScript": "TorchScript",
    }[change]
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write(tmp_path, bytes(content)))


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_of_the_other_byte_order_are_refused(tmp_path: Path, legacy: bool) -> None:
    other = {"little": "big", "big": "little"}[sys.byteorder]
    if legacy:
        content = saved({"w": torch.ones(3)}, _use_new_zipfile_serialization=False)
        name = content.index(b"little_endian") + len("little_endian")
        place = content.index(b"\x88" if sys.byteorder == "little" else b"\x89", name)
        content = content[:place] + (b"\x89" if sys.byteorder == "little" else b"\x88") + content[place + 1 :]
    else:
        buffer = io.BytesIO(zipped(in_model(tensor((2,), (1,), numel=2)), {"0": bytes(8)}))
        read_checkpoint(write(tmp_path, buffer.getvalue()))
        with zipfile.ZipFile(buffer, "a") as archive:
            archive.writestr("archive/byteorder", other)
        content = buffer.getvalue()
    with pytest.raises(CheckpointError, match=f"{other}-endian"):
        read_checkpoint(write(tmp_path, content))


def test_dictionary_in_memory_that_contains_itself_is_an_error() -> None:
    itself: dict[str, Any] = {}
    itself["model"] = itself
    with pytest.raises(CheckpointError, match="no state dict found"):
        unwrap_state_dict(itself)
