"""Reading a checkpoint file without running code, and taking the state dict out of its wrappers."""

from __future__ import annotations

import argparse
import codecs
import collections
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

WRAPPER_KEYS: tuple[str, ...] = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "network_weights",
    "model_ema",
    "ema_model",
    "state_dict_ema",
    "module",
)
"""Keys under which trainers store the weights, the preferred ones first: raw weights before their moving average."""

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel / AveragedModel, torch.compile


class CheckpointError(ValueError):
    """A checkpoint is unreadable, refused, or does not fit the model."""


class _Record:
    """Stands for a harmless bookkeeping object whose class need not be installed; keeps its state, does nothing."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _no_attribute(_owner: object, _name: str) -> None:
    """Stands for `getattr`, by which MMEngine's curves refer to their own methods; looks nothing up."""


def _harmless_globals() -> list[Any]:
    """Classes besides tensors that published files hold: run arguments, configurations, numbers.

    Classes of packages that may be missing are replaced by inert stand-ins (dictionaries become OrderedDict, the only
    mapping that PyTorch's restricted unpickler fills), so that reading never imports or runs anything of theirs.
    """
    numpy_rebuild = np.zeros(1).__reduce__()[0]
    numpy_scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    return [
        argparse.Namespace,
        codecs.encode,  # numpy scalars are pickled as text passed through it
        np.ndarray,
        np.dtype,
        *dtypes,
        *[(numpy_rebuild, f"{package}.multiarray._reconstruct") for package in ("numpy.core", "numpy._core")],
        *[(numpy_scalar, f"{package}.multiarray.scalar") for package in ("numpy.core", "numpy._core")],
        (collections.OrderedDict, "yacs.config.CfgNode"),
        (collections.OrderedDict, "easydict.EasyDict"),
        (collections.OrderedDict, "addict.addict.Dict"),
        (collections.OrderedDict, "mmcv.utils.config.ConfigDict"),
        (collections.OrderedDict, "mmengine.config.config.ConfigDict"),
        (_Record, "mmengine.logging.history_buffer.HistoryBuffer"),
        (_no_attribute, "builtins.getattr"),
        *[(_Record, f"pathlib.{name}") for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")],
    ]


def read_checkpoint(path: str | Path) -> Any:
    """Read a PyTorch (`torch.save`, zip or legacy) or safetensors file onto the CPU without running code from it.

    The kind of file is told from its content, not from its name. Zip files are memory-mapped, so that an optimizer
    state stored beside the weights costs nothing.

    Returns:
        What was saved: usually a dict of tensors, or a dict that wraps one (see `unwrap_state_dict`).
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, truncated, damaged, not a checkpoint, or wants to run code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        kind = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"checkpoint {str(path)!r} {kind}; give the path of a .pth or .safetensors file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_documents(path, head)
    header_bytes = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header_bytes < 100 << 20:
        try:
            return safetensors.torch.load_file(path, device="cpu")
        except (safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{str(path)!r} ({size:,} bytes) is a truncated or damaged safetensors file: {error}. Fetch it again."
            ) from error
    return _torch_load(path, size, is_zip=head.startswith(b"PK\x03\x04"))


def _refuse_documents(path: Path, head: bytes) -> None:
    """Name the usual things that lie where a checkpoint should be: nothing, a web page, a git-lfs pointer, text."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise CheckpointError(f"{str(path)!r} is an empty file, not a checkpoint. Fetch it again.")
    if re.match(rb"<[!?a-zA-Z]", start):
        raise CheckpointError(
            f"{str(path)!r} is a web page (HTML), not a checkpoint: it starts with {_quote(start)}. The server "
            "probably asked for a sign-in or a confirmation; open the address in a browser and save the file itself."
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{str(path)!r} is a git-lfs pointer, not the checkpoint itself. Run `git lfs pull` or download the file."
        )
    # torch.save never starts with eight printable characters in a row, and neither does safetensors
    if re.match(rb"[\x20-\x7e\t\r\n]{8}", head) or (len(head) < 8 and head.isascii() and not head.startswith(b"\x80")):
        raise CheckpointError(f"{str(path)!r} is a text file, not a checkpoint: it starts with {_quote(start)}.")


def _quote(start: bytes) -> str:
    return repr(start[:60].decode("ascii", "replace"))


def _torch_load(path: Path, size: int, *, is_zip: bool) -> Any:
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        names = _refused_globals(path, error, is_zip=is_zip)
        if not names:
            raise CheckpointError(
                f"{str(path)!r} ({size:,} bytes) is not a PyTorch checkpoint, or a damaged one: "
                f"{_first_reason(error)}. Fetch it again."
            ) from error
        raise CheckpointError(
            f"{str(path)!r} wants to run code when it is opened, and is refused: it refers to {', '.join(names)}. "
            "Weights need nothing but tensors. If you trust where it comes from, open it in an isolated place with the "
            "authors' code installed, keep only its state dict, and save that with safetensors."
        ) from error
    except Exception as error:  # the restricted unpickler meets damaged data with struct.error, KeyError, EOFError, …
        raise CheckpointError(
            f"{str(path)!r} ({size:,} bytes) is a truncated or damaged checkpoint: {_first_reason(error)}. "
            "Fetch it again."
        ) from error


def _refused_globals(path: Path, error: Exception, *, is_zip: bool) -> list[str]:
    """Names of the functions and classes in the file that reading it safely does not allow."""
    if is_zip:
        try:
            with torch.serialization.safe_globals(_harmless_globals()):
                return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        except (RuntimeError, ValueError, pickle.UnpicklingError):
            pass  # fall through to what the message names
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 256))
        tail = file.read()
    named = set(re.findall(r"GLOBAL ([\w.]+)", str(error)))
    # a file cut off in the middle of a name is damaged; the unpickler has taken its last character for the line's end
    return sorted(name for name in named if not tail[:-1].endswith(name.rpartition(".")[2].encode()))


def _first_reason(error: Exception) -> str:
    """The one line of PyTorch's long message that tells what happened."""
    text = str(error)
    reason = re.search(r"(?:WeightsUnpickler error|UnpicklingError):\s*(.+)", text)
    line = reason.group(1) if reason else (text.strip().splitlines() or [type(error).__name__])[0]
    return line.split(". This is an internal")[0].strip().rstrip(".")


def unwrap_state_dict(obj: Any, prefer: Sequence[str] = WRAPPER_KEYS) -> dict[str, Tensor]:
    """Take the plain state dict out of what a trainer saved.

    Wrapper dictionaries are opened (several deep if need be) and the prefixes that DistributedDataParallel, averaged
    models and torch.compile add to every key are removed, as often as they are there.

    Args:
        obj: what `read_checkpoint` returned.
        prefer: wrapper keys to look for, the first present one wins. A family that publishes moving averages puts
            "model_ema" first.
    Raises:
        CheckpointError: there is no dictionary of tensors under any of these keys.
    """
    state: Any = obj
    while isinstance(state, Mapping):
        key = next((key for key in prefer if isinstance(state.get(key), Mapping) and state[key]), None)
        if key is None:
            break
        state = state[key]
    if not isinstance(state, Mapping):
        raise CheckpointError(f"the checkpoint holds a {type(state).__name__}, not a dictionary of tensors")
    others = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise CheckpointError(
            f"no state dict found: of the {len(state)} keys {some(state)}, {len(others)} hold no tensor "
            f"({some(others)}), and none of the wrapper keys {', '.join(prefer)} is among them. If the weights lie "
            "under another key, name it in `prefer`."
        )
    return _strip_prefixes({str(key): value for key, value in state.items()})


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        weights = [key for key in state if key != "n_averaged"]  # AveragedModel's counter stands beside its module
        prefix = next((p for p in _WRAPPER_PREFIXES if weights and all(key.startswith(p) for key in weights)), None)
        if prefix is None:
            return state
        state = {key.removeprefix(prefix): state[key] for key in weights}


def some(items: Any, count: int = 4) -> str:
    """The first few items, and how many more there are."""
    names = [str(item) for item in items]
    more = f", … ({len(names) - count} more)" if len(names) > count else ""
    return ", ".join(names[:count]) + more
