"""Checkpoints on pages for people: put there by hand, from the hub's one file, from Google Drive through gdown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.checkpoints.files import authors_file
from tests.checkpoints.serving import Handler, Server
from visionssm.checkpoints import CheckpointError, DownloadError, OfficialCfg, fetch_pretrained, shared

PAGE = "https://drive.google.com/file/d/0/view"
FOLDER = "https://drive.google.com/drive/folders/0"


def cfg(**changes: Any) -> OfficialCfg:
    return OfficialCfg(**{"architecture": "toy", "tag": "authors_in1k", "manual_url": PAGE, **changes})


@pytest.fixture(autouse=True)
def no_gdown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)  # importing it fails, whether it is installed or not


def use_gdown(monkeypatch: pytest.MonkeyPatch, content: bytes | None, files: tuple[str, ...] = ()) -> list[str]:
    """A gdown that writes `content`, and lists `files` in a folder; returns the addresses that it is asked for."""
    asked: list[str] = []

    def download(url: str, output: str) -> str | None:
        asked.append(url)
        if content is None:
            raise RuntimeError("Too many users have viewed or downloaded this file recently")
        Path(output).write_bytes(content)
        return output

    def download_folder(url: str, skip_download: bool, quiet: bool) -> list[Any]:
        return [SimpleNamespace(id=f"id{i}", path=name) for i, name in enumerate(files)]

    stand_in = SimpleNamespace(download=download, download_folder=download_folder)
    monkeypatch.setitem(sys.modules, "gdown", stand_in)
    return asked


def test_error_names_page_place_and_extra(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch_pretrained(cfg(), cache_dir=tmp_path)
    place = str(tmp_path / "toy.authors_in1k.pth")
    assert all(part in str(caught.value) for part in (PAGE, place, "visionssm[drive]"))


def test_file_that_was_put_there_by_hand_is_used(tmp_path: Path) -> None:
    place = tmp_path / "toy.authors_in1k.pth"
    place.write_bytes(authors_file())
    assert fetch_pretrained(cfg(), cache_dir=tmp_path) == place
    with pytest.raises(CheckpointError, match="wrong hash"):
        fetch_pretrained(cfg(sha256="0" * 64), cache_dir=tmp_path)
    place.write_bytes(b"<html>sign in</html>")
    with pytest.raises(CheckpointError, match="by hand"):
        fetch_pretrained(cfg(), cache_dir=tmp_path)
    assert place.exists()  # what a person has made is not removed


def test_folder_of_the_cache_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setenv("VISIONSSM_CACHE", str(tmp_path / "mine"))
    url = server.serve("nano.pth", authors_file())
    assert fetch_pretrained(OfficialCfg(url=url)) == tmp_path / "mine" / "nano.pth"
    assert fetch_pretrained(OfficialCfg(url=url), cache_dir=tmp_path / "given") == tmp_path / "given" / "nano.pth"


def test_drive_is_asked_once_and_what_came_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = use_gdown(monkeypatch, authors_file())
    for _ in range(2):
        assert fetch_pretrained(cfg(), cache_dir=tmp_path).read_bytes() == authors_file()
    assert asked == [PAGE]


@pytest.mark.parametrize(
    "content, reason", [(b"<html>quota</html>", "quota|checkpoint|page"), (None, "Too many users")]
)
def test_what_is_no_checkpoint_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, reason: str
) -> None:
    use_gdown(monkeypatch, content)
    with pytest.raises(DownloadError, match=reason):
        fetch_pretrained(cfg(), cache_dir=tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_folder_of_drive_gives_its_one_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = use_gdown(monkeypatch, authors_file(), ("log.txt", "best.pth"))
    fetch_pretrained(cfg(manual_url=FOLDER), cache_dir=tmp_path)
    assert asked == ["https://drive.google.com/uc?id=id1"]
    use_gdown(monkeypatch, authors_file(), ("a.pth", "b.pth"))
    with pytest.raises(DownloadError, match=r"2 files of weights \(a.pth, b.pth\)"):
        fetch_pretrained(cfg(architecture="other", manual_url=FOLDER), cache_dir=tmp_path)


def test_pages_elsewhere_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = use_gdown(monkeypatch, authors_file())
    with pytest.raises(DownloadError, match=r"pan\.baidu"):
        fetch_pretrained(cfg(manual_url="https://pan.baidu.com/s/0"), cache_dir=tmp_path)
    assert asked == []
    assert not shared.is_on_drive("https://drive.google.com.evil.org/file/d/0")


class Hub(Handler):
    """As much of a Hugging Face hub as a repository with one file needs."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("ETag", '"e1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(authors_file())))
        self.end_headers()


ASK = """
import sys
from visionssm.checkpoints import OfficialCfg, fetch_pretrained
cfg = OfficialCfg(architecture="toy", manual_url="https://pan.baidu.com/s/0", hub_page="authors/toy")
print(fetch_pretrained(cfg, cache_dir=sys.argv[1]))
"""


def test_repository_of_a_mirror_gives_its_one_file_and_the_offline_cache_gives_it_again(
    tmp_path: Path, server: Server
) -> None:
    server.RequestHandlerClass = Hub
    server.serve("authors/toy/resolve/main/best.pth", authors_file())
    server.serve("authors/toy/resolve/" + "0" * 40 + "/best.pth", authors_file())
    listed = b'[{"type": "file", "path": "README.md", "size": 1, "oid": "0"},'
    listed += b'{"type": "file", "path": "best.pth", "size": 2, "oid": "1"}]'
    for revision in ("main", "0" * 40):
        server.serve(f"api/models/authors/toy/tree/{revision}?recursive=true&expand=false", listed)
        server.serve(f"api/models/authors/toy/tree/{revision}?recursive=True&expand=False", listed)
    environment = {**os.environ, "HF_ENDPOINT": server.url("").rstrip("/"), "HF_HOME": str(tmp_path / "hf")}
    ask = [sys.executable, "-c", ASK, str(tmp_path / "cache")]
    answer = subprocess.run(ask, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr + str(server.requests)
    assert Path(answer.stdout.strip()).read_bytes() == authors_file()
