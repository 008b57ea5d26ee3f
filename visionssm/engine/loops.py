"""Training loops that can be interrupted at any step, and resume as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from mmengine.dist import all_reduce, all_reduce_params, get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from visionssm.data.seeding import mixed_seed, resumable, seed_all, set_random_state
from visionssm.engine.errors import ConfigError
from visionssm.engine.optim import bare_model
from visionssm.engine.task import Metric


class _Position:
    """Where a loop stands, and the generators' state to go on with; shared by both loops."""

    def __init__(self, loop: Any, seed: int) -> None:
        if len(loop.dataloader) == 0:
            raise ConfigError(
                f"the training data give no batch: {len(loop.dataloader.dataset)} samples a process in batches of "
                f"{loop.dataloader.batch_size} with drop_last={loop.dataloader.drop_last}; reduce "
                "train_dataloader.batch_size"
            )
        loop.dataloader = resumable(loop.dataloader, seed)
        self.loader: DataLoader = loop.dataloader
        self.seed = seed
        self._random_state: dict[str, Any] | None = None

    def restore(self, random_state: dict[str, Any]) -> None:
        """Keep generator states to restore before the first step (making the loaders draws random numbers too)."""
        self._random_state = random_state

    def apply_random_state(self, iteration: int) -> None:
        """Before the first step: the restored state, or for a new run a seed of this process's own."""
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        else:
            seed_all(mixed_seed(self.seed, iteration, get_rank()))

    def batches(self, epoch: int, iteration: int, skip: int) -> Iterator[Any]:
        """The batches of an epoch without the first `skip` ones."""
        dataset = self.loader.dataset
        if isinstance(dataset, IterableDataset):  # no indices: what was seen is read again and dropped
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)
            self.loader.generator.manual_seed(mixed_seed(self.seed, epoch, get_rank()))
            return islice(iter(self.loader), skip, None)
        sampler = self.loader.batch_sampler.sampler  # type: ignore[union-attr]
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        self.loader.batch_sampler.start_at(iteration, skip)  # type: ignore[union-attr]
        return iter(self.loader)


def averaged(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean of logged values over all processes, so that logs do not depend on their number."""
    outputs = {name: torch.as_tensor(x).detach() for name, x in outputs.items()}
    count = get_world_size()
    if count == 1:
        return outputs
    values = torch.stack([x.float() for x in outputs.values()])
    all_reduce(values)
    return dict(zip(outputs, values / count, strict=True))


def share_running_statistics(model: nn.Module) -> None:
    """Replace the running statistics of batch norms by their means over all processes.

    Each process sees other images; without this, validation would depend on the process that an image goes to, and a
    checkpoint would hold the statistics of the main process's images alone.
    """
    if get_world_size() == 1:
        return
    statistics = [
        buffer
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    ]
    if statistics:
        all_reduce_params(statistics, op="mean")


def _step(loop: Any, number: int, data_batch: Any) -> None:
    runner = loop.runner
    runner.call_hook("before_train_iter", batch_idx=number, data_batch=data_batch)
    outputs = averaged(runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper))
    share_running_statistics(runner.model)
    runner.call_hook("after_train_iter", batch_idx=number, data_batch=data_batch, outputs=outputs)
    runner.stop_if_asked()
    loop._iter += 1


def tell_evaluation(loader: Any, evaluator: Any, model: Any) -> None:
    """Tell the data set of a loader that it evaluates, if it has `for_evaluation`; metrics and model which set it is.

    The set may then give other samples: crowds, and nothing in place of an image that cannot be read. The model's
    answers may depend on how samples are prepared.

    Raises:
        ConfigError: the set does not fit the model.
    """
    measured_on = getattr(bare_model(model), "measured_on", None)
    if measured_on is not None:
        measured_on(loader.dataset)
    for metric in evaluator.metrics:
        if isinstance(metric, Metric):
            metric.dataset = loader.dataset
    tell = getattr(loader.dataset, "for_evaluation", None)
    if tell is not None:
        tell()


def evaluating(loop: Any) -> Any:
    """A loop whose data set, metrics and model were told so."""
    tell_evaluation(loop.dataloader, loop.evaluator, loop.runner.model)
    return loop


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """MMEngine's loop over epochs; resumes within an epoch, and validates if the run was killed before it could."""

    def __init__(self, runner: Any, dataloader: Any, max_epochs: int, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self.position = _Position(self, runner.seed)
        self.validated_epoch = 0

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps of the loop."""
        return {"iterations_per_epoch": len(self.dataloader), "validated_epoch": self.validated_epoch}

    def load_state(self, state: dict[str, int], meta: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            ConfigError: an epoch has another number of steps now.
        """
        steps = state.get("iterations_per_epoch", len(self.dataloader))
        if steps != len(self.dataloader):
            raise ConfigError(
                f"the checkpoint is of a run with {steps} steps an epoch, this one has {len(self.dataloader)}: the "
                "data set, the batch size or the number of processes changed. Resume with the same, or start a new run "
                "from its weights with --cfg-options load_from=CHECKPOINT"
            )
        self._epoch, self._iter = meta["epoch"], meta["iter"]
        self.validated_epoch = state.get("validated_epoch", self._epoch)

    def run(self) -> torch.nn.Module:
        """Train to the last epoch."""
        self.runner.call_hook("before_train")
        self.position.apply_random_state(self._iter)
        if self.validated_epoch < self._epoch:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        last = self._epoch == self._max_epochs
        due = self._epoch >= self.val_begin and (self._epoch % self.val_interval == 0 or last)
        if self.runner.val_loop is not None and due:
            self.runner.val_loop.run()
        self.validated_epoch = self._epoch

    def run_epoch(self) -> None:
        """One epoch, or what is left of it."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        skip = self._iter - self._epoch * len(self.dataloader)
        for number, data_batch in enumerate(self.position.batches(self._epoch, self._iter, skip), start=skip):
            self.run_iter(number, data_batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """One step."""
        _step(self, idx, data_batch)


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """MMEngine's loop over iterations; resumes at any of them."""

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, max_iters, **kwargs)
        self.position = _Position(self, runner.seed)

    def state(self) -> dict[str, int]:
        """What a checkpoint keeps of the loop."""
        return {"iterations_per_epoch": len(self.dataloader)}

    def load_state(self, state: dict[str, int], meta: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._epoch, self._iter = meta["epoch"], meta["iter"]

    def run(self) -> torch.nn.Module:
        """Train to the last iteration."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        self.position.apply_random_state(self._iter)
        batches = self._endless()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            self.run_iter(next(batches))
            self._decide_current_val_interval()
            last = self._iter == self._max_iters
            due = self._iter >= self.val_begin and (self._iter % self.val_interval == 0 or last)
            if self.runner.val_loop is not None and due:
                self.runner.val_loop.run()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model

    def run_iter(self, data_batch: Any) -> None:
        """One step."""
        _step(self, self._iter, data_batch)

    def _endless(self) -> Iterator[Any]:
        """Batches from the present iteration on, over as many epochs as it takes; an endless sampler has just one."""
        if hasattr(getattr(self.dataloader.batch_sampler, "sampler", None), "skip"):  # MMEngine's InfiniteSampler
            yield from self.position.batches(0, self._iter, skip=self._iter)
        epoch, skip = divmod(self._iter, len(self.dataloader))
        while True:
            yield from self.position.batches(epoch, self._iter, skip)
            epoch, skip = epoch + 1, 0
