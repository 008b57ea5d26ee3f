"""Archives of `torch.export` (.pt2) opened with as little trust as PyTorch's loader allows.

PyTorch's loader is made for files that one has written oneself: it unpickles, looks up any function of `torch` by name,
and evaluates expressions. What of an archive does that is looked at before the loader sees it, and refused unless it is
what `export_archive` writes: tensors as plain bytes, operators of PyTorch, torchvision and this package, arithmetic on
sizes, and names. That leaves out what is known to run code; it is no proof, and a file of somebody else is better taken
as ONNX.
"""

from __future__ import annotations

import io
import json
import logging
import math
import operator
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import visionssm.backbones  # noqa: F401  registers the operators
from visionssm.data.folders import regular_file
from visionssm.engine.exported import ExportedFileError, Graph, foreign

ABOUT = "about.json"
"""Name of the extra file that holds what an archive says of itself."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOST_RECORDS, _MOST_OF_TEXT, _MOST_NUMBERS = 100_000, 256 << 20, 1 << 20
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|extra/about\.json"
)
_SPACES = ("aten", "visionssm", "torchvision", "higher_order", "prims")
_ARITHMETIC = _words(
    "add sub mul truediv floordiv mod neg pow abs pos eq ne lt le gt ge and_ or_ xor not_ getitem index"
)
_ROUNDING = frozenset(("math.floor", "math.ceil", "math.trunc", "math.sqrt"))
_TARGET = re.compile(rf"torch\.ops\.({'|'.join(_SPACES)})\.([a-z_]\w*(\.[A-Za-z_]\w*)?)|torch\.(sym_\w+|_sym_\w+)")
_REACHES_OUT = re.compile(r"from_file|save|load|print|wait_tensor|_make_dep_token")
_NAME = re.compile(r"[A-Za-z_0-9][\w.]*")
_SYMBOL = re.compile(r"[suzf]+\d+")
_WORD = re.compile(r"[A-Za-z_]\w*")
_INPUT = re.compile(r"L\['\w+'\]")
_FREE_TEXTS = _words(
    "stack_trace nn_module_stack torch_fn source_fn_stack from_node custom in_spec out_spec torch_version as_string"
)
"""Texts that are not looked up and not part of a program."""
_WORDS = _words(
    "Symbol Integer Float Rational Add Mul Pow Min Max Mod PythonMod FloorDiv CleanDiv CeilDiv "
    "ModularIndexing Where CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat "
    "IntTrueDiv FloatTrueDiv PowByNatural FloatPow LShift RShift BitwiseFn_bitwise_and "
    "BitwiseFn_bitwise_or IsNonOverlappingAndDenseIndicator Eq Ne Lt Le Gt Ge Equality Unequality "
    "StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not ITE Identity oo int_oo positive "
    "integer nonnegative real zero negative precision true false True False OpaqueUnaryFn_sqrt sqrt floor "
    "ceiling Abs"
)
_GUARD_WORDS = _words("size and or not torch sym_min sym_max math floor ceil int float min max")
_ALPHABET = re.compile(r"[\w\s+\-*/%()<>=!.,\[\]'&|~]*")
_LOADER = "torch.export"


def open_archive(path: Path) -> Graph:
    """Open an archive of `export_archive` in PyTorch, on the CPU; see `visionssm.engine.exported.open_graph`.

    Raises:
        UnreadableFileError: it cannot be read.
        ExportedFileError: it is damaged, of another program, or holds more than `export_archive` writes.
    """
    content = regular_file(path).read_bytes()
    try:
        records = _records(content, path)
        about = _inspected(records, path)
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.export.load(_rewritten(records))  # and not the file, which others may read otherwise
        module = program.module()
    except ExportedFileError:
        raise
    except Exception as error:  # whatever the loader finds wrong
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:300]
        raise ExportedFileError(f"{str(path)!r} cannot be opened by PyTorch {torch.__version__}: {reason}") from error
    names = program.graph_signature.user_inputs
    (given,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == names[0])
    sides = tuple(side if isinstance(side, int) else str(side) for side in given.meta["val"].shape)
    outputs = about.get("outputs")
    named = tuple(json.loads(outputs)) if outputs is not None else ()
    count = len(program.graph_signature.user_outputs)
    if len(names) != 1 or len(named) != count or given.meta["val"].dtype not in _DTYPES:
        raise ExportedFileError(f"{str(path)!r} does not name its {count} outputs: export it again")

    @torch.inference_mode()
    def run(inputs: np.ndarray) -> Sequence[np.ndarray]:
        found: Any = module(torch.from_numpy(np.require(inputs, requirements=["C", "W"])))
        return [x.numpy() for x in ([found] if isinstance(found, torch.Tensor) else found)]

    return Graph(path, about, names[0], sides, _DTYPES[given.meta["val"].dtype], named, run)


_DTYPES = {torch.float32: np.float32, torch.float16: np.float16}


class _quiet:
    """The loader logs what it raises too."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger(_LOADER)
        self.level = self.logger.level
        self.logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)


def _rewritten(records: dict[str, bytes]) -> io.BytesIO:
    """An archive of these files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
    file.seek(0)
    return file


def _inspected(records: dict[str, bytes], path: Path) -> dict[str, str]:
    """What an archive says of itself, once everything in it has been looked at.

    Raises:
        ExportedFileError: there is something in it that `export_archive` does not write.
    """
    try:
        about = json.loads(records["extra/about.json"])
        model = json.loads(records["models/model.json"])
        configs = [json.loads(records[f"data/{kind}/model_{kind}_config.json"]) for kind in ("weights", "constants")]
    except (ValueError, RecursionError) as error:
        raise ExportedFileError(f"{str(path)!r} cannot be opened, as its texts are damaged: {error}") from None
    except KeyError as error:
        if "extra/about.json" in str(error):
            raise ExportedFileError(foreign(path)) from None
        raise ExportedFileError(f"{str(path)!r} is no whole archive of torch.export: {error} is missing") from None
    told = isinstance(about, dict) and all(isinstance(x, str) for pair in about.items() for x in pair)
    if not told or not about.get("producer", "").startswith("visionssm "):
        raise ExportedFileError(foreign(path))
    for kind, config in zip(("weights", "constants"), configs, strict=True):
        _check_tensors(config, kind, records, path)
    try:
        torch.load(io.BytesIO(records["data/sample_inputs/model.pt"]), weights_only=True)
    except Exception:
        raise _refused(path, "a sample input that is no plain tensor") from None
    for complaint in _complaints(model):
        raise _refused(path, complaint)
    return dict(about)


def _refused(path: Path, what: str) -> ExportedFileError:
    return ExportedFileError(
        f"{str(path)!r} holds {what}, which visionssm export does not write and which may run code: it is not loaded"
    )


def _records(content: bytes, path: Path) -> dict[str, bytes]:
    """The files of an archive by their names below its folder; all are stored as they are, so that none can grow."""
    records: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        folders = {entry.filename.partition("/")[0] for entry in entries}
        if len(entries) > _MOST_RECORDS or len(folders) != 1:
            raise _refused(path, f"{len(entries)} files in {len(folders)} folders")
        for entry in entries:
            name = entry.filename.partition("/")[2]
            if not _RECORDS.fullmatch(name) or name in records:
                raise _refused(path, f"{name!r:.80}")
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content):
                raise _refused(path, f"a compressed {name!r}")
            if name.endswith(".json") and entry.file_size > _MOST_OF_TEXT:
                raise _refused(path, f"{entry.file_size:,} bytes of {name!r}")
            records[name] = archive.read(entry)
    return records


def _check_tensors(config: Any, kind: str, records: dict[str, bytes], path: Path) -> None:
    """Refuse tensors that are not plain bytes, or that would become larger than the file."""
    entries = config.get("config") if isinstance(config, dict) and config.keys() == {"config"} else None
    if any(not _NAME.fullmatch(name) for name in entries or ()):
        raise _refused(path, f"{kind} without a proper name")
    for entry in entries.values() if isinstance(entries, dict) else [None]:
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise _refused(path, f"pickled {kind}")
        name, meta = f"data/{kind}/{entry.get('path_name')}", entry.get("tensor_meta")
        if name not in records or not isinstance(meta, dict):
            raise _refused(path, f"{kind} that are not there")
        sizes = [size.get("as_int", -1) if isinstance(size, dict) else -1 for size in meta.get("sizes") or []]
        if any(type(size) is not int or size < 0 for size in sizes):
            raise _refused(path, f"{kind} of a size that is no number")
        if not records[name] and math.prod(float(size) for size in sizes) > _MOST_NUMBERS:
            raise _refused(path, f"{kind} larger than the file")
        if meta.get("device", {}).get("type") != "cpu":
            raise _refused(path, f"{kind} for another device")


def _complaints(model: Any) -> Iterator[str]:
    """What in the description of a program is not of the kind that `export_archive` writes."""
    for place, value in _texts(model):
        if place == "target":
            known = _TARGET.fullmatch(value)
            plain = value.startswith("_operator.") and value.removeprefix("_operator.") in _ARITHMETIC
            if not (known or plain or value in _ROUNDING) or _REACHES_OUT.search(value):
                yield f"the function {value!r:.80}"
        elif place == "expr_str":
            words = re.findall(r"[A-Za-z_]\w*", value)
            if not _ALPHABET.fullmatch(value) or any(x not in _WORDS and not _SYMBOL.fullmatch(x) for x in words):
                yield f"the expression {value!r:.80}"
        elif place == "guards_code":
            rest = _INPUT.sub("", value)
            if "'" in rest or not _ALPHABET.fullmatch(rest) or not set(_WORD.findall(rest)) <= _GUARD_WORDS:
                yield f"the condition {value!r:.80}"
        elif place not in _FREE_TEXTS and value and not _NAME.fullmatch(value):
            yield f"the name {value!r:.80}"


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """All texts in nested lists and dictionaries, with the name that each has."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, dict):
            for key, part in value.items():
                waiting += [("name", key), (key, part)]
        elif isinstance(value, list):
            waiting += [(place, part) for part in value]


assert all(hasattr(operator, name) for name in _ARITHMETIC)
