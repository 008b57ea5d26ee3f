"""Reading the pickles of PyTorch files into numbers, strings, containers and tensors, and into nothing else.

A pickle is a program for a small stack machine. This one knows the instructions that PyTorch's files consist of. A name
of a function or class in the file is never imported: it is looked up in a table of what this module makes itself, so
that no code of the file's choice can run, and what a file makes is bounded by the file's own size.
"""

from __future__ import annotations

import argparse
import collections
import math
import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from visionssm.checkpoints.extent import Record, check_extent

MAX_INSTRUCTIONS = 5_000_000  # a checkpoint of 2,000 tensors with its optimizer has 300,000
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 64
MAX_INTEGER_BITS = 1024
MAX_KEY = 1 << 60  # greater integers all share their hashes with smaller ones: dictionaries of them take for ever


class UnsafePickleError(ValueError):
    """The file names functions or classes that are none of those that weights need."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


class Stream(Protocol):
    """What a pickle is read from; reading never gives more than there is (an `mmap`, a `BytesIO`)."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


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
class _Refused:
    """Stands for what the file named and must not have."""


@dataclass(frozen=True)
class _Named:
    """A name of the table on the stack, before it is called."""

    name: str


@dataclass
class _NumpyType:
    """A NumPy dtype: code and byte order; numbers only."""

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
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_NUMPY_CODE = re.compile(r"[?bhilqBHILQefd]|[iuf][1248]|b1")


def unpickle(stream: Stream, size: int, read_storage: StorageReader) -> Any:
    """Read one pickle, which ends where its STOP instruction is.

    Args:
        stream: at the pickle's first byte.
        size: greatest number of bytes that the pickle may have; what is made of it is bounded by that.
        read_storage: gives the memory of the tensors.
    Returns:
        None, bool, int, float, complex, str, bytes, lists, tuples, sets, dictionaries, NumPy numbers and arrays,
        `torch.Tensor`s, dtypes and sizes, `argparse.Namespace`, `Record`, `UnfitTensor`.
    Raises:
        UnsafePickleError: naming all functions and classes that are refused.
        ValueError: it is damaged, or would make more than its size accounts for.
    """
    return _Machine(size, read_storage).run(stream)


@dataclass
class _Machine:
    """The stack machine; `budget` counts down what calls may still copy."""

    budget: int
    read_storage: StorageReader
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks below the marks
    memo: dict[int, Any] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    tensors: int = 0

    def run(self, stream: Stream) -> Any:
        try:
            self._execute(stream)
        except Exception:
            if not self.refused:  # else what failed is the use of what was refused
                raise
        if self.refused:
            raise UnsafePickleError(sorted(self.refused))
        result = self.stack.pop()
        check_extent(result)
        return result

    def _execute(self, stream: Stream) -> None:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(Any, stream))):
            if count >= MAX_INSTRUCTIONS:
                raise ValueError(f"it holds more than {MAX_INSTRUCTIONS:,} objects")
            name = opcode.name
            if name in _ARGUMENT:
                if isinstance(argument, int) and argument.bit_length() > MAX_INTEGER_BITS:
                    raise ValueError(f"it holds an integer of {argument.bit_length():,} bits")
                self.stack.append(argument)
            elif name in _CONSTANT:
                self.stack.append(_CONSTANT[name]())
            elif name in _STORE:
                self.memo[len(self.memo) if argument is None else int(argument)] = self.stack[-1]
            elif name in _FETCH:
                self.stack.append(self.memo[int(cast(Any, argument))])
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"the pickle instruction {name} is not one that PyTorch's files have")

    def charge(self, amount: int) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise ValueError("it would make much more than its size accounts for")

    def _items(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    # One method an instruction of `_STEPS`, named as in `pickletools`.

    def _mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._items()

    def _pop_mark(self, _: Any) -> None:
        self._items()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        items = tuple(self._items())
        self.stack.append(items)

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _list(self, _: Any) -> None:
        items = self._items()
        self.stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self._items()
        self.stack.append({})
        self._set(items)

    def _frozenset(self, _: Any) -> None:
        items = frozenset(map(_key, self._items()))
        self.stack.append(items)

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        _of(self.stack[-1], list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._items()
        _of(self.stack[-1], list).extend(items)

    def _additems(self, _: Any) -> None:
        items = self._items()
        _of(self.stack[-1], set).update(map(_key, items))

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._items())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Refused):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            _of(target, dict)[_key(key)] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._look_up(f"{_PYTHON_2.get(module, module)}.{name}"))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._look_up(f"{_of(module, str)}.{_of(name, str)}"))

    def _inst(self, argument: str) -> None:
        self._items()
        self._global(argument)

    def _look_up(self, name: str) -> Any:
        module, _, last = name.rpartition(".")
        if module in ("torch", "torch.cuda", "torch.storage") and last in _STORAGES:
            return _STORAGES[last]
        if module == "torch" and isinstance(dtype := getattr(torch, last, None), torch.dtype):
            return dtype
        if name in _CALLS or name in _DICTIONARIES or name in _RECORDS or name in _UNFIT or name in _LABELS:
            return _Named(name)
        self.refused.add(name)
        return _Refused()

    def _binpersid(self, _: Any) -> None:
        what, kind, key, _location, numel, *_rest = _of(self.stack.pop(), tuple)
        if what != "storage" or not isinstance(kind, StorageType) or not isinstance(key, str) or not _is_count(numel):
            raise ValueError("it refers to something outside the file that is not a tensor's storage")
        self.stack.append(self.read_storage(kind, key, numel))

    def _reduce(self, _: Any) -> None:
        arguments = _of(self.stack.pop(), tuple)
        self.stack.append(self._call(self.stack.pop(), arguments))

    _newobj = _reduce

    def _call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        if isinstance(function, _Refused):
            return function
        name = _of(function, _Named).name
        if name in _DICTIONARIES:
            return self._dictionary(*arguments)
        if name in _UNFIT:
            return UnfitTensor(_UNFIT[name])
        if name in _RECORDS:
            return Record(*arguments)
        if name in _LABELS:
            raise ValueError(f"it makes a {name} in a way of its own")
        return _CALLS[name](self, *arguments)

    def _dictionary(self, *arguments: Any) -> Any:
        made: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        for items in arguments:
            pairs = list(items.items()) if isinstance(items, Mapping) else _of(items, list)
            self.charge(len(pairs))
            made.update((_key(key), value) for key, value in pairs)
        return made

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, argparse.Namespace):
            vars(target).update({_of(key, str): value for key, value in _of(state, dict).items()})
        elif isinstance(target, Record):
            target.state = state
        elif isinstance(target, _NumpyType):
            target.order = {"<": "<", ">": ">"}.get(state[1], "=")
        elif isinstance(target, np.ndarray):
            self._fill(target, *state)
        # attributes of dictionaries, tensors and parameters tell nothing of the weights

    def _fill(self, array: np.ndarray, _version: int, shape: Any, kind: Any, columns: bool, content: Any) -> None:
        if not isinstance(kind, _NumpyType):  # an array of objects: its list was read, the array is left empty
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
        return self._view(storage, offset, size, stride, _of(storage, Storage).kind.dtype)

    def typed_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor | UnfitTensor:
        """`torch._utils._rebuild_tensor_v3`, of types that have no storage of their own."""
        return self._view(storage, offset, size, stride, _of(rest[2], torch.dtype))

    def _view(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None) -> Any:
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise ValueError(f"it holds more than {MAX_TENSORS:,} tensors")
        content = _of(storage, Storage).content
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
        return self._call(function, _of(arguments, tuple))

    def namespace(self) -> argparse.Namespace:
        """Of run arguments."""
        return argparse.Namespace()

    def encoded(self, text: Any, encoding: Any = "latin1") -> bytes:
        """`codecs.encode`, by which old pickles hold bytes."""
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("bytes are written in a way of their own")
        self.charge(len(_of(text, str)))
        return _bytes(text)

    def number_type(self, code: Any, *_: Any) -> Any:
        """`numpy.dtype`."""
        return _NumpyType(code) if isinstance(code, str) and _NUMPY_CODE.fullmatch(code) else Record(code)

    def number(self, kind: Any, content: Any = b"") -> Any:
        """`numpy.core.multiarray.scalar`."""
        if not isinstance(kind, _NumpyType):
            return Record(kind, content)
        (value,) = np.frombuffer(_bytes(content), kind.resolve())
        return value

    def array(self, *_: Any) -> np.ndarray:
        """`numpy.core.multiarray._reconstruct`: an empty array, which the BUILD instruction fills."""
        return np.empty(0, np.int8)

    def size(self, numbers: Any = ()) -> torch.Size:
        """`torch.Size`."""
        self.charge(len(_of(numbers, tuple)))
        if not all(map(_is_count, numbers)) or any(n >= 1 << 63 for n in numbers):
            raise ValueError("a size holds what is no number of elements")
        return torch.Size(numbers)

    def device(self, kind: Any, index: Any = None) -> str:
        """`torch.device`, by name: the device need not be here."""
        _of(kind, str)
        return kind if index is None else f"{kind}:{_of(index, int)}"

    def set_of(self, items: Any = ()) -> set[Any]:
        """`set`."""
        self.charge(len(_of(items, list | tuple)))
        return set(map(_key, items))

    def byte_array(self, content: Any = b"") -> bytearray:
        """`bytearray`."""
        self.charge(len(_bytes(content)))
        return bytearray(_bytes(content))

    def complex_number(self, real: Any, imaginary: Any) -> complex:
        """`complex`."""
        return complex(float(real), float(imaginary))


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _Machine.tensor,
    "torch._utils._rebuild_tensor_v2": _Machine.tensor,
    "torch._utils._rebuild_tensor_v3": _Machine.typed_tensor,
    "torch._utils._rebuild_parameter": _Machine.first,
    "torch._utils._rebuild_parameter_with_state": _Machine.first,
    "torch._tensor._rebuild_from_type_v2": _Machine.of_type,
    "torch.Size": _Machine.size,
    "torch.device": _Machine.device,
    "argparse.Namespace": _Machine.namespace,
    "_codecs.encode": _Machine.encoded,
    "codecs.encode": _Machine.encoded,
    "numpy.dtype": _Machine.number_type,
    **{f"numpy.{core}.multiarray.scalar": _Machine.number for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _Machine.array for core in ("core", "_core")},
    "builtins.set": _Machine.set_of,
    "builtins.bytearray": _Machine.byte_array,
    "builtins.complex": _Machine.complex_number,
}
_ARGUMENT_NAMES = (
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE "
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_ARGUMENT = frozenset(_ARGUMENT_NAMES.split())
_CONSTANT: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEP_NAMES = (
    "MARK POP POP_MARK DUP TUPLE TUPLE1 TUPLE2 TUPLE3 LIST DICT FROZENSET APPEND APPENDS ADDITEMS SETITEM SETITEMS "
    "GLOBAL STACK_GLOBAL INST BINPERSID REDUCE NEWOBJ BUILD"
)
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    name: getattr(_Machine, f"_{name.lower()}") for name in _STEP_NAMES.split()
}
_STORE = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_FETCH = frozenset({"GET", "BINGET", "LONG_BINGET"})


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} stands where a {getattr(kind, '__name__', kind)} should be")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _bytes(value: Any) -> bytes:
    return value.encode("latin1") if isinstance(value, str) else bytes(_of(value, bytes | bytearray))


_KEYS = (str, bytes, int, float, type(None), np.generic, torch.dtype, Record)


def _key(key: Any, depth: int = 3) -> Any:
    """A dictionary's key or a set's member, if its hash is found in good time."""
    if isinstance(key, int) and abs(key) >= MAX_KEY:
        raise ValueError(f"a dictionary has a key of {key.bit_length()} bits")
    if isinstance(key, tuple):
        if not depth:
            raise ValueError("a dictionary has a key of deeply nested tuples")
        for part in key:
            _key(part, depth - 1)
    elif not isinstance(key, _KEYS):
        raise ValueError(f"a dictionary has a {type(key).__name__} as its key")
    return key
