"""One cycle of learning rate and momentum (Smith & Topin 2018, arXiv 1708.07120), as fastai's Adam has it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from visionssm.engine.errors import ConfigError


def cosine(start: float, end: float, share: float) -> float:
    """The value after a share of the way from start to end, slow at both ends."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@PARAM_SCHEDULERS.register_module()
class OneCycle(_ParamScheduler):
    """The rate rises to the optimizer's and falls far below where it began, while Adam's beta1 falls and rises.

    With T steps in all and a = ⌊pct_start·T⌋, the rate at step t is

        t < a: from lr/div_factor to lr,   else: from lr to lr/div_factor/final_div_factor

    along half a cosine each, over t/a and (t − a)/(T − a); beta1 goes from the first to the second of `momenta` and
    back by the same shares.

    Args:
        optimizer: an Adam whose `lr` is the highest rate.
        pct_start: share of the steps in which the rate rises.
        div_factor: highest rate over that at the start.
        final_div_factor: rate at the start over that in the end.
        momenta: beta1 at the start and in the end, and where the rate is highest.
        begin, end, last_step, by_epoch, verbose: MMEngine's; begin and end are steps, or epochs with
            `convert_to_iter_based=True`.
    Raises:
        ConfigError: an argument is out of range, the cycle has no end, or the optimizer is no Adam.
    """

    def __init__(
        self,
        optimizer: Any,
        pct_start: float = 0.4,
        div_factor: float = 10.0,
        final_div_factor: float = 1e4,
        momenta: Sequence[float] = (0.95, 0.85),
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not 0 < pct_start < 1:
            raise ConfigError(f"OneCycle: pct_start={pct_start} must be between 0 and 1")
        if div_factor < 1 or final_div_factor < 1:
            raise ConfigError(f"OneCycle: div_factor={div_factor} and final_div_factor={final_div_factor}, 1 or more")
        if len(momenta) != 2 or not all(0 <= x < 1 for x in momenta):
            raise ConfigError(f"OneCycle: momenta={momenta} must be two numbers from 0 to below 1")
        if end == INF:
            raise ConfigError("OneCycle: end is missing, the step (or epoch) at which the cycle ends")
        if not all("betas" in group for group in optimizer.param_groups):
            raise ConfigError("OneCycle changes beta1, which the optimizer does not have; choose an Adam, as AdamW")
        self.pct_start, self.div_factor, self.final_div_factor = pct_start, div_factor, final_div_factor
        self.momenta = tuple(momenta)
        for group in optimizer.param_groups:
            group.setdefault("initial_betas", tuple(group["betas"]))
        super().__init__(optimizer, "lr", begin, end, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls, optimizer: Any, *, epoch_length: int, begin: int = 0, end: int = INF, by_epoch: bool = True, **options: Any
    ) -> OneCycle:
        """The same over steps, for a begin and an end in epochs."""
        end = end if end == INF else int(end * epoch_length)
        return cls(optimizer, begin=int(begin * epoch_length), end=end, by_epoch=False, **options)

    def between(self, start: float, peak: float, end: float) -> float:
        """A value that is `start` at first, `peak` where the rate is highest and `end` in the end, now."""
        steps = self.end - self.begin
        turn = int(self.pct_start * steps)
        if self.last_step < turn:
            return cosine(start, peak, self.last_step / turn)
        return cosine(peak, end, (self.last_step - turn) / (steps - turn))

    def step(self) -> None:
        """Go one step further."""
        super().step()
        if self.begin <= self._global_step < self.end:
            beta = self.between(self.momenta[0], self.momenta[1], self.momenta[0])
            for group in self.optimizer.param_groups:
                group["betas"] = (beta, group["betas"][1])

    def _get_value(self) -> list[float]:
        return [
            self.between(lr / self.div_factor, lr, lr / self.div_factor / self.final_div_factor)
            for lr in self.base_values
        ]
