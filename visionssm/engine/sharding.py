"""Sharded training: every process keeps a part of all parameters, gradients and optimizer states (PyTorch's FSDP2).

`model_wrapper_cfg = dict(type="FullyShard")` in a config asks for it. Here is what every training needs to know of it;
`shards` does it, and is imported then, which takes a second or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError

KIND = "FullyShard"


def asks_for_shards(wrapper: Mapping[str, Any] | None) -> bool:
    """Whether this is a `model_wrapper_cfg` of sharded training."""
    return isinstance(wrapper, Mapping) and wrapper.get("type") == KIND


def check_sharding(cfg: Mapping[str, Any]) -> None:
    """Refuse by name what sharding does not go with.

    Raises:
        ConfigError: so.
    """
    wrapper = cfg.get("model_wrapper_cfg")
    if wrapper is None or not asks_for_shards(wrapper):
        return
    for key in wrapper:
        if key not in ("type", "units"):
            raise ConfigError(f"unknown key {key!r} in model_wrapper_cfg; closest: {closest(key, ('type', 'units'))}")
    for key in ("compile", "activation_checkpointing"):
        if cfg.get(key):
            raise ConfigError(f"{key} does not go with model_wrapper_cfg.type={KIND!r}: leave one of them out")
    if cfg.get("default_scope") not in (None, "mmengine"):
        raise ConfigError(
            f"model_wrapper_cfg.type={KIND!r} is for the models of this package's tasks, not for those of "
            f"{cfg['default_scope']}: leave it out"
        )


def is_sharded(model: nn.Module) -> bool:
    """Whether `shards.shard` made it, by a method that it has then."""
    return callable(getattr(model, "reshard", None))


def local(value: Tensor) -> Tensor:
    """This process's part of a parameter; the whole of one that is not sharded."""
    return cast(Any, value).to_local() if hasattr(value, "to_local") else value
