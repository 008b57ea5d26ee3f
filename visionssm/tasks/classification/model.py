"""Any timm model as MMEngine trains it, with mixup, cutmix and label smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import visionssm.backbones  # noqa: F401  registers the models
from visionssm.checkpoints import CheckpointError
from visionssm.data.spelling import closest
from visionssm.engine.adapter import TaskModel, metainfo_of
from visionssm.engine.errors import ConfigError


class ImageClassifier(TaskModel):
    """A timm classifier.

    Args:
        name: of the model, registered with timm.
        num_classes: must be that of the data set; None only where a `FolderDataset` says it.
        in_chans: image channels.
        pretrained: start from published weights; a path: from the file of them, or a best.safetensors.
        drop_rate: dropout before the classifier.
        drop_path_rate: largest stochastic-depth rate; None for the model's own.
        model_kwargs: further arguments of `timm.create_model`.
        mixup: arguments of `timm.data.Mixup` but for classes and smoothing (`mixup_alpha`, `cutmix_alpha`, …); None for
            none.
        label_smoothing: share of the target that is spread over all classes.
    Raises:
        ConfigError: the name or an argument is unknown.
        CheckpointError: the weights cannot be had or do not fit.
    """

    task = "classification"
    identity = ("name", "num_classes", "in_chans")
    num_classes: int

    def __init__(
        self,
        name: str,
        num_classes: int | None = 1000,
        in_chans: int = 3,
        pretrained: bool | str = False,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        mixup: Mapping[str, Any] | None = None,
        label_smoothing: float = 0.0,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        if not timm.is_model(name.split(".")[0]):
            raise ConfigError(f"model.name={name!r} is not registered; closest: {closest(name, timm.list_models())}")
        if num_classes is None:
            raise ConfigError("model.num_classes=None: give the number of classes (a FolderDataset alone says it)")
        for key, rate in (
            ("drop_rate", drop_rate),
            ("drop_path_rate", drop_path_rate or 0.0),
            ("label_smoothing", label_smoothing),
        ):
            if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
                raise ConfigError(f"model.{key} must be a number from 0 to less than 1, got {rate!r}")
        arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
        if drop_path_rate is not None:
            arguments["drop_path_rate"] = drop_path_rate
        arguments |= dict(model_kwargs or {})
        try:
            network = _network(name, pretrained, arguments)
        except TypeError as error:
            raise ConfigError(
                f"model {name!r} does not take these arguments: {error}. Check model.model_kwargs."
            ) from error
        super().__init__(network, {"name": name, **arguments}, data_preprocessor, init_cfg)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup = _mixup(mixup, num_classes, label_smoothing) if mixup else None

    def losses(  # type: ignore[override]
        self, inputs: Tensor, labels: Tensor, index: Tensor | None = None, skipped: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`loss`, of all images.

        Args:
            inputs: (B, C, H, W) normalised images.
            labels: (B,) class numbers.
            index: (B,) numbers of the samples in their data set.
            skipped: (B,) damaged images passed over for each sample; counted elsewhere.
        """
        return {"loss": self.loss(inputs, labels)}

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch with the mixed or smoothed targets of training."""
        if self.mixup is None:
            return self.criterion(inputs, labels, self.label_smoothing)
        if len(inputs) % 2:
            raise ConfigError(
                f"mixup pairs the images of a batch, but a batch has {len(inputs)}; set an even "
                "train_dataloader.batch_size and drop_last=True"
            )
        inputs, targets = self.mixup(inputs.clone(), labels)
        return self.criterion(inputs, targets, 0.0)

    def criterion(self, inputs: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Loss of images whose targets are (B,) class numbers or, after mixing, (B, classes) distributions."""
        return cross_entropy(self.model(inputs), targets, label_smoothing=label_smoothing)

    def answers(  # type: ignore[override]
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        skipped: Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """The best five `classes` and their `scores` of every image, with its `label`, `nll` and `index` if known.

        Args:
            labels: (B,) class numbers; −1 where the image could not be read.
            inputs, index, skipped: as in `losses`.
        """
        scores = self.model(inputs).float()
        best = scores.softmax(-1).topk(min(5, scores.shape[-1]))
        rows: dict[str, list[Any]] = {"classes": best.indices.tolist(), "scores": best.values.tolist()}
        if labels is not None:
            known = labels >= 0
            rows["label"] = labels.tolist()
            rows["nll"] = cross_entropy(scores, labels.where(known, 0), reduction="none").tolist()
        if index is not None:
            rows["index"] = index.tolist()
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """`input`: size, mean, std, interpolation and crop of the images.

        Raises:
            ConfigError: the images have other channels than the model.
        """
        given = next((meta["input"] for meta in metainfo_of(val_set, train_set) if meta.get("input")), None)
        if given is not None and given["size"][0] != self.about["in_chans"]:
            raise ConfigError(
                f"model.in_chans={self.about['in_chans']}, but the data set's images have {given['size'][0]} channels"
            )
        return {"input": given}


def _network(name: str, pretrained: bool | str, arguments: Mapping[str, Any]) -> nn.Module:
    source: dict[str, Any] = {"pretrained": bool(pretrained)}
    if isinstance(pretrained, str):
        path = Path(pretrained).expanduser()
        if not path.is_file():
            raise CheckpointError(
                f"model.pretrained={pretrained!r}: there is no such file. It is True, False, or the path of a file "
                "with the published weights"
            )
        source["pretrained_cfg_overlay"] = {"file": str(path)}
    try:
        return timm.create_model(name, **source, **arguments)
    except (CheckpointError, OSError, RuntimeError) as error:
        if not pretrained:
            raise
        told = " ".join(str(error).split())
        if isinstance(pretrained, str):
            raise CheckpointError(f"model.pretrained={pretrained!r}: {told}") from error
        raise CheckpointError(
            f"no published weights of {name!r}: {told} With their file: --cfg-options model.pretrained=FILE. From "
            "random weights, which takes many more images and epochs: model.pretrained=False"
        ) from error


def _mixup(arguments: Mapping[str, Any], num_classes: int, label_smoothing: float) -> Mixup:
    try:
        return Mixup(**arguments, num_classes=num_classes, label_smoothing=label_smoothing)
    except TypeError as error:
        raise ConfigError(f"model.mixup: {error}; the arguments are those of timm.data.Mixup") from error
