"""What the names in PyTorch's pickles stand for, and the making of it: numbers, containers, tensors, inert records."""

from __future__ import annotations

import argparse
import collections
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from visionssm.checkpoints.extent import Record

MAX_TENSORS = 200_000
MAX_DIMENSIONS = 64
MAX_KEY = 1 << 60  # greater integers all share their hashes with smaller ones: dictionaries of them take for ever


@dataclass(frozen=True)
class UnfitTensor:
    """Stands for a tensor of a kind that no weight here has (sparse, quantised, …); it is an error only where used."""

    kind: str


@dataclass(frozen=True)
class StorageType:
    """Element type of a storage; None for one that is not read here."""

    dtype: torch.dtype | None
    name: str


@dataclass(frozen=True)
class Storage:
    """A tensor's memory as the file declares it.

    Attributes:
        content: as many bytes as declared; None while the places in the file are still being found.
    """

    kind: StorageType
    numel: int
    content: torch.UntypedStorage | None


StorageReader = Callable[[StorageType, str, int], Storage]
"""Element type, key and number of elements to the storage; raises ValueError if the file does not have as many."""


@dataclass(frozen=True)
class Refused:
    """Stands for what the file named and must not have."""


@dataclass(frozen=True)
class Named:
    """A name of the table on the stack, before it is called."""

    name: str


@dataclass
class NumpyType:
    """A NumPy dtype: code and byte order; numbers, and text of up to 999 letters."""

    code: str
    order: str = "="

    def resolve(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder(cast(Any, self.order))


_DTYPES: dict[str, torch.dtype | None] = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
    **dict.fromkeys(("QUInt8", "QInt8", "QInt32", "QUInt4x2", "QUInt2x4")),
}
_STORAGES = {f"{name}Storage": StorageType(dtype, f"{name}Storage") for name, dtype in _DTYPES.items()}
_UNFIT = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantised",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values (of the meta device)",
    "torch._utils._rebuild_device_tensor_from_numpy": "of a foreign device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "of a foreign device",
    "torch._utils._rebuild_wrapper_subclass": "of a subclass of Tensor",
}
_DICTIONARIES = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "yacs.config.CfgNode",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
    }
)
_RECORDS = frozenset(
    {
        "mmengine.logging.history_buffer.HistoryBuffer",
        "builtins.getattr",  # by which MMEngine's curves refer to their own methods; nothing is looked up
        "torch.serialization._get_layout",
        *(f"pathlib.{name}" for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
        *(f"pathlib._local.{name}" for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
    }
)
_INERT = re.compile(r"(torch\.nn\.(modules|functional)|torch\._C\._nn|timm|ultralytics)\.[\w.]+")
"""Modules that were saved whole, with their classes and functions: nothing is looked up, their state is kept."""

_LABELS = frozenset(  # types that are arguments and are not called
    {
        "numpy.ndarray",
        "torch.Tensor",
        "torch._tensor.Tensor",
        "torch.nn.parameter.Parameter",
        "torch.nn.parameter.Buffer",
        "torch.per_tensor_affine",
        "torch.per_tensor_symmetric",
        "torch.per_channel_affine",
        "torch.per_channel_symmetric",
        "torch.per_channel_affine_float_qparams",
    }
)
_NUMPY_CODE = re.compile(r"[?bhilqBHILQefd]|[iuf][1248]|b1|U[1-9][0-9]{0,2}")


@dataclass
class Maker:
    """Makes what names stand for, for one pickle.

    Attributes:
        budget: counts down what calls may still copy.
        read_storage: gives the memory of the tensors.
        refused: names that stand for nothing here.
    """

    budget: int
    read_storage: StorageReader
    refused: set[str] = field(default_factory=set)
    tensors: int = 0

    def charge(self, amount: int) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise ValueError("it would make much more than its size accounts for")

    def look_up(self, name: str) -> Any:
        module, _, last = name.rpartition(".")
        if module in ("torch", "torch.cuda", "torch.storage") and last in _STORAGES:
            return _STORAGES[last]
        if module == "torch" and isinstance(dtype := getattr(torch, last, None), torch.dtype):
            return dtype
        if name in _CALLS or name in _DICTIONARIES or name in _RECORDS or name in _UNFIT or name in _LABELS:
            return Named(name)
        if _INERT.fullmatch(name):
            return Named(name)
        self.refused.add(name)
        return Refused()

    def storage(self, persistent_id: Any) -> Storage:
        """The memory that a tensor's instructions refer to."""
        what, kind, key, _location, numel, *_rest = of(persistent_id, tuple)
        if what != "storage" or not isinstance(kind, StorageType) or not isinstance(key, str) or not _is_count(numel):
            raise ValueError("it refers to something outside the file that is not a tensor's storage")
        return self.read_storage(kind, key, numel)

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(function, Refused):
            return function
        name = of(function, Named).name
        if name in _DICTIONARIES:
            return self._dictionary(*arguments)
        if name in _UNFIT:
            return UnfitTensor(_UNFIT[name])
        if name in _RECORDS or (name not in _LABELS and _INERT.fullmatch(name)):
            return Record(*arguments)
        if name in _LABELS:
            raise ValueError(f"it makes a {name} in a way of its own")
        return _CALLS[name](self, *arguments)

    def _dictionary(self, *arguments: Any) -> Any:
        made: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        for items in arguments:
            pairs = list(items.items()) if isinstance(items, Mapping) else of(items, list)
            self.charge(len(pairs))
            made.update((checked_key(key), value) for key, value in pairs)
        return made

    def build(self, target: Any, state: Any) -> None:
        """Give an object that was made its state."""
        if isinstance(target, argparse.Namespace):
            vars(target).update({of(key, str): value for key, value in of(state, dict).items()})
        elif isinstance(target, Record):
            target.state = state
        elif isinstance(target, NumpyType):
            target.order = {"<": "<", ">": ">"}.get(state[1], "=")
        elif isinstance(target, np.ndarray):
            self._fill(target, *state)
        # attributes of dictionaries, tensors and parameters tell nothing of the weights

    def _fill(self, array: np.ndarray, _version: int, shape: Any, kind: Any, columns: bool, content: Any) -> None:
        if not isinstance(kind, NumpyType):  # an array of objects: its list was read, the array is left empty
            return
        dtype, data = kind.resolve(), _bytes(content)
        is_shape = len(shape) <= MAX_DIMENSIONS and all(map(_is_count, shape))
        if not is_shape or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError(f"a NumPy array has {len(data):,} bytes, which its shape contradicts")
        self.charge(len(data))
        array.__setstate__((1, shape, dtype, bool(columns), data))  # type: ignore[arg-type]

    # What the names of `_CALLS` make.

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor | UnfitTensor:
        """`torch._utils._rebuild_tensor` and its second version."""
        return self._view(storage, offset, size, stride, of(storage, Storage).kind.dtype)

    def typed_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor | UnfitTensor:
        """`torch._utils._rebuild_tensor_v3`, of types that have no storage of their own."""
        return self._view(storage, offset, size, stride, of(rest[2], torch.dtype))

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None) -> Any:
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise ValueError(f"it holds more than {MAX_TENSORS:,} tensors")
        content = of(storage, Storage).content
        if dtype is None:
            return UnfitTensor("quantised")
        shape, steps = tuple(size), tuple(stride)
        if len(shape) > MAX_DIMENSIONS or len(shape) != len(steps) or not all(map(_is_count, (offset, *shape, *steps))):
            raise ValueError("a tensor's shape or strides are no numbers of elements")
        if content is None:
            return None
        held = content.nbytes() // dtype.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        values = math.prod(shape)
        if values and last >= held:
            raise ValueError(f"a tensor of the shape {list(shape)} reaches beyond its storage of {held:,} elements")
        if values > held:
            return UnfitTensor(f"a view that repeats its values ({values:,} of {held:,})")
        return torch.empty(0, dtype=dtype, device="cpu").set_(content, offset, shape, steps)  # type: ignore[call-overload]

    def first(self, value: Any, *_: Any) -> Any:
        """`torch._utils._rebuild_parameter`: the tensor alone."""
        return value

    def of_type(self, function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
        """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes, without them."""
        return self.call(function, of(arguments, tuple))

    def namespace(self) -> argparse.Namespace:
        """Of run arguments."""
        return argparse.Namespace()

    def encoded(self, text: Any, encoding: Any = "latin1") -> bytes:
        """`codecs.encode`, by which old pickles hold bytes."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes are written in a way of their own")
        self.charge(len(of(text, str)))
        return _bytes(text)

    def number_type(self, code: Any, *_: Any) -> Any:
        """`numpy.dtype`."""
        return NumpyType(code) if isinstance(code, str) and _NUMPY_CODE.fullmatch(code) else Record(code)

    def number(self, kind: Any, content: Any = b"") -> Any:
        """`numpy.core.multiarray.scalar`."""
        if not isinstance(kind, NumpyType):
            return Record(kind, content)
        (value,) = np.frombuffer(_bytes(content), kind.resolve())
        return value

    def array(self, *_: Any) -> np.ndarray:
        """`numpy.core.multiarray._reconstruct`: an empty array, which the BUILD instruction fills."""
        return np.empty(0, np.int8)

    def size(self, numbers: Any = ()) -> torch.Size:
        """`torch.Size`."""
        self.charge(len(of(numbers, tuple)))
        if not all(map(_is_count, numbers)) or any(n >= 1 << 63 for n in numbers):
            raise ValueError("a size holds what is no number of elements")
        return torch.Size(numbers)

    def device(self, kind: Any, index: Any = None) -> str:
        """`torch.device`, by name: the device need not be here."""
        of(kind, str)
        return kind if index is None else f"{kind}:{of(index, int)}"

    def set_of(self, items: Any = ()) -> set[Any]:
        """`set`."""
        self.charge(len(of(items, list | tuple)))
        return set(map(checked_key, items))

    def byte_array(self, content: Any = b"") -> bytearray:
        """`bytearray`."""
        self.charge(len(_bytes(content)))
        return bytearray(_bytes(content))

    def complex_number(self, real: Any, imaginary: Any) -> complex:
        """`complex`."""
        return complex(float(real), float(imaginary))


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": Maker.tensor,
    "torch._utils._rebuild_tensor_v2": Maker.tensor,
    "torch._utils._rebuild_tensor_v3": Maker.typed_tensor,
    "torch._utils._rebuild_parameter": Maker.first,
    "torch._utils._rebuild_parameter_with_state": Maker.first,
    "torch._tensor._rebuild_from_type_v2": Maker.of_type,
    "torch.Size": Maker.size,
    "torch.device": Maker.device,
    "argparse.Namespace": Maker.namespace,
    "_codecs.encode": Maker.encoded,
    "codecs.encode": Maker.encoded,
    "numpy.dtype": Maker.number_type,
    **{f"numpy.{core}.multiarray.scalar": Maker.number for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": Maker.array for core in ("core", "_core")},
    "builtins.set": Maker.set_of,
    "builtins.bytearray": Maker.byte_array,
    "builtins.complex": Maker.complex_number,
}


def of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} stands where a {getattr(kind, '__name__', kind)} should be")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _bytes(value: Any) -> bytes:
    return value.encode("latin1") if isinstance(value, str) else bytes(of(value, bytes | bytearray))


_KEYS = (str, bytes, int, float, type(None), np.generic, torch.dtype, Record)


def checked_key(key: Any, depth: int = 3) -> Any:
    """A dictionary's key or a set's member, if its hash is found in good time."""
    if isinstance(key, int) and abs(key) >= MAX_KEY:
        raise ValueError(f"a dictionary has a key of {key.bit_length()} bits")
    if isinstance(key, tuple):
        if not depth:
            raise ValueError("a dictionary has a key of deeply nested tuples")
        for part in key:
            checked_key(part, depth - 1)
    elif not isinstance(key, _KEYS):
        raise ValueError(f"a dictionary has a {type(key).__name__} as its key")
    return key
