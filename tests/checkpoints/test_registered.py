"""What the families registered: addresses, hashes, key maps."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import timm
import torch
from PIL import Image
from timm.models import PretrainedCfg, _registry, register_model
from torch import nn

import visionssm
from tests.checkpoints.files import (
    assert_holds,
    authors_file,
    authors_state,
    cfg_of,
)
from tests.checkpoints.serving import Server
from visionssm.backbones._base import build, imagenet_cfg
from visionssm.backbones.vmamba import VMamba, checkpoint_filter_fn
from visionssm.checkpoints import (
    DownloadError,
    OfficialCfg,
    convert_state_dict,
    load_official,
)
from visionssm.checkpoints.fitting import compare
from visionssm.prediction import load_predictor


def official_cfgs() -> dict[str, PretrainedCfg]:
    return {
        tagged: cfg
        for name in visionssm.list_models()
        for tagged, cfg in timm.models.get_arch_pretrained_cfgs(name).items()
    }


@pytest.mark.parametrize("name", visionssm.list_models())
def test_every_registered_model_loads_files_through_this_package_and_its_key_map_recognises_our_own_layout(
    name: str,
) -> None:
    """Converted files, and those that training writes, pass through the same map."""
    with torch.device("meta"):
        model = timm.create_model(name)
    assert callable(getattr(model, "load_pretrained", None))
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


def test_published_files_say_whose_they_are_and_where_they_are_from() -> None:
    for name, cfg in official_cfgs().items():
        if cfg.url or cfg.hf_hub_id or getattr(cfg, "manual_url", None):
            assert cfg.paper_name, name
            assert cfg.paper_ids is None or re.fullmatch(r"arXiv:\d{4}\.\d{5}", cfg.paper_ids), name
            assert re.fullmatch(r"https://(github\.com|huggingface\.co|drive\.google\.com)/\S+", cfg.origin_url), name
            assert cfg.license is None or re.fullmatch(r"[a-z0-9.-]+", cfg.license), name


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
        clear = getattr(_registry, "_clear_model_entries", None)  # timm since 1.0.31
        if clear is not None:
            clear(name)
        _registry._model_entrypoints.pop(name)
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
    with pytest.raises(DownloadError, match=rf"{page}.*by hand to .*load_official\(model, path\).*dict\(file=path\)"):
        timm.create_model(name, pretrained=True)
    path = tmp_path / "downloaded.pth"
    path.write_bytes(authors_file())
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)})
    assert_holds(model, authors_state(0))


def test_name_of_a_model_stands_for_its_published_weights(server: Server, cache: Path, register: Any) -> None:
    name = register("toy_named", imagenet_cfg(server.serve("nano.pth", authors_file()), input_size=(3, 32, 32)))
    predictor = load_predictor(name, top_k=2)
    assert_holds(predictor.model, authors_state(0))
    assert len(predictor([Image.new("RGB", (40, 30))])[0].rows()) == 2


def test_name_that_is_mistyped_or_has_no_weights_is_an_error_that_helps(tmp_path: Path, register: Any) -> None:
    with pytest.raises(ValueError, match=r"neither a file nor a registered model; closest: 'vmamba_tiny_s1l8'"):
        load_predictor("vmamba_tiny_s1l")
    with pytest.raises(ValueError, match=r"no published weights of 'vmamba_nano_test'"):
        load_predictor("vmamba_nano_test")
    with pytest.raises(ValueError, match=r"no published weights of 'vmamba_tiny_s1l8\.nobody'"):
        load_predictor("vmamba_tiny_s1l8.nobody")
    for path in ("absent.pth", tmp_path / "vmamba_tiny_s1l8"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            load_predictor(path)
