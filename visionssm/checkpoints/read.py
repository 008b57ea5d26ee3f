"""Reading a checkpoint file without running code, and taking the state dict out of its wrappers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visionssm.checkpoints import sealed
from visionssm.checkpoints.archives import read_legacy, read_zip
from visionssm.checkpoints.extent import MAX_DEPTH, Record
from visionssm.checkpoints.makers import UnfitTensor
from visionssm.checkpoints.pickles import UnsafePickleError
from visionssm.data.errors import CheckpointError

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

_PARTS = ("_parameters", "_buffers", "_modules")
"""What PyTorch's modules consist of, by the names of their attributes."""

_WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel / AveragedModel, torch.compile


def read_checkpoint(path: str | Path) -> Any:
    """Read a PyTorch (`torch.save`, zip or legacy) or safetensors file onto the CPU without running code from it.

    The kind of file is told from its content, not from its name. PyTorch files are memory-mapped, so that an optimizer
    state stored beside the weights costs nothing. Checksums are compared where the file has them: zip files of PyTorch
    (CRC-32 of every record) and safetensors files of this package (SHA-256).

    Returns:
        What was saved: usually a dict of tensors, or a dict that wraps one (see `unwrap_state_dict`).
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is empty, truncated, damaged, not a checkpoint, wants to run code, or would make more
            than its size accounts for.
    """
    path, head = _start_of(path)
    size = path.stat().st_size
    if not _is_safetensors(head):
        return _read_pytorch(path, size, is_zip=head.startswith(b"PK\x03\x04"))
    try:
        return sealed.read(path)
    except Exception as error:  # SafetensorError, OSError, and what a type unknown to PyTorch ends in
        raise CheckpointError(
            f"{str(path)!r} ({size:,} bytes) is a truncated or damaged safetensors file: {error}. Fetch it again."
        ) from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file that `read_checkpoint` accepted; none of a file of another kind."""
    path, head = _start_of(path)
    return sealed.read_metadata(path) if _is_safetensors(head) else {}


def _start_of(path: str | Path) -> tuple[Path, bytes]:
    path = Path(path).expanduser()
    if not path.is_file():
        kind = "is a folder, not a checkpoint file" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"checkpoint {str(path)!r} {kind}; give the path of a .pth or .safetensors file")
    with path.open("rb") as file:
        head = file.read(512)
    _refuse_documents(path, head)
    return path, head


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20


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


def _read_pytorch(path: Path, size: int, *, is_zip: bool) -> Any:
    try:
        return read_zip(path) if is_zip else read_legacy(path)
    except UnsafePickleError as error:
        names = ", ".join(name[:100].encode("unicode_escape").decode("ascii") for name in error.names[:20])
        raise CheckpointError(
            f"{str(path)!r} wants to run code when it is opened, and is refused: it refers to {names}. "
            "Weights need nothing but tensors. If you trust where it comes from, open it in an isolated place with the "
            "authors' code installed, keep only its state dict, and save that with safetensors."
        ) from error
    except Exception as error:  # damaged data end in struct.error, KeyError, EOFError, BadZipFile, …
        reason = str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
        raise CheckpointError(
            f"{str(path)!r} ({size:,} bytes) is a truncated or damaged checkpoint, or none of PyTorch: {reason}. "
            "Fetch it again."
        ) from error


def unwrap_state_dict(obj: Any, prefer: Sequence[str] = WRAPPER_KEYS) -> dict[str, Tensor]:
    """Take the plain state dict out of what a trainer saved.

    Wrapper dictionaries are opened (several deep if need be), a module that was saved whole is taken apart, whatever
    its class, and the prefixes that DistributedDataParallel, averaged models and torch.compile add to every key are
    removed, as often as they are there.

    Args:
        obj: what `read_checkpoint` returned.
        prefer: wrapper keys to look for, the first present one wins. A family that publishes moving averages puts
            "model_ema" first.
    Raises:
        CheckpointError: there is no dictionary of tensors under any of these keys.
    """
    state: Any = obj
    for _ in range(MAX_DEPTH):  # a dictionary made in memory may contain itself
        keys = prefer if isinstance(state, Mapping) else ()
        key = next((key for key in keys if _holds_weights(state.get(key))), None)
        if key is None:
            break
        state = state[key]
    if _is_module(state):
        state = _module_state(state)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"the checkpoint holds a {type(state).__name__}, not a dictionary of tensors")
    others = [str(key) for key, value in state.items() if not isinstance(value, (Tensor, UnfitTensor))]
    if others or not state:
        raise CheckpointError(
            f"no state dict found: of the {len(state)} keys {some(state)}, {len(others)} hold no tensor "
            f"({some(others)}), and none of the wrapper keys {', '.join(prefer)} is among them. If the weights lie "
            "under another key, name it in `prefer`."
        )
    state = _strip_prefixes({str(key): value for key, value in state.items()})
    for key, value in state.items():
        check_kind(key, value)
    return state


def _holds_weights(value: Any) -> bool:
    return bool(value) and (isinstance(value, Mapping) or _is_module(value))


def _is_module(value: Any) -> bool:
    """Whether a record stands for a module that was saved whole."""
    parts = value.state if isinstance(value, Record) else None
    return isinstance(parts, Mapping) and all(isinstance(parts.get(part), Mapping) for part in _PARTS)


def _module_state(module: Record, prefix: str = "") -> dict[str, Any]:
    """What the `state_dict` of a module that was saved whole would have given."""
    parameters, buffers, modules = (module.state[part] for part in _PARTS)
    passing = module.state.get("_non_persistent_buffers_set") or ()
    own = {**parameters, **{name: value for name, value in buffers.items() if name not in passing}}
    state = {f"{prefix}{name}": value for name, value in own.items() if value is not None}
    for name, inner in modules.items():
        if _is_module(inner):
            state |= _module_state(inner, f"{prefix}{name}.")
        elif inner is not None:
            raise CheckpointError(f"the module {prefix + str(name)!r} of the checkpoint has no parameters to read")
    return state


def check_kind(key: str, value: Tensor | UnfitTensor) -> None:
    """Refuse a tensor whose values cannot be taken one by one.

    Raises:
        CheckpointError: naming the key and what it is.
    """
    kind = value.kind if isinstance(value, UnfitTensor) else _unfit_kind(value)
    if kind is not None:
        raise CheckpointError(
            f"the weight {key!r} is {kind}; weights must be ordinary tensors. Load the file with the code that wrote "
            "it, and save its weights as such (`x.dequantize()`, `x.to_dense()`)."
        )


def _unfit_kind(x: Tensor) -> str | None:
    if x.is_quantized:
        return "quantised"
    if x.is_nested:
        return "nested"
    if x.layout == torch.strided:
        return None
    return "sparse" if "sparse" in str(x.layout) else f"of the layout {x.layout}"


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
