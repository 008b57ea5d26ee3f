"""Weight decay only where it belongs, mixed precision on any device, and a stop before NaN reaches the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from visionssm.engine.errors import ConfigError, NonFiniteError
from visionssm.engine.sharding import is_sharded, local


def bare_model(model: nn.Module) -> nn.Module:
    """The model inside a wrapper for distributed training, or the model itself."""
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class DecayConstructor:
    """Optimizer in two parameter groups, with and without weight decay.

    Not decayed: vectors and scalars (norms, biases, gains), and what any part of the model names in
    `no_weight_decay()`, as timm's models do.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        if paramwise_cfg:
            raise ConfigError("optim_wrapper.paramwise_cfg goes with MMEngine's constructor; leave out `constructor`")
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = bare_model(model)
        decay = self.optimizer_cfg.get("weight_decay", 0.0)
        groups = param_groups_weight_decay(model, decay, no_weight_decay_list=undecayed_names(model))
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": groups})
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.wrapper_cfg, "optimizer": optimizer})


def undecayed_names(model: nn.Module) -> set[str]:
    """Full names of the parameters that parts of the model exclude from weight decay."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        listed: Callable[[], Any] | None = getattr(module, "no_weight_decay", None)
        if callable(listed):
            names |= {f"{prefix}.{name}" if prefix else name for name in listed()}
    return names


@OPTIM_WRAPPERS.register_module()
class MixedPrecision(OptimWrapper):
    """Autocast, with loss scaling where float16 needs it; unlike MMEngine's, also on a CPU.

    Args:
        dtype: "float16" or "bfloat16"; None for float16 on accelerators and bfloat16 on CPUs.
        loss_scale: first scale of dynamic loss scaling, only used with float16.
    """

    def __init__(self, dtype: str | None = None, loss_scale: float = 2.0**16, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.device_type = next(x for group in self.optimizer.param_groups for x in group["params"]).device.type
        chosen = dtype or ("bfloat16" if self.device_type == "cpu" else "float16")
        if chosen not in ("float16", "bfloat16"):
            raise ConfigError(f"optim_wrapper.dtype must be 'float16' or 'bfloat16', got {dtype!r}")
        self.dtype = torch.float16 if chosen == "float16" else torch.bfloat16
        self.scaler = torch.amp.GradScaler(self.device_type, init_scale=loss_scale, enabled=chosen == "float16")

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Gradients of the scaled loss."""
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Unscale, clip, step (left out where a gradient overflowed), adapt the scale."""
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forward passes inside run in reduced precision."""
        with super().optim_context(model), torch.autocast(self.device_type, dtype=self.dtype):
            yield

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and the scaler."""
        return {**super().state_dict(), "loss_scaler": self.scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both; a state without scaler (of a run in full precision) leaves the scaler as it is."""
        state = dict(state_dict)
        scaler = state.pop("loss_scaler", None)
        if scaler:
            self.scaler.load_state_dict(scaler)
        super().load_state_dict(state)


def guard_updates(wrapper: OptimWrapper, model: nn.Module) -> None:
    """Let `wrapper.update_params` refuse a loss that is not finite, before it changes any weight."""
    update = wrapper.update_params

    def guarded(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if not torch.isfinite(loss.detach()).all():
            raise NonFiniteError(explain_non_finite(model, loss, wrapper))
        update(loss, *args, **kwargs)

    wrapper.update_params = guarded


def non_finite(named: Any) -> list[str]:
    """Names of the tensors that hold NaN or infinity, in this process's part if they are sharded."""
    return [name for name, x in named if x is not None and not torch.isfinite(local(x.detach())).all()]


def explain_non_finite(model: nn.Module, loss: Tensor, wrapper: OptimWrapper) -> str:
    """Which step, and which parameters are, or would by this step become, NaN or infinite."""
    model = bare_model(model)
    step = MessageHub.get_current_instance().get_info("iter", 0) + 1
    rates = sorted({f"{group['lr']:.3g}" for group in wrapper.optimizer.param_groups})
    start = (
        f"the loss is {float(loss.detach()):g} at step {step} (learning rate {', '.join(rates)}); "
        "training stopped before this update."
    )
    named = [(name, x) for name, x in model.named_parameters() if x.requires_grad]
    broken = non_finite(named)
    if broken:
        return (
            f"{start} The update before already made parameter {broken[0]!r} non-finite"
            f"{_and_more(broken)}: lower the learning rate, clip gradients, or resume from an earlier checkpoint."
        )
    if is_sharded(model):
        return f"{start} All parameters are finite; check the inputs and labels of this batch, and the loss itself."
    # not loss.backward(): its hooks would wait for the other processes of a distributed run
    gradients = torch.autograd.grad(loss, [x for _, x in named], allow_unused=True) if loss.requires_grad else ()
    broken = non_finite(zip((name for name, _ in named), gradients, strict=False))
    if broken:
        return (
            f"{start} All parameters are finite; the gradient of parameter {broken[0]!r} is not{_and_more(broken)}. "
            "Check the inputs and labels of this batch, or reduce the learning rate."
        )
    return f"{start} Parameters and their gradients are finite: check the loss itself, its inputs and labels."


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
