"""Checkpoint files of the smallest variant, as the authors write theirs, and what is said of them."""

from __future__ import annotations

import argparse
import functools
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from visionssm.backbones.vmamba import checkpoint_filter_fn

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


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
