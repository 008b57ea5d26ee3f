"""MMEngine's Runner for every task of this package: exact resume, safe checkpoints, CPU processes, early errors."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import mmengine
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import MMDistributedDataParallel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

import visionssm
from visionssm.data.seeding import random_state, set_random_state
from visionssm.engine.building import building
from visionssm.engine.checkpoint import (
    LAST,
    find_last_checkpoint,
    give_new_head,
    load_checkpoint,
    load_strictly,
    local_file,
    save_checkpoint,
    write_atomically,
)
from visionssm.engine.config import check_config, check_data, complete_config
from visionssm.engine.errors import CheckpointError, NonFiniteError
from visionssm.engine.interrupts import Interrupted, Requests
from visionssm.engine.loops import ResumableEpochLoop, ResumableIterLoop, evaluating
from visionssm.engine.optim import bare_model, guard_updates, non_finite
from visionssm.engine.plain import restore_histories, to_plain
from visionssm.engine.resuming import (
    adopt_seed,
    check_resumed,
    load_schedulers,
    saying_what_is_wrong,
    scheduler_states,
)
from visionssm.engine.scopes import SCOPES
from visionssm.engine.sharding import asks_for_shards, is_sharded
from visionssm.engine.workers import leave_signals_to_the_main_process, loader_config, naming_lost_workers
from visionssm.engine.workfolder import check_writable, locked, set_aside
from visionssm.processes import adopt


@RUNNERS.register_module()
class VisionRunner(Runner):
    """MMEngine's Runner, which works with the models, data sets, hooks and metrics of any task, and

    - checks the configuration and the presence of the data before building anything;
    - saves checkpoints of plain types, atomically, and loads them with `weights_only=True`;
    - resumes to the same weights as an uninterrupted run, within an epoch too;
    - stops at a loss that is not finite, before it reaches the weights;
    - runs several processes on CPUs (gloo) as on GPUs.
    """

    _timestamp: str
    _train_loop: Any
    _val_loop: Any
    _resume: bool
    _requests = Requests(print)  # of signals; every training has its own
    _saved_at = -1  # the step of the last checkpoint that can be resumed
    _starts = False  # a training, which may start from weights of other classes; a test may not

    @classmethod
    def from_cfg(cls, cfg: Any) -> VisionRunner:
        """Build from a configuration.

        Raises:
            ConfigError: a key is unknown or a value wrong.
            DatasetError: a data set is missing or incomplete.
        """
        check_config(cfg)
        cfg = copy.deepcopy(cfg)
        complete_config(cfg)
        check_data(cfg)
        check_writable(cfg["work_dir"])
        cfg["env_cfg"] = cfg.get("env_cfg") or {}
        cfg["randomness"] = {"seed": None, **(cfg.get("randomness") or {})}
        adopt_seed(cfg)
        with building("the run"):
            return super().from_cfg(cfg)

    # -- environment ---------------------------------------------------------------------------------------------------

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """MMEngine's set-up, `env_cfg.cpu_threads`, gloo for processes without a GPU, and a name of its own per run."""
        adopt(self._launcher)
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            torch.distributed.init_process_group("gloo")
        super().setup_env(env_cfg)
        if env_cfg.get("cpu_threads"):
            torch.set_num_threads(int(env_cfg["cpu_threads"]))
        known, stamp, number = set(MessageHub._instance_dict), self._timestamp, 1
        while any(name.endswith(self._timestamp) for name in known):
            self._timestamp, number = f"{stamp}_{number}", number + 1

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """MMEngine's logger; long listings (environment, configuration, hooks) go to the log file alone."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.addFilter(_is_for_the_console)
        return logger

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """MMEngine's wrapping; models on CPUs get no device numbers, and single processes no synchronised norms.

        With `model_wrapper_cfg = dict(type="FullyShard")` every process keeps a part of the model, see `sharding`; a
        single process, which was not started by a launcher, keeps it whole.
        """
        if not self.distributed or not torch.cuda.is_available():
            model = revert_sync_batchnorm(model)
        if asks_for_shards(model_wrapper_cfg):
            if self.distributed:
                from visionssm.engine.shards import shard

                if self.cfg.get("sync_bn"):
                    model = convert_sync_batchnorm(model, self.cfg.sync_bn)
                cast(Any, model).init_weights()
                return shard(model, torch.device(get_device()), self.cfg)
            model_wrapper_cfg = None
        if self.distributed and not torch.cuda.is_available() and model_wrapper_cfg is None:
            unused = bool(self.cfg.get("find_unused_parameters", False))
            return MMDistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=unused)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """MMEngine's, which then gives all processes the first one's weights; `wrap_model` did both for shards."""
        if not is_sharded(self.model):
            super()._init_model_weights()

    # -- building ------------------------------------------------------------------------------------------------------

    @building("model")
    def build_model(self, model: nn.Module | dict[str, Any]) -> nn.Module:
        """MMEngine's; no published weights are fetched where a checkpoint brings all of them."""
        if isinstance(model, Mapping) and (self._load_from or (self._resume and find_last_checkpoint(self.work_dir))):
            alone = ConfigDict(model=copy.deepcopy(model))
            scope = SCOPES.get(self.cfg.get("default_scope") or "")
            if scope is not None:
                scope.without_downloads(alone)
            else:
                alone.model.update({key: False for key in alone.model if key.startswith("pretrained")})
            model = alone.model
        return super().build_model(model)

    @staticmethod
    @building("a data loader")
    def build_dataloader(
        dataloader: DataLoader | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """MMEngine's loader with a generator of its own, so that making an iterator leaves the global one alone."""
        if isinstance(dataloader, DataLoader):
            return dataloader
        loader = Runner.build_dataloader(loader_config(dataloader), seed=seed, diff_rank_seed=diff_rank_seed)
        loader.generator = torch.Generator()
        loader.generator.manual_seed(0 if seed is None else seed)
        if hasattr(loader.dataset, "set_loader_cfg"):
            loader.dataset.set_loader_cfg(num_workers=loader.num_workers)
        leave_signals_to_the_main_process(loader)
        return loader

    @building("train_cfg")
    def build_train_loop(self, loop: Any) -> Any:
        """A resumable loop for `train_cfg = dict(by_epoch=…, …)`; any other where `type` names it."""
        if isinstance(loop, Mapping) and "type" not in loop:
            arguments = dict(loop)
            kind = ResumableEpochLoop if arguments.pop("by_epoch", True) else ResumableIterLoop
            return kind(runner=self, dataloader=self._train_dataloader, **arguments)
        if isinstance(loop, Mapping):
            loop = {key: value for key, value in loop.items() if key != "by_epoch"}  # which the type says
        return super().build_train_loop(loop)

    @building("val_cfg or val_evaluator")
    def build_val_loop(self, loop: Any) -> Any:
        """MMEngine's loop; its data set is told that it evaluates."""
        return evaluating(super().build_val_loop(loop))

    @building("test_cfg or test_evaluator")
    def build_test_loop(self, loop: Any) -> Any:
        """MMEngine's loop; its data set is told that it evaluates."""
        return evaluating(super().build_test_loop(loop))

    @building("optim_wrapper")
    def build_optim_wrapper(self, optim_wrapper: Any) -> OptimWrapper | OptimWrapperDict:
        """MMEngine's wrapper, guarded against a loss that is not finite."""
        is_new = not isinstance(optim_wrapper, OptimWrapper)
        wrapper = super().build_optim_wrapper(optim_wrapper)
        if is_new and not isinstance(wrapper, OptimWrapperDict):
            if wrapper.clip_grad_kwargs:  # tried, since the first step alone would show wrong arguments
                sample = nn.Parameter(torch.zeros(1))
                sample.grad = torch.zeros(1)
                wrapper.clip_func([sample], **wrapper.clip_grad_kwargs)
            guard_updates(wrapper, self.model)
            if is_sharded(self.model):
                from visionssm.engine.shards import load_whole_states

                load_whole_states(wrapper.optimizer)
        return wrapper

    @building("param_scheduler")
    def build_param_scheduler(self, scheduler: Any) -> Any:
        """MMEngine's."""
        return super().build_param_scheduler(scheduler)

    @building("auto_scale_lr")
    def scale_lr(self, optim_wrapper: OptimWrapper, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """MMEngine's, and the rate of no parameters that it shows and logs as `base_lr`, which it leaves unscaled."""
        before = [group["lr"] for group in optim_wrapper.optimizer.param_groups]
        super().scale_lr(optim_wrapper, auto_scale_lr)
        shown = getattr(optim_wrapper, "base_param_settings", None)
        ratios = [x["lr"] / lr for x, lr in zip(optim_wrapper.optimizer.param_groups, before, strict=True) if lr]
        if shown is not None and ratios:
            shown["lr"] *= ratios[0]

    def train(self) -> nn.Module:
        """Train, alone in the work folder; what a former run left there is set aside, unless this one resumes it.

        What the checkpoint will say of the model is asked for first, as it checks that model and data fit.

        Raises:
            ConfigError: another training runs in the work folder.
            Interrupted: a signal asked to stop, and a checkpoint was saved.
            LoaderError: a process that loads data was killed.
        """
        self._requests = Requests(self.logger.warning)
        with locked(self.work_dir) if is_main_process() else contextlib.nullcontext(), self._requests.listening():
            if is_main_process() and not self._resume:
                aside, start = set_aside(self.work_dir, self.__dict__["_load_from"])
                self._load_from = start
                if aside is not None:
                    self.logger.info(f"what a former run left in {self.work_dir} is now in {aside}")
            with naming_lost_workers():
                return self._train()

    def test(self) -> dict[str, float]:
        """MMEngine's.

        Raises:
            LoaderError: a process that loads data was killed.
        """
        with naming_lost_workers():
            return super().test()

    def _train(self) -> nn.Module:
        self._train_loop = self.build_train_loop(self._train_loop)
        if self._val_loop is not None:
            self._val_loop = self.build_val_loop(self._val_loop)
        self._describe()
        self._starts = True
        return super().train()

    def stop_if_asked(self) -> None:
        """After a step, before it is counted: save and leave if a signal asked for it.

        Raises:
            Interrupted: so.
        """
        number = self._requests.agreed()
        if not number:
            return
        name = f"iter_{self.iter + 1}.pth"
        self.save_checkpoint(self.work_dir, name, by_epoch=False)
        if is_main_process():
            write_atomically(Path(self.work_dir) / LAST, lambda file: file.write(name.encode()))
        raise Interrupted(number, str(Path(self.work_dir) / name))

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """MMEngine's; a validation is left at once where the checkpoint of this very step is on disk already."""
        with building("custom_hooks or default_hooks") if fn_name == "before_run" else contextlib.nullcontext():
            super().call_hook(fn_name, **kwargs)
        alone, asked = get_world_size() == 1, self._requests.signal
        if fn_name == "after_val_iter" and alone and asked and self._saved_at == self.iter:
            raise Interrupted(asked, str(find_last_checkpoint(self.work_dir)))

    def _describe(self) -> dict[str, Any] | None:
        describe = getattr(self._bare_model(), "checkpoint_meta", None)
        if describe is None:
            scope = SCOPES.get(self.cfg.get("default_scope") or "")
            return None if scope is None else scope.describe(self.cfg, getattr(self.train_dataloader, "dataset", None))
        val_set = None if self._val_loop is None else self.val_dataloader.dataset
        return describe(getattr(self.train_dataloader, "dataset", None), val_set)

    def _bare_model(self) -> nn.Module:
        return bare_model(self.model)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        """Save on the main process, atomically; all processes must call it, as each has its own random state.

        Args: MMEngine's; `file_client_args` and `backend_args` are for MMEngine's own storage and ignored.
        Raises:
            CheckpointWriteError: the disk is full or the folder cannot be written; earlier files are untouched.
            NonFiniteError: a parameter is NaN or infinite, so the checkpoint would be of no use.
        """
        states = all_gather_object(random_state())
        model = self._bare_model()
        if not is_main_process() and not is_sharded(model):
            return
        broken = non_finite(model.named_parameters())
        if is_sharded(model):
            broken = [name for names in all_gather_object(broken) for name in names]
        if broken:
            raise NonFiniteError(
                f"parameter {broken[0]!r} is not finite after step {self.iter + 1}; {filename} is not saved, earlier "
                "checkpoints are intact"
            )
        meta = dict(meta or {})
        meta.setdefault("epoch", self.epoch + by_epoch)
        meta.setdefault("iter", self.iter + (not by_epoch))
        meta |= {
            "cfg": self._config_text(),
            "seed": self.seed,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "experiment_name": self.experiment_name,
            "versions": {
                "visionssm": visionssm.__version__,
                "torch": torch.__version__,
                "mmengine": mmengine.__version__,
            },
        }
        about = self._describe()
        if about is not None:
            meta["visionssm"] = about
        checkpoint: dict[str, Any] = {"meta": meta, "state_dict": dict(model.state_dict())}
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
            checkpoint["message_hub"] = to_plain(self.message_hub.state_dict())
            checkpoint["random_states"] = states
            checkpoint["loop"] = self.train_loop.state() if hasattr(self.train_loop, "state") else {}
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint["param_schedulers"] = scheduler_states(self.param_schedulers)
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        if not save_optimizer:
            checkpoint.pop("ema_state_dict", None)  # the raw weights: only resuming needs them
        if is_sharded(model):
            from visionssm.engine.shards import whole

            checkpoint = whole(checkpoint, keep=is_main_process())
            if not is_main_process():
                return
        save_checkpoint(checkpoint, Path(out_dir) / filename)
        if save_optimizer:
            self._saved_at = meta["iter"]

    def _config_text(self) -> str:
        if not hasattr(self, "_cached_config_text"):
            self._cached_config_text = self.cfg.pretty_text  # formatting takes a second
        return self._cached_config_text

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Load weights that must fit; a path, or an http(s) address.

        Raises:
            FileNotFoundError, CheckpointError: no such file, damaged, or of another model.
        """
        return self._take(load_checkpoint(local_file(str(filename)), map_location), str(filename), strict)

    def start_from(self, filename: str) -> dict[str, Any]:
        """Load weights to start a training from, which may be of other classes: the head is then new.

        Raises:
            FileNotFoundError, CheckpointError: no such file, damaged, or of another model.
        """
        checkpoint = load_checkpoint(local_file(filename))
        theirs = list((checkpoint["meta"].get("visionssm") or {}).get("classes") or ())
        ours = list((self._describe() or {}).get("classes") or ())
        new = give_new_head(checkpoint, self._bare_model(), ours)
        self._take(checkpoint, filename, strict=True)
        if new:
            differ = f"{filename} has {len(theirs)} classes, this run {len(ours)}"
            self.logger.info(f"{differ}: the head is new, untrained: {', '.join(new)}")
        elif theirs and ours and theirs != ours:
            self.logger.info(f"{filename} has other classes, as many: the head keeps its weights ({theirs[0]!r}, …)")
        return checkpoint

    def _take(self, checkpoint: dict[str, Any], filename: str, strict: bool) -> dict[str, Any]:
        model = self._bare_model()
        if hasattr(model, "check_checkpoint"):
            cast(Any, model).check_checkpoint(checkpoint["meta"], filename)
        with saying_what_is_wrong(filename):
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        if strict:
            load_strictly(model, checkpoint["state_dict"], filename)
        else:
            model.load_state_dict(checkpoint["state_dict"], strict=False)
        self._has_loaded = True
        self.logger.info(f"loaded {filename}")
        return checkpoint

    def load_or_resume(self) -> None:
        """What `load_from` and `resume` ask for; resuming without a path takes the newest checkpoint, if any."""
        if self._has_loaded:
            return
        path = self._load_from
        if self._resume and path is None:
            found = find_last_checkpoint(self.work_dir)
            if found is None:
                self.logger.warning(f"nothing to resume in {self.work_dir}: starting from the beginning")
                self._resume = False
                return
            path = str(found)
        if path is not None:
            take = self.resume if self._resume else self.start_from if self._starts else self.load_checkpoint
            take(path)

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = "default",
    ) -> None:
        """Go on exactly where the checkpoint was written.

        Raises:
            CheckpointError: it holds weights only, is of another model, or what it holds of the training is damaged.
            ConfigError: the run has another number of steps per epoch now.
        """
        checkpoint = self.load_checkpoint(filename, map_location="cpu")
        if "optimizer" not in checkpoint:
            raise CheckpointError(
                f"{filename!r} holds weights only (as best.pth does) and cannot be resumed; resume an epoch_*.pth or "
                "iter_*.pth, or start a new run with --cfg-options load_from=CHECKPOINT"
            )
        with saying_what_is_wrong(filename):
            self._restore(checkpoint, filename, resume_optimizer, resume_param_scheduler)
        self.logger.info(f"resumed {filename} at epoch {self.epoch}, iteration {self.iter}")

    def _restore(
        self, checkpoint: dict[str, Any], filename: str, resume_optimizer: bool, resume_param_scheduler: bool
    ) -> None:
        meta = checkpoint["meta"]
        if not all(isinstance(meta[key], int) and meta[key] >= 0 for key in ("epoch", "iter")):
            raise ValueError("epoch and iteration are no counts")
        if meta.get("seed") != self.seed:
            self.logger.warning(
                f"the seed was {meta.get('seed')} and is {self.seed} now: the rest will be drawn differently"
            )
        if resume_optimizer and resume_param_scheduler:
            for override in check_resumed(checkpoint, filename, self.optim_wrapper, self.param_schedulers, self.hooks):
                self.logger.warning(
                    f"{override}: to change it, start a new run with --cfg-options load_from={filename}"
                )
        self.message_hub.load_state_dict(restore_histories(checkpoint["message_hub"]))
        if resume_optimizer:
            self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
        if resume_param_scheduler and "param_schedulers" in checkpoint:
            load_schedulers(self.param_schedulers, checkpoint["param_schedulers"])
        self.train_loop.load_state(checkpoint.get("loop", {}), meta)
        states = checkpoint.get("random_states", [])
        if len(states) == get_world_size():
            now, restored = random_state(), states[get_rank()]
            set_random_state(restored)  # to see that it can be; it is needed at the first step
            set_random_state(now)
            self.train_loop.position.restore(restored)

    def dump_config(self) -> None:
        """Write the complete configuration into the work folder, unless that would overwrite the file it came from."""
        source = self.cfg.filename
        if source is None or Path(source).resolve() != (Path(self.work_dir) / Path(source).name).resolve():
            super().dump_config()

    def register_hook(self, hook: Hook | dict[str, Any], priority: Any = None) -> None:
        """MMEngine's; hooks given as None in a child config are left out."""
        if hook is not None:
            super().register_hook(hook, priority)


def _is_for_the_console(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return message.count("\n") < 4 and not message.startswith(("Exp name", "paramwise_options"))  # a line per parameter
