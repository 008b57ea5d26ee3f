"""Compiled functions that any thread can call: what they are called with, and where their machine code is kept.

A kernel is written as a function of named integers: addresses, sizes, strides. It is compiled to a C function of one
address, at which the integers lie in the order of the names; `threads.run_kernel` puts them there by name. Under
NUMBA_DISABLE_JIT=1 it is not compiled, and a debugger steps through it (see `stepping`).

Machine code is kept beside the source, or where NUMBA_CACHE_DIR says, one file a kernel and processor. The file says
from which sources it was made: those of the kernel and of all that it imports from this package, and no others.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import os
import pickle
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import types
from numba.core.ccallback import CFunc

from visionssm.kernels.cpu.math import words

SHARED = ("counter", "scratch", "scratch_size", "tasks")
"""The names with which every kernel begins; `threads.run_kernel` knows their values."""


class Kernel:
    """A function of named integers, the first of them `SHARED`, as a C function.

    It is compiled when its `address` is first asked for. Any thread of any pool can call it, without the interpreter
    lock, and a call costs a microsecond where one through numba takes ten for forty arguments.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.names = tuple(inspect.signature(function).parameters)
        if self.names[: len(SHARED)] != SHARED:
            raise TypeError(f"{function.__qualname__} begins with {self.names[:4]}; a kernel begins with {SHARED}")
        self._known = frozenset(self.names[len(SHARED) :])

    def ordered(self, arguments: dict[str, int]) -> list[int]:
        """The values of all names behind `SHARED`, in their order.

        Raises:
            TypeError: a name is missing, or none of the kernel's.
        """
        if arguments.keys() != self._known:
            missing, unknown = sorted(self._known - arguments.keys()), sorted(arguments.keys() - self._known)
            raise TypeError(f"{self.function.__qualname__} is called without {missing} and with unknown {unknown}")
        return [arguments[name] for name in self.names[len(SHARED) :]]

    @functools.cached_property
    def address(self) -> int:
        """Where the machine code is."""
        callback = self._callback()
        try:
            callback._cache = _keep(self._entry())
            callback.compile()
        except (OSError, RuntimeError, AttributeError) as error:
            # No directory may be written, or a numba that keeps its code differently.
            _say_once(f"compiled kernels cannot be kept ({error}): every process compiles them again")
            callback = self._callback()
            callback.compile()
        return int(callback.address)

    def _callback(self) -> Any:
        signature = ((types.intp,), types.void)
        return CFunc(self._entry(), signature, locals={}, options={"error_model": "numpy"})

    def _entry(self) -> Any:
        """The function with one parameter, the address, from which it reads the integers that it names."""
        function = self.function
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        (definition,) = tree.body
        assert isinstance(definition, ast.FunctionDef)
        definition.decorator_list = []
        definition.args = ast.arguments([], [ast.arg("_arguments")], None, [], [], None, [])
        read = ast.parse(f"({', '.join(self.names)},) = _words(_arguments, {len(self.names)})").body[0]
        definition.body.insert(0, read)
        ast.fix_missing_locations(ast.increment_lineno(tree, function.__code__.co_firstlineno - 1))
        names = {**function.__globals__, "_words": words}
        exec(compile(tree, function.__code__.co_filename, "exec"), names)
        entry = names[function.__name__]
        entry.__qualname__ = function.__qualname__
        return entry


def kernel(function: Callable[..., None]) -> Kernel:
    """Make a `Kernel` of a function."""
    return Kernel(function)


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
