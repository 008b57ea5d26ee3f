"""From a timm pretrained configuration to a verified checkpoint file on this machine.

timm hands a URL to `torch.hub`, which keeps whatever the server sent under the final name: half a file, a sign-in page,
or the wrong file, and fails on it for ever after. Here a download gets its final name only once it is known to be a
complete, safe checkpoint with the right hash; all else (where the cache is, overlays, adaptation to other class
counts) stays timm's.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch.hub
from filelock import FileLock
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.models import PretrainedCfg, get_pretrained_cfg
from timm.models import _builder as timm_builder
from timm.models._hub import HF_WEIGHTS_NAME, download_from_hf, get_cache_dir

from visionssm.checkpoints import shared
from visionssm.checkpoints.read import WRAPPER_KEYS, read_checkpoint
from visionssm.data.errors import CheckpointError

_logger = logging.getLogger(__name__)

_ATTEMPTS = 3
_TIMEOUT_SECONDS = 30.0
_BLOCK = 1 << 20
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_SOURCE_KEYS = ("file", "url", "hf_hub_id", "hf_hub_filename")


class DownloadError(CheckpointError):
    """A checkpoint could not be fetched, or what came is not what was asked for."""


class _InterruptedTransfer(Exception):
    """The connection ended, or the server failed for the moment; trying again may help."""


@dataclass
class OfficialCfg(PretrainedCfg):
    """timm's pretrained configuration with what a published checkpoint needs beside it.

    The additional fields are left out of `to_dict`, so that `model.pretrained_cfg` remains what timm understands; they
    are found again through the registry by architecture and tag.

    Attributes:
        sha256: hexadecimal digest of the published file, or the first 8 or more digits; None while unknown.
        manual_url: page for people where the authors share the file (Google Drive, Baidu), with no `url` beside it.
        hub_page: repository of the Hugging Face hub that also has the file, whose name there is not known.
        prefer: wrapper keys of the file in order of preference, None for `WRAPPER_KEYS`.
    """

    sha256: str | None = None
    manual_url: str | None = None
    hub_page: str | None = None
    prefer: tuple[str, ...] | None = None

    def to_dict(self, remove_source: bool = False, remove_null: bool = True) -> dict[str, Any]:
        """timm's dictionary, without the fields that `PretrainedCfg` does not have."""
        cfg = super().to_dict(remove_source=remove_source, remove_null=remove_null)
        return {key: value for key, value in cfg.items() if key not in _OWN_KEYS}


_OWN_KEYS = tuple(field.name for field in fields(OfficialCfg) if field.name not in PretrainedCfg.__dataclass_fields__)


def preferred_keys(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """Wrapper keys, the preferred ones first, of the checkpoint registered for a model with this `pretrained_cfg`."""
    registered = _registered(cfg.get("architecture"), cfg.get("tag"))
    return (registered.prefer if isinstance(registered, OfficialCfg) else None) or WRAPPER_KEYS


def _registered(architecture: str | None, tag: str | None) -> PretrainedCfg | None:
    if not architecture:
        return None
    try:
        return get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError:  # timm: invalid tag, of a configuration that the user made
        return None


def local_pretrained_overlay(
    variant: str,
    pretrained_cfg: str | dict[str, Any] | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    *,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Fetch a variant's checkpoint and return the overlay with which timm's builder loads that file.

    For use by a model builder when `pretrained` is asked for: the result goes to `build_model_with_cfg` as
    `pretrained_cfg_overlay`, and the model's `load_pretrained` (see `load_pretrained_file`) does the loading. Sources
    in which timm reads its own format (`hf-hub:…` and `local-dir:…` names, a `state_dict`) are left to timm.

    Args:
        variant: registered name without tag.
        pretrained_cfg, pretrained_cfg_overlay, cache_dir: as given to `timm.create_model`; the overlay may hold
            `file`, `url`, `hf_hub_id`, `hf_hub_filename`, and `sha256`.
    Raises:
        DownloadError, CheckpointError, FileNotFoundError: as `fetch_pretrained`.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    own = {key: overlay.pop(key) for key in _OWN_KEYS if key in overlay}
    cfg = timm_builder.resolve_pretrained_cfg(variant, pretrained_cfg=pretrained_cfg, pretrained_cfg_overlay=overlay)
    if cfg.source in ("hf-hub", "local-dir") or cfg.state_dict:
        return overlay
    registered = _registered(cfg.architecture, cfg.tag)
    facts = {key: getattr(registered, key, None) for key in _OWN_KEYS}
    if registered is None or any(getattr(registered, key) != getattr(cfg, key) for key in _SOURCE_KEYS):
        facts.update(sha256=None)  # the recorded hash is that of the registered source, not of the one in use
    known = {field.name: getattr(cfg, field.name) for field in fields(PretrainedCfg)}
    official = OfficialCfg(**{**known, **facts, **own})
    if not (official.has_weights or official.manual_url):
        return overlay  # timm says that this model has no weights
    return {**overlay, "file": str(fetch_pretrained(official, cache_dir=cache_dir)), "custom_load": True}


def fetch_pretrained(cfg: PretrainedCfg, *, cache_dir: str | Path | None = None) -> Path:
    """Return the local, verified file of a pretrained configuration, downloading it if it is not cached.

    The order of sources is timm's: `file`, then `hf_hub_id` (cached by huggingface_hub: HF_HOME, HF_HUB_OFFLINE,
    HF_ENDPOINT), then `url` (cached in `cache_dir`, by default VISIONSSM_CACHE or, as timm has it, `checkpoints` under
    `torch.hub.get_dir()`: TORCH_HOME), then pages for people, see `visionssm.checkpoints.shared`.

    Raises:
        FileNotFoundError: `file` does not exist.
        DownloadError: the checkpoint cannot be fetched, is not what was published, or must be downloaded by hand.
        CheckpointError: no source is given, or `file` has another hash than `sha256`.
    """
    sha256, manual_url = getattr(cfg, "sha256", None), getattr(cfg, "manual_url", None)
    if cfg.file:
        path = Path(cfg.file).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"pretrained file {str(path)!r} does not exist; check pretrained_cfg_overlay")
        _verify_hash(path, sha256)
        return path
    if cfg.hf_hub_id:
        return _fetch_from_hub(cfg.hf_hub_id, cfg.hf_hub_filename or HF_WEIGHTS_NAME, sha256, cache_dir)
    if cfg.url:
        url, name = (cfg.url, None) if isinstance(cfg.url, str) else cfg.url
        name = name or os.path.basename(urllib.parse.urlparse(url).path)
        if not name:
            raise CheckpointError(f"url {url!r} names no file; give pretrained_cfg url as a pair (url, file name)")
        folder = cache_folder(cache_dir)
        return download_checkpoint(url, folder / name, sha256=sha256 or _hash_in_name(name))
    if manual_url:
        return _fetch_shared(cfg, manual_url, sha256, cache_dir)
    name = cfg.architecture or "this model"
    raise CheckpointError(f"no checkpoint is known for {name}; use pretrained=False")


def cache_folder(given: str | Path | None = None) -> Path:
    """Where downloads are kept: as given, else the folder that VISIONSSM_CACHE names, else timm's."""
    named = given or os.environ.get("VISIONSSM_CACHE")
    return Path(named).expanduser() if named else Path(get_cache_dir())


def _fetch_shared(cfg: PretrainedCfg, page: str, sha256: str | None, cache_dir: str | Path | None) -> Path:
    """A file of pages for people: what a person has put into the cache, the hub's repository, Google Drive by gdown."""
    name = cfg.architecture or "this model"
    place = shared.place_of(name, cfg.tag, cache_folder(cache_dir))
    hub_page = getattr(cfg, "hub_page", None)
    if place.is_file():
        _verify_hash(shared.sound(place), sha256)
        return place
    reasons = []
    try:
        if hub_page:
            return _fetch_from_hub(hub_page, shared.only_file_of(hub_page), sha256, cache_dir)
    except (shared.PageError, DownloadError) as error:
        reasons.append(str(error))
    try:
        if shared.is_on_drive(page):
            fetched = shared.fetch_from_drive(page, place)
            _verify_hash(fetched, sha256)
            return fetched
    except (shared.PageError, CheckpointError) as error:
        reasons.append(str(error))
    pages = f"{page} and https://huggingface.co/{hub_page}" if hub_page else page
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise DownloadError(
        f"the checkpoint of {name} was not downloaded; its authors share it at {pages}{why}. Download it by hand to "
        f"{str(place)!r}, where pretrained=True finds it, or keep it elsewhere and use visionssm.load_official(model, "
        "path) or timm.create_model(…, pretrained=True, pretrained_cfg_overlay=dict(file=path))."
    )


def _hash_in_name(name: str) -> str | None:
    """The hash that timm lets users ask to be checked (`set_pretrained_check_hash`): name-0123abcd.pth."""
    match = torch.hub.HASH_REGEX.search(name) if timm_builder._CHECK_HASH else None
    return match.group(1) if match else None


def _fetch_from_hub(repository: str, name: str, sha256: str | None, cache_dir: str | Path | None) -> Path:
    try:
        path = Path(download_from_hf(repository, name, cache_dir=cache_dir))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"{name} of {repository} is not in the Hugging Face cache and the hub cannot be reached "
            f"(offline, or HF_HUB_OFFLINE is set): {error}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DownloadError(f"cannot fetch {name} of {repository} from the Hugging Face hub: {error}") from error
    _verify_hash(path, sha256)
    return path


def download_checkpoint(url: str, path: str | Path, *, sha256: str | None = None) -> Path:
    """Download a checkpoint to `path`, or return `path` if it already is there and is sound.

    The data go to `path` + ".partial" and are moved only after they proved complete, of the right hash, and readable
    without running code. An interrupted transfer is tried three times and resumed, also by a later call, where the
    server says which version of the file it serves (ETag or Last-Modified). An unsound file that lies at `path`
    already is fetched again. Several processes may ask for the same file at once.

    Raises:
        DownloadError: the server refused, the transfer stayed incomplete, or the content is not the checkpoint.
    """
    path = Path(path).expanduser()
    if urllib.parse.urlparse(url).scheme not in ("http", "https", "file"):
        raise DownloadError(f"cannot download {url!r}: the address must start with http://, https:// or file://")
    lock = FileLock(path.parent / ".locks" / f"{path.name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DownloadError(
            f"cannot write to the cache folder {str(path.parent)!r}: {error}. Point TORCH_HOME, or cache_dir of "
            "timm.create_model, to a folder that you may write to."
        ) from error
    try:
        return _download_locked(url, path, sha256)
    finally:
        lock.release()


def _download_locked(url: str, path: Path, sha256: str | None) -> Path:
    if path.is_file():
        try:
            _verify(path, sha256)
            return path
        except CheckpointError as error:
            _logger.warning("Discarding the cached %s and downloading it again: %s", path, error)
            path.unlink()
    partial = path.with_name(path.name + ".partial")
    _logger.info('Downloading "%s" to %s', url, path)
    _transfer_patiently(url, partial)
    try:
        _verify(partial, sha256)
    except CheckpointError as error:
        _discard(partial)
        reason = str(error).replace(repr(str(partial)), "the file")
        raise DownloadError(f"what {url} serves is not the published checkpoint, and was not kept: {reason}") from error
    _version_file(partial).unlink(missing_ok=True)
    os.replace(partial, path)
    return path


def _verify(path: Path, sha256: str | None) -> None:
    read_checkpoint(path)
    digest = _verify_hash(path, sha256)
    if digest is None:
        _logger.debug("No hash is recorded for %s", path.name)


def _verify_hash(path: Path, sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if len(sha256) < 8 or not digest.startswith(sha256.lower()):
        raise CheckpointError(
            f"{str(path)!r} has the wrong hash: sha256 {digest}, but {sha256} is recorded. The file is damaged, or its "
            "authors replaced it."
        )
    return digest


def _transfer_patiently(url: str, partial: Path) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _transfer(url, partial)
        except _InterruptedTransfer as error:
            reason = error
            time.sleep(0.2 * attempt if attempt < _ATTEMPTS else 0)
        except urllib.error.HTTPError as error:
            _discard(partial)
            hint = "; the file was moved or removed, or the address is wrong" if error.code in (404, 410) else ""
            raise DownloadError(f"cannot download {url}: HTTP {error.code} {error.reason}{hint}") from error
        except urllib.error.URLError as error:
            raise DownloadError(
                f"cannot download {url}: {error.reason}. Without a connection, copy the file here and use "
                "pretrained_cfg_overlay=dict(file=path)."
            ) from error
        except OSError as error:  # the network's own are above: this is the disk
            _discard(partial)
            raise DownloadError(f"cannot write {str(partial)!r}: {error}") from error
    resumable = _version_file(partial).is_file()
    if not resumable:
        _discard(partial)
    advice = "Run again to go on from there." if resumable else "Run again."
    raise DownloadError(f"the download of {url} stayed incomplete after {_ATTEMPTS} attempts: {reason}. {advice}")


def _transfer(url: str, partial: Path) -> None:
    """One transfer, going on where an earlier one of the same version of the file stopped."""
    start = partial.stat().st_size if partial.is_file() else 0
    version = _saved_version(partial, url)
    headers = {"User-Agent": "visionssm"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS) as response:
            resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            start = start if resumed else 0
            length = response.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            _save_version(partial, url, response.headers)
            received = _copy(response, partial, start=start, total=total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is stored than the server has
            _discard(partial)
            raise _InterruptedTransfer("the server has less than what an earlier attempt received") from error
        if error.code in _RETRY_STATUS:
            raise _InterruptedTransfer(f"HTTP {error.code} {error.reason}") from error
        raise
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _InterruptedTransfer(f"{type(error).__name__} {error}".strip()) from error
    if total is not None and received != total:
        raise _InterruptedTransfer(f"{received:,} of {total:,} bytes came")


def _copy(response: Any, partial: Path, *, start: int, total: int | None) -> int:
    """Append the response to the partial file; returns the bytes that it then holds."""
    received = start
    bar = torch.hub.tqdm(
        total=total, initial=start, disable=not timm_builder._DOWNLOAD_PROGRESS, unit="B", unit_scale=True
    )
    with partial.open("ab" if start else "wb") as file, bar:
        while block := response.read(_BLOCK):
            file.write(block)
            received += len(block)
            bar.update(len(block))
    return received


def _version_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _save_version(partial: Path, url: str, headers: Mapping[str, str]) -> None:
    """Note which version of the file the partial one is of; without that it must not be resumed."""
    etag = headers.get("ETag")
    version = headers.get("Last-Modified") if etag is None or etag.startswith("W/") else etag
    if version:
        _version_file(partial).write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")
    else:
        _version_file(partial).unlink(missing_ok=True)


def _saved_version(partial: Path, url: str) -> str | None:
    try:
        saved = json.loads(_version_file(partial).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return saved.get("version") if saved.get("url") == url else None


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _version_file(partial).unlink(missing_ok=True)
