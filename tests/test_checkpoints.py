"""Official checkpoints: reading, unwrapping, strict loading, and `pretrained=True` against a local server."""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import http.server
import io
import os
import re
import socket
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models import PretrainedCfg, register_model
from timm.models._registry import _clear_model_entries, _model_entrypoints
from torch import Tensor, nn

import visionssm
from visionssm.backbones._base import build, imagenet_cfg
from visionssm.backbones.vmamba import VMamba, checkpoint_filter_fn
from visionssm.checkpoints import (
    CheckpointError,
    DownloadError,
    OfficialCfg,
    convert_state_dict,
    create_official,
    download_checkpoint,
    fetch,
    fetch_pretrained,
    load_official,
    read_checkpoint,
    save_converted,
    unwrap_state_dict,
)
from visionssm.checkpoints.load import compare

NAME = "vmamba_nano_test"
CLASSIFIER = {"head.norm.": "classifier.norm.", "head.fc.": "classifier.head."}


@functools.cache
def authors_state(seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
    """Weights of the smallest variant under the authors' names."""
    torch.manual_seed(seed)
    state = timm.create_model(NAME, **kwargs).state_dict()
    for ours, theirs in CLASSIFIER.items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    return {key: torch.randn_like(value) for key, value in state.items()}


@functools.cache
def authors_file(**kwargs: Any) -> bytes:
    """A file as the authors' trainer writes it: raw weights, their average, optimizer and arguments."""
    checkpoint = {
        "model": authors_state(0, **kwargs),
        "model_ema": authors_state(1, **kwargs),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(8)}}, "param_groups": [{"lr": 1e-3}]},
        "max_accuracy": np.float64(82.6),
        "args": argparse.Namespace(lr=1e-3, model="nano"),
        "epoch": 264,
    }
    return saved(checkpoint)


def saved(obj: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


class RunsCode:
    """Creates a folder when it is unpickled by a reader that runs code."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


# A server that can fail in every way that servers do.


@dataclass
class Served:
    """What the server does for one address."""

    content: bytes = b""
    status: int = 200
    etag: str | None = None
    cut_after: list[int] = field(default_factory=list)  # bytes sent by the next responses before they hang up
    send_length: bool = True
    fail_first: int = 0  # responses that are 503


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, and notes the headers of every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def serve(self, name: str, content: bytes = b"", **options: Any) -> str:
        self.files[name] = Served(content, **options)
        return self.url(name)


class Handler(http.server.BaseHTTPRequestHandler):
    """Ranges, ETags, hang-ups and errors, as `Served` says."""

    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        wanted = self.headers.get("Range")
        self.server.requests.append((name, wanted))
        served = self.server.files.get(name, Served(b"gone", status=404))
        if served.fail_first:
            served.fail_first -= 1
            self.send_error(503)
            return
        start = 0
        if wanted and served.etag and self.headers.get("If-Range") == served.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = served.content[start:]
        self.send_response(206 if start else served.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(served.content) - 1}/{len(served.content)}")
        if served.send_length:
            self.send_header("Content-Length", str(len(body)))
        if served.etag:
            self.send_header("ETag", served.etag)
        self.end_headers()
        self.wfile.write(body[: served.cut_after.pop(0)] if served.cut_after else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    return tmp_path / "torch_home" / "hub" / "checkpoints"


def kept(cache: Path) -> list[str]:
    """Files in the cache, without the locks."""
    return sorted(file.name for file in cache.iterdir() if file.is_file()) if cache.is_dir() else []


def pretrained(url: str, **kwargs: Any) -> nn.Module:
    overlay = {"url": url, **kwargs.pop("overlay", {})}
    return timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)


def cfg_of(model: nn.Module) -> dict[str, Any]:
    cfg = model.pretrained_cfg
    assert isinstance(cfg, dict)
    return dict(cfg)


def assert_holds(model: nn.Module, state: dict[str, Tensor], *, without: tuple[str, ...] = ()) -> None:
    """The model's weights are those of a state dict under the authors' names."""
    ours = checkpoint_filter_fn(state, model)
    compared = [key for key in model.state_dict() if not key.startswith(without)] if without else model.state_dict()
    for key in compared:
        torch.testing.assert_close(model.state_dict()[key], ours[key], rtol=0, atol=0, msg=key)


# pretrained=True


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


# What the families registered


def official_cfgs() -> dict[str, PretrainedCfg]:
    return {
        tagged: cfg
        for name in visionssm.list_models()
        for tagged, cfg in timm.models.get_arch_pretrained_cfgs(name).items()
    }


@pytest.mark.parametrize("name", visionssm.list_models())
def test_every_registered_model_loads_pretrained_files_through_this_package(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    assert callable(getattr(model, "load_pretrained", None))


@pytest.mark.parametrize("name", visionssm.list_models())
def test_key_map_recognises_our_own_layout(name: str) -> None:
    """Converted files, and those that training writes, pass through the same map."""
    with torch.device("meta"):
        model = timm.create_model(name)
    assert not compare(convert_state_dict(model, dict(model.state_dict())), model)


@pytest.mark.parametrize("name", [name for name in visionssm.list_models() if name.endswith("_test")])
def test_key_map_leaves_values_of_our_own_layout_unchanged(name: str) -> None:
    state = dict(timm.create_model(name).state_dict())
    torch.testing.assert_close(convert_state_dict(timm.create_model(name), state), state, rtol=0, atol=0)


def test_published_files_have_sound_addresses_and_names_of_their_own_in_the_cache() -> None:
    cached: dict[str, str] = {}
    for name, cfg in official_cfgs().items():
        digest = getattr(cfg, "sha256", None)
        assert digest is None or re.fullmatch("[0-9a-f]{8,64}", digest), name
        if cfg.url:
            url, file = (cfg.url, Path(urlparse(cfg.url).path).name) if isinstance(cfg.url, str) else cfg.url
            assert url.startswith("https://"), name
            assert file, name
            assert cached.setdefault(file, url) == url, f"{name} would be confused with another file in the cache"


@pytest.fixture
def register() -> Iterator[Any]:
    """Registers a variant of the smallest model with a configuration of its own, for the time of a test."""
    module = sys.modules[__name__]
    names: list[str] = []

    def add(name: str, cfg: OfficialCfg) -> str:
        def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
            options = {"depths": (1, 1, 1, 1), "dim": 24, **kwargs}
            return build(VMamba, name, pretrained, checkpoint_filter_fn=checkpoint_filter_fn, **options)

        entry_point.__name__ = name
        entry_point.__module__ = __name__
        module.default_cfgs = timm.models.generate_default_cfgs({f"{name}.authors": cfg})  # type: ignore[attr-defined]
        register_model(entry_point)
        names.append(name)
        return name

    yield add
    for name in names:
        _clear_model_entries(name)
        _model_entrypoints.pop(name)
    for attribute in ("default_cfgs", "__all__"):
        vars(module).pop(attribute, None)


def test_recorded_hash_guards_the_registered_address_only(server: Server, cache: Path, register: Any) -> None:
    url = server.serve("nano.pth", authors_file())
    name = register("toy_hashed", imagenet_cfg(url, sha256="00000000"))
    with pytest.raises(DownloadError, match="wrong hash"):
        timm.create_model(name, pretrained=True)
    plain = cfg_of(timm.create_model(name))
    assert "sha256" not in plain
    with pytest.raises(DownloadError, match="wrong hash"):
        timm.create_model(name, pretrained=True, pretrained_cfg=plain)
    mirror = server.serve("mirror.pth", authors_file())
    timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"url": mirror})


def test_preferred_wrapper_is_that_of_the_registered_configuration(
    server: Server, cache: Path, register: Any, tmp_path: Path
) -> None:
    url = server.serve("nano.pth", authors_file())
    name = register("toy_ema", imagenet_cfg(url, prefer=("model_ema", "model")))
    model = timm.create_model(name, pretrained=True)
    assert_holds(model, authors_state(1))
    assert_holds(load_official(timm.create_model(name), cache / "nano.pth"), authors_state(1))
    assert_holds(load_official(timm.create_model(name), cache / "nano.pth", prefer=("model",)), authors_state(0))


def test_checkpoint_for_hands_only_says_where_it_is_and_how_to_use_it(register: Any, tmp_path: Path) -> None:
    page = "https://drive.google.com/file/d/0/view"
    name = register("toy_manual", imagenet_cfg(manual_url=page))
    with pytest.raises(DownloadError, match=rf"{page}.*load_official\(model, path\).*dict\(file=path\)"):
        timm.create_model(name, pretrained=True)
    path = tmp_path / "downloaded.pth"
    path.write_bytes(authors_file())
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert_holds(model, authors_state(0))


# Downloads


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


# Reading


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_pytorch_files_of_both_formats_are_read(tmp_path: Path, options: dict[str, bool]) -> None:
    state = authors_state()
    read = read_checkpoint(write(tmp_path / "file.bin", saved({"model": state}, **options)))
    assert read["model"].keys() == state.keys()
    torch.testing.assert_close(read["model"], state)


def test_safetensors_is_recognised_whatever_its_name(tmp_path: Path) -> None:
    read = read_checkpoint(write(tmp_path / "weights.pth", safetensors.torch.save({"w": torch.arange(6.0)})))
    torch.testing.assert_close(read["w"], torch.arange(6.0))


def test_configuration_objects_of_missing_packages_do_not_hinder_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMamba's and Swin's trainers store a yacs CfgNode beside the weights."""

    class CfgNode(dict):  # type: ignore[type-arg]
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    config = CfgNode(MODEL=CfgNode(NAME="vssm"))
    config.__dict__["__immutable__"] = True
    numbers = {"accuracy": np.float32(82.6), "steps": np.int64(3), "curve": np.arange(3.0)}
    path = write(tmp_path / "file.pth", saved({"model": {"w": torch.ones(2)}, "config": config, **numbers}))
    monkeypatch.undo()
    read = read_checkpoint(path)
    assert type(read["config"]) is collections.OrderedDict
    assert read["config"]["MODEL"]["NAME"] == "vssm"
    assert read["accuracy"] == np.float32(82.6)
    np.testing.assert_array_equal(read["curve"], np.arange(3.0))


def test_checkpoint_of_an_mmengine_runner_is_read(tmp_path: Path) -> None:
    """Its message hub keeps training curves in objects of its own."""
    mmengine = pytest.importorskip("mmengine", reason="part of the train extra")
    hub = mmengine.logging.MessageHub.get_instance("test_checkpoints")
    hub.update_scalar("train/loss", 0.5)
    content = {"state_dict": {"w": torch.ones(2)}, "message_hub": hub.state_dict(), "meta": {"epoch": 1}}
    read = read_checkpoint(write(tmp_path / "epoch_1.pth", saved(content)))
    assert unwrap_state_dict(read).keys() == {"w"}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_named_and_not_run(tmp_path: Path, zipped: bool) -> None:
    proof = tmp_path / "proof"
    content = saved({"model": RunsCode(proof)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"wants to run code.*(posix|nt)\.mkdir"):
        read_checkpoint(write(tmp_path / "file.pth", content))
    assert not proof.exists()


GOOD = {"zip": saved({"w": torch.ones(4000)}), "safetensors": safetensors.torch.save({"w": torch.ones(4000)})}
GOOD["legacy"] = saved({"w": torch.ones(4000)}, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("kind", sorted(GOOD))
@given(share=st.floats(0, 0.999))
def test_every_truncation_is_an_error_of_ours(
    kind: str, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "file.pth"
    with pytest.raises(CheckpointError, match=r"empty|truncated|damaged|text"):
        read_checkpoint(write(path, GOOD[kind][: int(share * len(GOOD[kind]))]))


@given(content=st.binary(max_size=300))
def test_arbitrary_bytes_are_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with pytest.raises(CheckpointError):
        read_checkpoint(write(tmp_path_factory.mktemp("bytes") / "file.pth", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b'{"message": "Not Found"}', "text file"),
        (b"PK\x03\x04 not an archive", "truncated or damaged"),
    ],
)
def test_usual_impostors_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write(tmp_path / "file.pth", content))


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_checkpoint(tmp_path)


# Unwrapping


@given(
    wrappers=st.lists(st.sampled_from(["model", "state_dict", "model_ema", "ema_model", "module"]), max_size=3),
    prefixes=st.lists(st.sampled_from(["module.", "_orig_mod."]), max_size=3),
)
def test_wrappers_and_prefixes_are_removed_however_often(wrappers: list[str], prefixes: list[str]) -> None:
    state = {"stem.weight": torch.ones(1), "model.head.bias": torch.zeros(1)}
    wrapped: Any = {"".join(prefixes) + key: value for key, value in state.items()}
    for key in wrappers:
        wrapped = {"epoch": 3, "args": None, key: wrapped}
    assert unwrap_state_dict(wrapped) == state


def test_prefix_of_some_keys_only_is_a_name_and_stays() -> None:
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert unwrap_state_dict(state) == state


def test_counter_of_an_averaged_model_is_dropped_with_its_prefix() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 1))
    assert unwrap_state_dict(averaged.state_dict()).keys() == {"weight", "bias"}


def test_first_preferred_wrapper_wins() -> None:
    both = {"model_ema": {"w": torch.ones(1)}, "model": {"w": torch.zeros(1)}}
    assert unwrap_state_dict(both)["w"] == 0
    assert unwrap_state_dict(both, prefer=("model_ema", "model"))["w"] == 1


def test_unknown_wrapper_is_an_error_that_lists_the_keys() -> None:
    with pytest.raises(CheckpointError, match=r"epoch, weights.*`prefer`"):
        unwrap_state_dict({"epoch": 1, "weights": {"w": torch.ones(1)}})
    with pytest.raises(CheckpointError, match="holds a list"):
        unwrap_state_dict([torch.ones(1)])


# Strict loading


def altered(change: str) -> dict[str, Tensor]:
    state = dict(authors_state())
    if change == "missing":
        del state["patch_embed.0.bias"]
    elif change == "unexpected":
        state["layers.9.extra"] = torch.ones(1)
    else:
        state["patch_embed.2.weight"] = torch.ones(5)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"1 missing: patch_embed\.0\.bias"),
        ("unexpected", r"1 unexpected: layers\.9\.extra"),
        ("mis-shaped", r"1 mis-shaped: patch_embed\.2\.weight is \(12,\) in the model and \(5,\) in the file"),
    ],
)
def test_any_difference_is_an_error_and_leaves_the_model_unchanged(change: str, message: str) -> None:
    model = timm.create_model(NAME)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_official(model, altered(change))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_variant_that_the_checkpoint_fits_is_named() -> None:
    with torch.device("meta"):
        state = timm.create_model("vmamba_tiny_s1l8").state_dict()
    with pytest.raises(CheckpointError, match="it fits vmamba_tiny_s1l8"):
        load_official(timm.create_model(NAME), state)


def test_other_class_count_is_explained() -> None:
    with pytest.raises(CheckpointError, match=r"7 classes: build the model with num_classes=7"):
        load_official(timm.create_model(NAME), authors_state(num_classes=7))


def test_other_channel_count_is_explained() -> None:
    with pytest.raises(CheckpointError, match="input channels"):
        load_official(timm.create_model(NAME, in_chans=1), authors_state())


def test_checkpoint_of_another_family_is_called_that() -> None:
    state = timm.create_model("test_efficientnet").state_dict()
    with pytest.raises(CheckpointError, match="another family or code base"):
        load_official(timm.create_model(NAME), state)


def test_one_by_one_convolutions_of_older_files_are_accepted() -> None:
    state = authors_state()
    key = "layers.0.blocks.0.op.in_proj.weight"
    model = load_official(timm.create_model(NAME), {**state, key: state[key][:, :, None, None]})
    assert_holds(model, state)


def test_model_is_built_with_the_class_count_of_the_checkpoint() -> None:
    model = create_official(NAME, {"model": authors_state(num_classes=7)})
    assert model.num_classes == 7
    assert_holds(model, authors_state(num_classes=7))


def test_unknown_variant_is_an_error() -> None:
    with pytest.raises(ValueError, match="'vmamba_gigantic' is not registered"):
        create_official("vmamba_gigantic", {})


def test_converted_file_loads_through_timm_and_strictly(tmp_path: Path) -> None:
    path = save_converted(create_official(NAME, authors_state(5)), tmp_path / "folder" / "nano.safetensors")
    overlay = {"file": str(path)}
    assert_holds(timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay), authors_state(5))
    assert_holds(load_official(timm.create_model(NAME), path), authors_state(5))
    assert [file.name for file in path.parent.iterdir()] == ["nano.safetensors"]


def test_failed_conversion_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "nano.safetensors", b"old")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_converted(timm.create_model(NAME), path)
    assert [file.name for file in tmp_path.iterdir()] == ["nano.safetensors"]
    assert path.read_bytes() == b"old"
