"""Compiled functions that any thread can call: what they are called with, and where their machine code is kept.

A kernel is written as a function of named integers: addresses, sizes, strides. It is compiled to a C function of one
address, at which the integers lie in the order of the names; `threads.run_kernel` puts them there by name. Under
NUMBA_DISABLE_JIT=1 it is not compiled, and a debugger steps through it (see `stepping`).

A thread works in blocks of floats. A kernel names them among its integers, and a second function, its `memory`, says
how large each is for given arguments; nothing else knows their sizes or places.

Machine code is kept beside the source, or where NUMBA_CACHE_DIR says, one file a kernel and processor. The file says
from which sources it was made: those of the kernel and of all that it imports from this package, and no others.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import itertools
import os
import pickle
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import types
from numba.core.ccallback import CFunc

from visionssm.kernels.cpu.blocks import FLOAT, clear_blocks
from visionssm.kernels.cpu.math import LANES, WORD, take_ticket, words

SHARED = ("tasks", "counter")
"""The names with which every kernel begins; `threads.run_kernel` knows their values."""

Memory = Callable[..., Mapping[str, int]]
"""From some of a kernel's arguments, by name, to the floats of each of its blocks, by name."""


def _no_blocks() -> dict[str, int]:
    return {}


class Kernel:
    """A function of named integers, the first of them `SHARED`, as a C function.

    It is compiled when its `address` is first asked for. Any thread of any pool can call it, without the interpreter
    lock, and a call costs a microsecond where one through numba takes ten for forty arguments.
    """

    def __init__(self, function: Callable[..., None], memory: Memory = _no_blocks, unset: Iterable[str] = ()) -> None:
        self.function, self.memory, self._unset = function, memory, frozenset(unset)
        names = tuple(inspect.signature(function).parameters)
        if names[: len(SHARED)] != SHARED:
            raise TypeError(f"{function.__qualname__} begins with {names[:2]}; a kernel begins with {SHARED}")
        self._sized_by = tuple(inspect.signature(memory).parameters)
        self.block_names = tuple(memory(**dict.fromkeys(self._sized_by, 1)))
        self._given = tuple(name for name in names[len(SHARED) :] if name not in self.block_names)
        self._known = frozenset(self._given)
        strange = sorted((set(self.block_names) - set(names)) | (set(self._sized_by) - self._known))
        strange += sorted(self._unset - set(self.block_names))
        if strange:
            raise TypeError(f"the memory of {function.__qualname__} names {strange}, which are none of its arguments")

    def ordered(self, arguments: dict[str, int]) -> list[int]:
        """The values of all names but `SHARED` and the blocks, in their order.

        Raises:
            TypeError: a name is missing, or none of the kernel's.
        """
        if arguments.keys() != self._known:
            missing, unknown = sorted(self._known - arguments.keys()), sorted(arguments.keys() - self._known)
            raise TypeError(f"{self.function.__qualname__} is called without {missing} and with unknown {unknown}")
        return [arguments[name] for name in self._given]

    def blocks(self, arguments: dict[str, int]) -> tuple[list[int], list[int], int]:
        """The working memory of one thread.

        Returns:
            where in it each block begins, in bytes; how many of its floats are zeroed before the kernel runs; and the
            bytes of all, which are whole vectors.
        """
        sizes = self.memory(**{name: arguments[name] for name in self._sized_by})
        places, end = one_after_another(sizes.values())
        vector = LANES * FLOAT
        zeroed = [0 if name in self._unset else size for name, size in sizes.items()]
        return places, zeroed, (end + vector - 1) // vector * vector

    @functools.cached_property
    def address(self) -> int:
        """Where the machine code is."""
        callback = self._callback()
        try:
            callback._cache = _keep(self.entry())
            callback.compile()
        except (OSError, RuntimeError, AttributeError) as error:
            # No directory may be written, or a numba that keeps its code differently.
            _say_once(f"compiled kernels cannot be kept ({error}): every process compiles them again")
            callback = self._callback()
            callback.compile()
        return int(callback.address)

    def _callback(self) -> Any:
        signature = ((types.intp,), types.void)
        return CFunc(self.entry(), signature, locals={}, options={"error_model": "numpy"})

    def entry(self) -> Any:
        """The function with one parameter, the address at which `threads.run_kernel` puts the integers."""
        function = self.function
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        (definition,) = tree.body
        assert isinstance(definition, ast.FunctionDef)
        definition.decorator_list = []
        definition.args = ast.arguments([], [ast.arg("_arguments")], None, [], [], None, [])
        names = (*SHARED, "_memory", "_stride", *self._given, *self.block_names)
        table = f"_arguments + {(len(names) - len(self.block_names)) * WORD}"
        definition.body[:0] = ast.parse(
            f"({', '.join(names)},) = _words(_arguments, {len(names)})\n"
            f"_memory += _take_ticket(counter + {WORD}) * _stride\n"
            f"_clear_blocks(_memory, {table}, {len(self.block_names)})\n"
            + "".join(f"{block} += _memory\n" for block in self.block_names)
        ).body
        ast.fix_missing_locations(ast.increment_lineno(tree, function.__code__.co_firstlineno - 1))
        globals_ = {**function.__globals__, "_words": words, "_take_ticket": take_ticket, "_clear_blocks": clear_blocks}
        exec(compile(tree, function.__code__.co_filename, "exec"), globals_)
        entry = globals_[function.__name__]
        entry.__qualname__ = function.__qualname__
        return entry


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a `Kernel` of a function."""
    return Kernel(function)


def kernel_with(memory: Memory, *, unset: Iterable[str] = ()) -> Callable[[Callable[..., None]], Kernel]:
    """Make a `Kernel` of a function whose threads work in blocks of floats, which it names among its arguments.

    Args:
        memory: floats of each block.
        unset: blocks that may hold anything when a thread begins; all others are zeros.

    Raises:
        TypeError: a name of `memory` or `unset` is none of the function's arguments.
    """
    return lambda function: Kernel(function, memory, unset)


def one_after_another(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Where blocks of so many floats begin, in bytes, and where the last one ends."""
    *places, end = itertools.accumulate((size * FLOAT for size in sizes), initial=0)
    return places, end


# --- machine code on disk ---------------------------------------------------------------------------------------------


def _keep(entry: Any) -> Any:
    """Numba's cache of a function, with files of our own."""
    from numba.core.caching import FunctionCache

    cache: Any = FunctionCache(entry)
    module = entry.__module__
    base = Path(cache.cache_path, f"{module.rpartition('.')[2]}.{entry.__qualname__}")
    cache._cache_file = _MachineCode(base, sources_digest(module))
    return cache


class _MachineCode:
    """One file for each processor: a checksum, and a pickle of the stamp and of what numba makes of the function."""

    def __init__(self, base: Path, sources: str) -> None:
        self.base, self.sources = base, sources

    def load(self, key: Any) -> Any:
        """What was saved from the same sources; None if there is nothing."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, data = content[:32], content[32:]
        if hashlib.sha256(data).digest() != checksum:
            _say_once(f"{path} is damaged: its kernel is compiled again")
            return None
        stamp, code = pickle.loads(data)
        return code if stamp == self._stamp() else None

    def save(self, key: Any, code: Any) -> None:
        """Write a file of its own name, then rename it: other processes never see half of it."""
        data = numba.core.serialize.dumps((self._stamp(), code))
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
                file.write(hashlib.sha256(data).digest() + data)
            os.replace(file.name, path)
        except OSError as error:
            _say_once(f"compiled kernels cannot be kept in {path.parent} ({error}): every process compiles them again")

    def flush(self) -> None:
        """Nothing is kept in memory."""

    def _path(self, key: Any) -> Path:
        signature, processor, _ = key
        name = hashlib.sha256(repr((signature, processor)).encode()).hexdigest()[:16]
        return self.base.with_name(f"{self.base.name}-{name}.{sys.implementation.cache_tag}.kernel")

    def _stamp(self) -> tuple[str, ...]:
        return self.sources, numba.__version__, llvmlite.__version__


@functools.cache
def _say_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


@functools.cache
def sources_digest(module: str) -> str:
    """Digest of a module's source and of those of this package that it imports, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(_with_imports(module)):
        path = _source(name)
        digest.update(name.encode() + (path.read_bytes() if path else b""))
    return digest.hexdigest()


def _with_imports(module: str) -> set[str]:
    found, new = set(), [module]
    while new:
        name = new.pop()
        if name not in found:
            found.add(name)
            new += _imports(name)
    return found


def _imports(module: str) -> Iterator[str]:
    """Modules of this package that a module imports from."""
    path = _source(module)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if path else ():
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("visionssm."):
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("visionssm."))


def _source(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec and spec.origin else None
