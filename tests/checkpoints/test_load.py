"""Strict loading, and conversion to this package's names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tests.checkpoints.files import (
    NAME,
    assert_holds,
    authors_state,
    write,
)
from visionssm.checkpoints import (
    CheckpointError,
    create_official,
    load_official,
    save_converted,
)


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
