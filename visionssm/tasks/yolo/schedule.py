"""Groups of parameters, their rates, and the moving average of Mamba-YOLO's recipe."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS
from torch import Tensor, nn

from visionssm.engine.errors import ConfigError
from visionssm.engine.optim import bare_model


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BiasConstructor:
    """Optimizer in three groups: weights, which decay; gains of norms, which do not; and biases, which do not either.

    Biases are all parameters with "bias" in their name, as in the published recipe: `dt_projs_bias` too. Their group
    has `bias=True`, by which `LinearWithWarmup` knows them.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        if paramwise_cfg:
            raise ConfigError("optim_wrapper.paramwise_cfg goes with MMEngine's constructor; leave out `constructor`")
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        weights, gains, biases = grouped(bare_model(model))
        decay = self.optimizer_cfg.get("weight_decay", 0.0)
        groups = [
            {"params": weights, "weight_decay": decay, "bias": False},
            {"params": gains, "weight_decay": 0.0, "bias": False},
            {"params": biases, "weight_decay": 0.0, "bias": True},
        ]
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, "params": [x for x in groups if x["params"]]})
        return OPTIM_WRAPPERS.build({"type": "OptimWrapper", **self.wrapper_cfg, "optimizer": optimizer})


def grouped(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Trainable weights, gains of norms, and biases of a model."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    gains = {id(x.weight) for x in model.modules() if isinstance(x, norms) and x.weight is not None}
    weights: list[Tensor] = []
    of_norms: list[Tensor] = []
    biases: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = biases if "bias" in name else of_norms if id(parameter) in gains else weights
            group.append(parameter)
    return weights, of_norms, biases


@PARAM_SCHEDULERS.register_module()
class LinearWithWarmup(_ParamScheduler):
    """The rate falls along a line to a share of itself, after three ramps: of weights, of biases and of the momentum.

    Of T steps, the first W are the warm-up. With the line r(t) = lr·(1 − (1 − end_share)·t/T), at step t < W weights
    have t/W·r(t), biases bias_lr + t/W·(r(t) − bias_lr), and the momentum is
    start_momentum + t/W·(momentum − start_momentum); afterwards all have r(t) and the optimizer's own momentum.

    Args:
        optimizer: an SGD, or an Adam, whose beta1 is the momentum then.
        end_share: the last rate over the first.
        warmup: W in steps, or in epochs with `convert_to_iter_based=True`.
        least_warmup: steps that the warm-up has at least.
        bias_lr: rate of biases at the first step.
        start_momentum: at the first step.
        begin, end, last_step, by_epoch, verbose: MMEngine's; begin is 0.
    Raises:
        ConfigError: an argument is out of range, or the schedule has no end.
    """

    def __init__(
        self,
        optimizer: Any,
        end_share: float = 0.01,
        warmup: float = 3,
        least_warmup: int = 100,
        bias_lr: float = 0.1,
        start_momentum: float = 0.8,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not 0 < end_share <= 1:
            raise ConfigError(f"LinearWithWarmup: end_share={end_share} must be above 0 and at most 1")
        if warmup < 0 or least_warmup < 0 or bias_lr < 0 or not 0 <= start_momentum < 1:
            raise ConfigError(
                f"LinearWithWarmup: warmup={warmup}, least_warmup={least_warmup} and bias_lr={bias_lr} must be 0 or "
                f"more, start_momentum={start_momentum} from 0 to below 1"
            )
        if end == INF or begin:
            raise ConfigError(
                "LinearWithWarmup: begin must be 0, and end the step (or epoch) at which the training ends"
            )
        self.end_share, self.bias_lr, self.start_momentum = end_share, bias_lr, start_momentum
        self.warmup = min(max(round(warmup), least_warmup), end)
        for group in optimizer.param_groups:
            group.setdefault("initial_momentum", _momentum(group))
        super().__init__(optimizer, "lr", begin, end, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        optimizer: Any,
        *,
        epoch_length: int,
        warmup: float = 3,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        **options: Any,
    ) -> LinearWithWarmup:
        """The same over steps, for a warm-up and an end in epochs."""
        end = end if end == INF else int(end * epoch_length)
        return cls(optimizer, warmup=warmup * epoch_length, begin=begin, end=end, by_epoch=False, **options)

    def step(self) -> None:
        """Go one step further."""
        super().step()
        if self._global_step < self.end:
            share = self._share()
            for group in self.optimizer.param_groups:
                whole = group["initial_momentum"]
                _set_momentum(group, self.start_momentum + share * (whole - self.start_momentum))

    def _share(self) -> float:
        """Of the warm-up, how much is behind."""
        return min(1.0, self.last_step / self.warmup) if self.warmup else 1.0

    def _get_value(self) -> list[float]:
        line = 1 - (1 - self.end_share) * min(1.0, self.last_step / self.end)
        share = self._share()
        values = []
        for group, base in zip(self.optimizer.param_groups, self.base_values, strict=True):
            start = self.bias_lr if group.get("bias") else 0.0
            values.append(start + share * (base * line - start))
        return values


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, group["betas"][1])
    else:
        group["momentum"] = value


@MODELS.register_module()
class RampedAverage(ExponentialMovingAverage):
    """A moving average that follows closely at first: at step t its decay is (1 − momentum)·(1 − e^(−t/ramp)).

    Args:
        model: averaged.
        momentum: share of the model in the end.
        ramp: steps after which the decay is 63 % of its last value.
        interval, device, update_buffers: MMEngine's.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: float = 1e-4,
        ramp: float = 2000.0,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        if ramp <= 0:
            raise ConfigError(f"RampedAverage: ramp={ramp} must be above 0")
        super().__init__(model, momentum, interval, device, update_buffers)
        self.ramp = ramp

    def avg_func(self, averaged_param: Tensor, source_param: Tensor, steps: int) -> None:
        """Move one parameter of the average towards the model's."""
        decay = (1 - self.momentum) * (1 - math.exp(-(float(steps) + 1) / self.ramp))
        averaged_param.lerp_(source_param, 1 - decay)
