"""`pretrained=True` against a local server: download, conversion, and what can go wrong."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest
import timm
import torch

from tests.checkpoints.files import (
    NAME,
    RunsCode,
    assert_holds,
    authors_file,
    authors_state,
    cfg_of,
    kept,
    pretrained,
    saved,
)
from tests.checkpoints.serving import Server
from visionssm.checkpoints import (
    CheckpointError,
    DownloadError,
)


def test_pretrained_downloads_converts_and_loads_the_authors_file(server: Server, cache: Path) -> None:
    model = pretrained(server.serve("nano.pth", authors_file()))
    assert_holds(model, authors_state(0))
    assert kept(cache) == ["nano.pth"]


def test_second_use_takes_the_cached_file(server: Server, cache: Path) -> None:
    url = server.serve("nano.pth", authors_file())
    pretrained(url)
    pretrained(url)
    assert len(server.requests) == 1


def test_cache_dir_wins_over_torch_home(server: Server, cache: Path, tmp_path: Path) -> None:
    pretrained(server.serve("nano.pth", authors_file()), cache_dir=tmp_path / "elsewhere")
    assert kept(tmp_path / "elsewhere") == ["nano.pth"]
    assert kept(cache) == []


def test_missing_file_on_the_server_is_a_clear_error_and_leaves_nothing(server: Server, cache: Path) -> None:
    with pytest.raises(DownloadError, match=r"HTTP 404.*moved or removed"):
        pretrained(server.url("absent.pth"))
    assert kept(cache) == []
    assert len(server.requests) == 1, "a file that is not there is not asked for again"


def test_refused_connection_is_a_clear_error(cache: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken but not listening
        with pytest.raises(DownloadError, match=r"Without a connection.*file=path"):
            pretrained(f"http://127.0.0.1:{unused.getsockname()[1]}/nano.pth")
    assert kept(cache) == []


def test_truncated_transfer_is_a_clear_error_and_leaves_nothing(server: Server, cache: Path) -> None:
    content = authors_file()
    url = server.serve("nano.pth", content, cut_after=[1000] * 9)
    with pytest.raises(DownloadError, match=rf"incomplete after 3 attempts: 1,000 of {len(content):,} bytes"):
        pretrained(url)
    assert kept(cache) == []


def test_truncated_file_of_undeclared_length_is_a_clear_error_and_leaves_nothing(server: Server, cache: Path) -> None:
    content = authors_file()
    url = server.serve("nano.pth", content[: len(content) // 2], send_length=False)
    with pytest.raises(DownloadError, match="truncated or damaged checkpoint"):
        pretrained(url)
    assert kept(cache) == []


def test_interrupted_transfer_is_resumed_at_once(server: Server, cache: Path) -> None:
    content = authors_file()
    model = pretrained(server.serve("nano.pth", content, etag='"v1"', cut_after=[5000, 7000]))
    assert server.requests == [("nano.pth", None), ("nano.pth", "bytes=5000-"), ("nano.pth", "bytes=12000-")]
    assert_holds(model, authors_state(0))
    assert kept(cache) == ["nano.pth"]
    assert (cache / "nano.pth").read_bytes() == content


def test_interrupted_transfer_is_resumed_by_a_later_call(server: Server, cache: Path) -> None:
    url = server.serve("nano.pth", authors_file(), etag='"v1"', cut_after=[1000, 1000, 1000])
    with pytest.raises(DownloadError, match="Run again to go on from there"):
        pretrained(url)
    assert "nano.pth" not in kept(cache)
    pretrained(url)
    assert server.requests[-1] == ("nano.pth", "bytes=3000-")
    assert kept(cache) == ["nano.pth"]


def test_file_that_changed_between_two_transfers_is_fetched_from_the_start(server: Server, cache: Path) -> None:
    old, new = authors_file(), saved({"model": authors_state(7)})
    url = server.serve("nano.pth", old, etag='"v1"', cut_after=[1000] * 3)
    with pytest.raises(DownloadError):
        pretrained(url)
    server.serve("nano.pth", new, etag='"v2"')
    assert_holds(pretrained(url), authors_state(7))
    assert (cache / "nano.pth").read_bytes() == new


def test_busy_server_is_asked_again(server: Server, cache: Path) -> None:
    pretrained(server.serve("nano.pth", authors_file(), fail_first=2))
    assert len(server.requests) == 3


def test_wrong_hash_is_a_clear_error_and_leaves_nothing(server: Server, cache: Path) -> None:
    url = server.serve("nano.pth", authors_file())
    with pytest.raises(DownloadError, match=r"wrong hash: sha256 [0-9a-f]{64}, but 0123456789"):
        pretrained(url, overlay={"sha256": "0123456789" * 6 + "0123"})
    assert kept(cache) == []


@pytest.mark.parametrize("digits", [8, 64])
def test_right_hash_is_accepted_in_full_and_shortened(server: Server, cache: Path, digits: int) -> None:
    content = authors_file()
    digest = hashlib.sha256(content).hexdigest()[:digits]
    assert_holds(pretrained(server.serve("nano.pth", content), overlay={"sha256": digest}), authors_state(0))


def test_web_page_instead_of_weights_is_a_clear_error_and_leaves_nothing(server: Server, cache: Path) -> None:
    url = server.serve("nano.pth", b"\n<!DOCTYPE html><html><body>Please sign in</body></html>")
    with pytest.raises(DownloadError, match=r"web page \(HTML\).*Please sign in"):
        pretrained(url)
    assert kept(cache) == []


def test_file_with_code_is_refused_unrun_and_leaves_nothing(server: Server, cache: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    url = server.serve("nano.pth", saved({"model": authors_state(), "extra": RunsCode(proof)}))
    with pytest.raises(DownloadError, match=r"wants to run code.*posix\.mkdir|nt\.mkdir"):
        pretrained(url)
    assert kept(cache) == []
    assert not proof.exists()


@pytest.mark.parametrize("num_classes", [1000, 10], ids=["same classes", "new classifier"])
def test_wrong_architecture_is_a_clear_error(server: Server, cache: Path, num_classes: int) -> None:
    """timm alone loads what happens to fit and only logs the rest when the class count differs."""
    url = server.serve("other.pth", authors_file(depths=(1, 1, 2, 1)))
    with pytest.raises(
        CheckpointError, match=r"(?s)other\.pth' does not fit vmamba_nano_test.*\d+ unexpected: layers\.2"
    ):
        pretrained(url, num_classes=num_classes)


def test_unsound_cached_file_is_fetched_again(server: Server, cache: Path) -> None:
    url = server.serve("nano.pth", authors_file())
    cache.mkdir(parents=True)
    (cache / "nano.pth").write_bytes(b"<html>left by another tool</html>")
    assert_holds(pretrained(url), authors_state(0))
    assert kept(cache) == ["nano.pth"]


def test_file_overlay_needs_no_server(tmp_path: Path) -> None:
    path = tmp_path / "by hand.pth"
    path.write_bytes(authors_file())
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert_holds(model, authors_state(0))


def test_missing_overlay_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth' does not exist"):
        timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "absent.pth")})


def test_state_dict_overlay_stays_with_timm() -> None:
    model = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"state_dict": authors_state(3)})
    assert_holds(model, authors_state(3))


def test_other_class_count_and_channels_are_adapted_as_timm_does(server: Server, cache: Path) -> None:
    model = pretrained(server.serve("nano.pth", authors_file()), num_classes=10, in_chans=1)
    assert_holds(model, authors_state(0), without=("head.fc", "patch_embed.0.weight"))
    stem = authors_state(0)["patch_embed.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.state_dict()["patch_embed.0.weight"], stem)
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_features_only_model_gets_the_weights(server: Server, cache: Path) -> None:
    model = pretrained(server.serve("nano.pth", authors_file()), features_only=True)
    state = model.state_dict()
    key = next(key for key in state if key.endswith("layers.3.blocks.0.op.A_logs"))
    torch.testing.assert_close(state[key], authors_state(0)["layers.3.blocks.0.op.A_logs"])


def test_pretrained_cfg_of_a_model_is_understood_by_timm(server: Server, cache: Path) -> None:
    model = pretrained(server.serve("nano.pth", authors_file()))
    again = timm.create_model(NAME, pretrained=True, pretrained_cfg=cfg_of(model))
    assert_holds(again, authors_state(0))


def test_model_without_weights_keeps_the_error_of_timm() -> None:
    with pytest.raises(RuntimeError, match="pretrained=False"):
        timm.create_model(NAME, pretrained=True)
