"""Checkpoints that their authors share on pages for people: Google Drive, or a hub page that does not name its file.

Tried in order: the file where a person has put it, the one file of weights of the hub's repository, Google Drive
through gdown where that is installed. Otherwise the error says which page, and where to put what is downloaded there.
"""

from __future__ import annotations

import logging
import os
import urllib.parse
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import list_repo_files
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from visionssm.checkpoints.read import read_checkpoint
from visionssm.data.errors import CheckpointError

_logger = logging.getLogger(__name__)

_WEIGHTS = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")


class PageError(Exception):
    """A page did not give the file; why."""


def place_of(architecture: str, tag: str | None, folder: Path) -> Path:
    """Where a file that a person has downloaded is looked for, whatever its authors call it."""
    return folder / f"{architecture}.{tag or 'authors'}.pth"


def only_file_of(repository: str) -> str:
    """The one file of weights in a repository of the Hugging Face hub (HF_ENDPOINT, HF_HUB_OFFLINE are obeyed).

    Raises:
        PageError: it cannot be listed, or has none or several.
    """
    try:
        names = list_repo_files(repository)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise PageError(f"{repository} of the Hugging Face hub cannot be listed: {error}") from error
    found = [name for name in names if name.endswith(_WEIGHTS)]
    if len(found) != 1:
        raise PageError(f"{repository} of the Hugging Face hub has {len(found)} files of weights, not one: {found}")
    return found[0]


def fetch_from_drive(page: str, path: Path) -> Path:
    """Download a file, or the one file of weights of a folder, of Google Drive; it gets its name once it is sound.

    Raises:
        PageError: gdown is not installed, the page gives no file, or a folder has several.
        CheckpointError: what came is no checkpoint that can be read without running code.
    """
    try:
        import gdown
    except ModuleNotFoundError:
        raise PageError("Google Drive needs gdown: pip install 'visionssm[drive]'") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.parent / ".locks" / f"{path.name}.lock"
    lock.parent.mkdir(exist_ok=True)
    with FileLock(lock):
        if path.is_file():
            return path
        partial = path.with_name(path.name + ".partial")
        try:
            _transfer(gdown, page, partial)
            read_checkpoint(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _transfer(gdown: Any, page: str, partial: Path) -> None:
    try:
        if "/folders/" in page:
            page = _only_file_of_folder(gdown, page)
        gdown.download(page, str(partial))
    except PageError:
        raise
    except Exception as error:  # gdown has a type for every reason, and they change
        raise PageError(f"Google Drive did not give {page}: {type(error).__name__}: {error}") from error
    if not partial.is_file():
        raise PageError(f"Google Drive did not give {page}: nothing came")


def _only_file_of_folder(gdown: Any, page: str) -> str:
    listed = gdown.download_folder(page, skip_download=True, quiet=True) or []
    found = [file for file in listed if file.path.endswith(_WEIGHTS)]
    if len(found) != 1:
        names = ", ".join(file.path for file in found) or "none"
        raise PageError(f"the folder {page} has {len(found)} files of weights ({names}); download the one you want")
    return f"https://drive.google.com/uc?id={found[0].id}"


def is_on_drive(page: str) -> bool:
    """Whether a page is Google Drive's."""
    return urllib.parse.urlparse(page).hostname in ("drive.google.com", "docs.google.com")


def sound(path: Path) -> Path:
    """The file that a person has put there.

    Raises:
        CheckpointError: it is no checkpoint that can be read without running code; it is not removed.
    """
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; it was put there by hand: replace it") from error
    return path
