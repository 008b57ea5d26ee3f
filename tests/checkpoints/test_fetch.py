"""Downloads: several at a time, refused, out of space, from the hub."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm

from tests.checkpoints.files import (
    NAME,
    assert_holds,
    authors_file,
    authors_state,
    kept,
    pretrained,
)
from tests.checkpoints.serving import Server
from visionssm.checkpoints import (
    CheckpointError,
    DownloadError,
    OfficialCfg,
    download_checkpoint,
    fetch,
    fetch_pretrained,
)


def test_concurrent_downloads_of_one_file_ask_the_server_once(server: Server, tmp_path: Path) -> None:
    url = server.serve("nano.pth", authors_file())
    threads = [threading.Thread(target=download_checkpoint, args=(url, tmp_path / "nano.pth")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert (tmp_path / "nano.pth").read_bytes() == authors_file()


def test_address_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="must start with http"):
        download_checkpoint("ftp://host/file.pth", tmp_path / "file.pth")


def test_unusable_cache_folder_is_a_clear_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"cannot write to the cache folder.*TORCH_HOME"):
        download_checkpoint(server.serve("nano.pth", authors_file()), tmp_path / "a file" / "nano.pth")


def test_full_disk_is_a_clear_error_and_leaves_nothing(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "_copy", full)
    with pytest.raises(DownloadError, match=r"cannot write.*No space left"):
        pretrained(server.serve("nano.pth", authors_file(), etag='"v1"'))
    assert kept(cache) == []


def test_hub_file_is_taken_from_the_offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--authors--nano"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "nano.pth").write_bytes(authors_file())
    overlay = {"hf_hub_id": "authors/nano", "hf_hub_filename": "nano.pth"}
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path)
    assert_holds(model, authors_state(0))
    overlay["hf_hub_filename"] = "absent.pth"
    with pytest.raises(DownloadError, match=r"absent\.pth of authors/nano is not in the Hugging Face cache"):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=tmp_path)


def test_configuration_without_source_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint is known"):
        fetch_pretrained(OfficialCfg())
