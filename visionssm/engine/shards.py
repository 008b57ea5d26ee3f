"""What `sharding` describes: a model in parts, and states whole in checkpoints and in parts in the processes.

A block's parameters come together while it runs, and those outside of blocks while the model runs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from visionssm.engine.errors import ConfigError
from visionssm.engine.sharding import KIND

BLOCKS = ("blocks", "layers")
"""Names of the lists whose elements are units, in timm's models and in ours."""


def shard(model: nn.Module, device: torch.device, cfg: Mapping[str, Any]) -> nn.Module:
    """Leave this process its part of a model that is the same in all processes, and make it compute as the whole.

    Args:
        model: on the CPU, so that no device has to hold it whole.
        device: for its part.
        cfg: the whole configuration: `model_wrapper_cfg.units` names lists whose elements' parameters come together
            while that element runs; with an `EMAHook`, the model can be copied once, for the moving average.
    Raises:
        ConfigError: no such list is in the model, or it has parameters without dimensions.
    """
    units = cfg["model_wrapper_cfg"].get("units", BLOCKS)
    averaged = any(_is_average(hook) for hook in cfg.get("custom_hooks") or [])
    twin = copy.deepcopy(model) if averaged else None
    sharded = _sharded(model, device, units)
    if twin is not None:
        copies = [_sharded(twin, device, units)]

        def copied(memo: dict[int, Any]) -> nn.Module:
            if not copies:
                raise ConfigError(f"one moving average goes with model_wrapper_cfg.type={KIND!r}, not several")
            copies[0].load_state_dict(sharded.state_dict())
            return copies.pop()

        sharded.__deepcopy__ = copied  # type: ignore[assignment]  # MMEngine's moving averages begin as copies
    return sharded


def _is_average(hook: Any) -> bool:
    kind = hook.get("type") if isinstance(hook, Mapping) else None
    found = HOOKS.get(kind) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, EMAHook)


def _sharded(model: nn.Module, device: torch.device, units: Sequence[str]) -> nn.Module:
    scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise ConfigError(f"model_wrapper_cfg.type={KIND!r} needs parameters of one dimension or more: {scalars[0]!r}")
    blocks = list(_units(model, units))
    if not blocks and tuple(units) != BLOCKS:
        raise ConfigError(f"model_wrapper_cfg.units={list(units)}: the model has no list of any of these names")
    for value in (*model.parameters(), *model.buffers()):  # as when a model is replicated: the first process's count
        whole = value.detach().to(device)
        distributed.broadcast(whole, src=0)
        value.data.copy_(whole)
    mesh = distributed.init_device_mesh(device.type, (distributed.get_world_size(),))
    # Resharded after the forward pass, the outermost too: moving averages and checkpoints look at parameters then.
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    model.register_load_state_dict_pre_hook(_take_parts)
    return model.to(device)


def _units(model: nn.Module, names: Sequence[str]) -> Iterator[nn.Module]:
    """Elements of the named lists that have parameters and no such list within.

    Those that have one may be taken apart by the model, which calls the parts; so their own parameters are the model's.
    Networks that say `takes_blocks_apart` have no units: they use parameters of a block outside of its `forward`.
    """
    for element in (element for found in _lists(model, names) for element in found.children()):
        if not _lists(element, names) and any(True for _ in element.parameters()):
            yield element


def _lists(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    return [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in names
        and isinstance(module, (nn.ModuleList, nn.Sequential))
        and not getattr(model.get_submodule(name.rpartition(".")[0]), "takes_blocks_apart", False)
    ]


def whole(value: Any, keep: bool) -> Any:
    """A nested state with whole tensors, on the CPU, instead of parts; all processes must call it.

    Args:
        keep: this process needs it; the others get parts of no memory in their place.
    """
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if keep else full.new_empty(0)
    if isinstance(value, Mapping):
        return {key: whole(item, keep) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item, keep) for item in value)
    return value


def _part(value: Any, like: Tensor) -> Any:
    """This process's part of a whole tensor, placed as another is; anything that does not fit stays as it is."""
    if not isinstance(value, Tensor) or not isinstance(like, DTensor) or isinstance(value, DTensor):
        return value
    if value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _take_parts(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    for key, own in module.state_dict().items():
        if prefix + key in state_dict:
            state_dict[prefix + key] = _part(state_dict[prefix + key], own)


def load_whole_states(optimizer: Optimizer) -> None:
    """Let `optimizer.load_state_dict` take its part of the states of whole parameters."""
    optimizer.register_load_state_dict_pre_hook(_take_parts_of_states)


def _take_parts_of_states(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    parameters = [x for group in optimizer.param_groups for x in group["params"]]
    numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
    states = dict(state_dict["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in states:
            states[number] = {name: _part(value, parameter) for name, value in states[number].items()}
    return {**state_dict, "state": states}
