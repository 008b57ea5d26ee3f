"""Reading the pickles of PyTorch files into numbers, strings, containers and tensors, and into nothing else.

A pickle is a program for a small stack machine. This one knows the instructions that PyTorch's files consist of. A name
of a function or class in the file is never imported: it is looked up in a table of what `makers` makes itself, so
that no code of the file's choice can run, and what a file makes is bounded by the file's own size.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from visionssm.checkpoints.extent import check_extent
from visionssm.checkpoints.makers import Maker, Refused, StorageReader, checked_key, of

MAX_INSTRUCTIONS = 5_000_000  # a checkpoint of 2,000 tensors with its optimizer has 300,000
MAX_INTEGER_BITS = 1024
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # modules as protocol 2 calls them


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


def unpickle(stream: Stream, size: int, read_storage: StorageReader, most: int = MAX_INSTRUCTIONS) -> Any:
    """Read one pickle, which ends where its STOP instruction is.

    Args:
        stream: at the pickle's first byte.
        size: greatest number of bytes that the pickle may have; what is made of it is bounded by that.
        read_storage: gives the memory of the tensors.
        most: instructions that it may have.
    Returns:
        None, bool, int, float, complex, str, bytes, lists, tuples, sets, dictionaries, NumPy numbers and arrays,
        `torch.Tensor`s, dtypes and sizes, `argparse.Namespace`, `Record`, `UnfitTensor`.
    Raises:
        UnsafePickleError: naming all functions and classes that are refused.
        ValueError: it is damaged, or would make more than its size accounts for.
    """
    return _Machine(Maker(size, read_storage), most).run(stream)


@dataclass
class _Machine:
    """The stack machine; `maker` has what the names in the pickle stand for."""

    maker: Maker
    most: int = MAX_INSTRUCTIONS
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # stacks below the marks
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self, stream: Stream) -> Any:
        try:
            self._execute(stream)
        except Exception:
            if not self.maker.refused:  # else what failed is the use of what was refused
                raise
        if self.maker.refused:
            raise UnsafePickleError(sorted(self.maker.refused))
        result = self.stack.pop()
        check_extent(result)
        return result

    def _execute(self, stream: Stream) -> None:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(cast(Any, stream))):
            if count >= self.most:
                raise ValueError(f"it holds more than {self.most:,} objects")
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
        items = frozenset(map(checked_key, self._items()))
        self.stack.append(items)

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        of(self.stack[-1], list).append(item)

    def _appends(self, _: Any) -> None:
        items = self._items()
        of(self.stack[-1], list).extend(items)

    def _additems(self, _: Any) -> None:
        items = self._items()
        of(self.stack[-1], set).update(map(checked_key, items))

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._items())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Refused):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            of(target, dict)[checked_key(key)] = value

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self.maker.look_up(f"{_PYTHON_2.get(module, module)}.{name}"))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.maker.look_up(f"{of(module, str)}.{of(name, str)}"))

    def _inst(self, argument: str) -> None:
        self._items()
        self._global(argument)

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.maker.storage(self.stack.pop()))

    def _reduce(self, _: Any) -> None:
        arguments = of(self.stack.pop(), tuple)
        self.stack.append(self.maker.call(self.stack.pop(), arguments))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        self.maker.build(self.stack[-1], state)


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
