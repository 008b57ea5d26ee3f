"""The one adapter between a network and MMEngine's Runner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mmengine.model import BaseModel
from torch import nn

from visionssm.checkpoints import CheckpointError
from visionssm.engine.errors import ConfigError


class TaskModel(BaseModel):
    """A network as MMEngine trains it. A task's model derives from this and says what its losses and answers are.

    Attributes:
        task: name of the task, which checkpoints say that they are of.
        identity: fields of `about` in which a checkpoint to be loaded must agree.
        model: the network; its weights are in checkpoints as "model.…".
        about: the network's description in plain types, from which a predictor builds it again.
        num_classes: of the answers, where these are classes; None for other tasks.

    Args:
        model: initialised, or loaded.
        about: see above.
        data_preprocessor, init_cfg: MMEngine's.
    """

    task: ClassVar[str]
    identity: ClassVar[tuple[str, ...]] = ("name",)
    num_classes: int | None = None

    def __init__(
        self,
        model: nn.Module,
        about: Mapping[str, Any],
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.model = model
        self.about = dict(about)

    def init_weights(self) -> None:
        """Do nothing: the network is initialised, or loaded, when it is made."""

    def forward(self, inputs: Any, *targets: Any, mode: str = "tensor", **batch: Any) -> Any:
        """What the network gives for a batch.

        Args:
            inputs: of the batch's samples.
            targets, batch: what else the data set gives, in the order of `losses` and `answers`, or by its names.
            mode: MMEngine's: "tensor" for the network's bare output, "loss" for a dict of losses of which those whose
                name has "loss" in it are summed and trained, "predict" for answers, a dict per sample, which go to the
                task's metric.
        """
        if mode == "loss":
            return self.losses(inputs, *targets, **batch)
        return self.scores(inputs) if mode == "tensor" else self.answers(inputs, *targets, **batch)

    def scores(self, inputs: Any) -> Any:
        """The network's bare output."""
        return self.model(inputs)

    def losses(self, inputs: Any, *targets: Any, **batch: Any) -> dict[str, Any]:
        """Losses of a batch with its targets."""
        raise NotImplementedError

    def answers(self, inputs: Any, *targets: Any, **batch: Any) -> list[dict[str, Any]]:
        """What the task's metric needs of every sample."""
        raise NotImplementedError

    def checkpoint_meta(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """What a checkpoint says of itself, in plain types, so that it can be used without its config.

        Raises:
            ConfigError: the data sets do not fit the model.
        """
        about: dict[str, Any] = {"task": self.task, "model": dict(self.about)}
        if self.num_classes is not None:
            about["classes"] = class_names(train_set, val_set, self.num_classes)
        return about | self.described_data(train_set, val_set)

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """What a predictor must know of the data sets, of which either may be None; checks that they fit the model.

        Raises:
            ConfigError: they do not fit.
        """
        return {}

    def measured_on(self, dataset: Any) -> None:
        """Learn from the set of an evaluation what `described_data` learns of sets; checks that it fits the model.

        Raises:
            ConfigError: it does not fit.
        """
        self.described_data(None, dataset)

    def check_checkpoint(self, meta: Mapping[str, Any], path: str) -> None:
        """Refuse a checkpoint of another model, by name.

        Raises:
            CheckpointError: the checkpoint says that it is of another model.
        """
        said = meta.get("visionssm") or {}
        if said.get("task", self.task) != self.task:
            raise CheckpointError(
                f"{path!r} is of the task {said['task']!r}, the config's model of {self.task!r}. Use the config it was "
                "trained with."
            )
        theirs = said.get("model") or {}
        if not isinstance(theirs, Mapping):
            raise CheckpointError(f"{path!r} does not describe its model, but holds a {type(theirs).__name__} for that")
        for key in self.identity if theirs else ():
            if theirs.get(key) != self.about[key]:
                raise CheckpointError(
                    f"{path!r} is of another model: its {key} is {theirs.get(key)!r}, the config's "
                    f"{self.about[key]!r}. Use the config it was trained with."
                )


def metainfo_of(*datasets: Any) -> list[dict[str, Any]]:
    """`metainfo` of those data sets that are there."""
    return [dict(getattr(data, "metainfo", None) or {}) for data in datasets if data is not None]


def class_names(train_set: Any, val_set: Any, num_classes: int) -> list[str]:
    """Class names of data sets, "class 0", … if they have none.

    Raises:
        ConfigError: the data sets differ, or have another number of classes than the model.
    """
    metas = metainfo_of(val_set, train_set)
    named = [list(meta["classes"]) for meta in metas if meta.get("classes")]
    if len(named) == 2 and named[0] != named[1]:
        odd = sorted(set(named[0]) ^ set(named[1]))
        raise ConfigError(
            f"the training and validation data have different classes: {len(named[1])} and {len(named[0])}; "
            f"only in one of them: {', '.join(odd[:5]) or 'none, but their order differs'}"
        )
    if not named:
        return [f"class {number}" for number in range(num_classes)]
    if len(named[0]) != num_classes:
        raise ConfigError(
            f"model.num_classes={num_classes}, but the data set has {len(named[0])} classes; set "
            f"model.num_classes={len(named[0])}"
        )
    return named[0]
