"""Checkpoints of training: written whole or not at all, read without running code, enough to rebuild a classifier."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from visionssm.checkpoints import CheckpointError, download_checkpoint, read_checkpoint, sealed
from visionssm.checkpoints.extent import check_extent
from visionssm.checkpoints.fitting import check_values, compare
from visionssm.checkpoints.load import TRAINING_PREFIX
from visionssm.checkpoints.makers import UnfitTensor
from visionssm.checkpoints.read import check_kind, read_metadata
from visionssm.engine.errors import CheckpointWriteError
from visionssm.engine.plain import to_plain
from visionssm.files import complete_or_absent

DESCRIPTION = "visionssm"
"""Metadata key of a description, in files of `save_weights`."""

LAST = "last_checkpoint"
"""File in a work folder that names the newest complete checkpoint."""


def write_atomically(path: str | Path, write: Callable[[io.BufferedWriter], Any]) -> None:
    """Call `write` with a temporary file, and give that its final name only when it is complete and on the disk.

    Raises:
        CheckpointWriteError: (an OSError) the disk is full or the folder cannot be written; what was there stays.
    """
    path = Path(path)
    try:
        with complete_or_absent(path) as temporary, temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        kept = "; the file of that name from before is untouched" if path.exists() else ""
        raise CheckpointWriteError(error.errno, f"cannot write {str(path)!r} ({error.strerror}){kept}") from error
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Put the new name itself on the disk; some file systems and Windows cannot, which only matters at a power cut."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def save_checkpoint(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a nested state in plain types, atomically.

    Raises:
        CheckpointWriteError: the file cannot be written; an earlier file of that name is untouched.
        TypeError: the state holds what cannot be loaded with `weights_only=True`.
    """
    buffer = io.BytesIO()  # written to memory first: on a full disk torch's own file writer aborts the process
    torch.save(to_plain(checkpoint), buffer)
    write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def save_weights(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Write a network's weights under its own names as safetensors, atomically, with what describes it as metadata.

    That of a classifier has timm's layout: `timm.create_model(name, checkpoint_path=path, …)` takes it. Metadata are
    `architecture` and `num_classes`, where the network has these, and `visionssm`, the description as JSON.

    Args:
        checkpoint: as `save_checkpoint` writes it, of a task whose network is `model` of what is trained.
        path: ending in .safetensors.
    Raises:
        CheckpointWriteError: the file cannot be written; an earlier file of that name is untouched.
    """
    about = checkpoint["meta"]["visionssm"]
    described = {"architecture": about["model"].get("name"), "num_classes": about["model"].get("num_classes")}
    metadata = {key: str(value) for key, value in described.items() if value is not None}
    metadata[DESCRIPTION] = json.dumps(to_plain(about))
    state = {
        key.removeprefix(TRAINING_PREFIX): value.detach().cpu().contiguous().clone()
        for key, value in checkpoint["state_dict"].items()
    }
    content = sealed.to_bytes(state, metadata)
    write_atomically(path, lambda file: file.write(content))


def read_trained(path: str | Path) -> Any:
    """What `read_checkpoint` reads; of a file of `save_weights`, the checkpoint that its weights and metadata make.

    Raises:
        FileNotFoundError, CheckpointError: as `read_checkpoint`.
    """
    content = read_checkpoint(path)
    text = read_metadata(path).get(DESCRIPTION)
    if text is None:
        return content
    try:
        about = json.loads(text)
        check_extent(about)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(path)!r} has a description that cannot be read: {error}") from error
    return {
        "meta": {"visionssm": about},
        "state_dict": {TRAINING_PREFIX + key: value for key, value in content.items()},
    }


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a checkpoint that training wrote (.pth, or the weights alone as .safetensors).

    Returns:
        `state_dict` (the weights to evaluate with: the moving average where there is one), `meta` (`epoch`, `iter`,
        `cfg`, and for classifiers `visionssm` = model, classes, input), and what resuming needs: `optimizer`,
        `param_schedulers`, `ema_state_dict` (MMEngine's name for the raw weights), `message_hub`, `random_states`.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, damaged, wants to run code, or was not written by training.
    """
    checkpoint = read_trained(path)
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise CheckpointError(
            f"{str(path)!r} holds no 'state_dict'; it was not written by tools/train.py. Official weights are loaded "
            "with visionssm.checkpoints.load_official or `model.pretrained=True`."
        )
    meta = checkpoint.get("meta", {})
    if not isinstance(meta, Mapping) or not isinstance(meta.get("visionssm", {}), Mapping):
        raise CheckpointError(
            f"{str(path)!r} does not say what it is of (no usable 'meta'); tools/train.py writes that"
        )
    return _moved({**checkpoint, "meta": meta}, torch.device(map_location))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value if device.type == "cpu" else value.to(device)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(item, device) for item in value)
    return value


def find_last_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint of a work folder, or None if nothing has been saved there.

    It is the one that `last_checkpoint` names. Where that file or the one that it names is gone (a run was killed
    between the two, a folder was copied in part), it is the newest that can be read, or the newest, to be told why not.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named = folder / Path((folder / LAST).read_text(encoding="utf-8").strip()).name
        if named.is_file():
            return named
    found = [*folder.glob("epoch_*.pth"), *folder.glob("iter_*.pth")]
    newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first:
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path)
            return path
    return newest_first[0] if newest_first else None


def give_new_head(checkpoint: dict[str, Any], model: nn.Module, classes: Sequence[str]) -> list[str]:
    """Let a checkpoint of other classes keep the layers of `model` whose sizes follow the number of classes.

    A layer follows it where its first dimension is a·C or a·(C + 1), of both models with the same a: classifiers,
    scores of anchors, boxes of every class, masks, with or without a background.

    Args:
        checkpoint: as `load_checkpoint` returned it; its weights and its class count become those of `model`.
        model: the new one.
        classes: its class names.
    Returns:
        keys of the layers that stay new; none if the class counts agree.
    """
    about = checkpoint["meta"].get("visionssm") or {}
    theirs, ours = len(about.get("classes") or ()), len(classes)
    if not theirs or not ours or theirs == ours:
        return []
    state, own = checkpoint["state_dict"], model.state_dict()
    new = [
        key
        for key, value in state.items()
        if isinstance(value, Tensor) and key in own and _follows(value.shape, own[key].shape, theirs, ours)
    ]
    checkpoint["state_dict"] = {**state, **{key: own[key].detach().cpu().clone() for key in new}}
    described = about.get("model")
    if isinstance(described, Mapping) and "num_classes" in described:
        about = {**about, "model": {**described, "num_classes": ours}}
        checkpoint["meta"] = {**checkpoint["meta"], "visionssm": about}
    return new


def _follows(shape: torch.Size, own: torch.Size, theirs: int, ours: int) -> bool:
    if shape == own or not shape or shape[1:] != own[1:]:
        return False
    return any(shape[0] * (ours + k) == own[0] * (theirs + k) for k in (0, 1))


def load_strictly(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: with the number and first names of the missing, unexpected and mis-shaped ones, or with the
            first that is not finite or of another kind than the model's.
    """
    check_shapes(model, weights, source)
    check_values(weights, model, repr(source))
    model.load_state_dict(weights)


def check_shapes(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes.

    Raises:
        CheckpointError: see `load_strictly`.
    """
    for key, value in weights.items():
        if not isinstance(value, (Tensor, UnfitTensor)):
            raise CheckpointError(f"{source!r} holds a {type(value).__name__} where a weight should be: {key!r}")
        check_kind(key, value)
    mismatch = compare(weights, model)
    problems = {
        "missing in the checkpoint": sorted(mismatch.missing),
        "not in the model": sorted(mismatch.unexpected),
        "of another shape": [f"{key} {theirs} for {ours}" for key, theirs, ours in mismatch.misshaped],
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if found:
        raise CheckpointError(
            f"the weights of {source!r} do not fit the model: {'; '.join(found)}. Use the config it was trained with."
        )


def local_file(path: str) -> str:
    """A path as it is; the file behind an http(s) address, from PyTorch's cache."""
    if not path.startswith(("http://", "https://")):
        return path
    # runs name their files alike (best.pth): the address tells them apart
    name = f"{hashlib.sha256(path.encode()).hexdigest()[:12]}_{Path(urlparse(path).path).name}"
    return str(download_checkpoint(path, Path(torch.hub.get_dir()) / "checkpoints" / name))
