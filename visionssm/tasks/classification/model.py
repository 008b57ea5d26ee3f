"""The classification task: any timm model with its loss (mixup, cutmix, label smoothing) and its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from timm.data import Mixup
from torch import Tensor
from torch.nn.functional import cross_entropy

import visionssm  # noqa: F401  registers the models
from visionssm.checkpoints import CheckpointError
from visionssm.data.spelling import closest
from visionssm.engine.errors import ConfigError


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A timm classifier as MMEngine trains it.

    Args:
        name: of the model, registered with timm.
        num_classes: must be that of the data set.
        in_chans: image channels.
        pretrained: start from published weights.
        drop_rate: dropout before the classifier.
        drop_path_rate: largest stochastic-depth rate; None for the model's own.
        model_kwargs: further arguments of `timm.create_model`.
        mixup: arguments of `timm.data.Mixup` but for classes and smoothing (`mixup_alpha`, `cutmix_alpha`, …); None for
            none.
        label_smoothing: share of the target that is spread over all classes.
    Raises:
        ConfigError: the name or an argument is unknown.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        in_chans: int = 3,
        pretrained: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        mixup: Mapping[str, Any] | None = None,
        label_smoothing: float = 0.0,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if not timm.is_model(name.split(".")[0]):
            raise ConfigError(f"model.name={name!r} is not registered; closest: {closest(name, timm.list_models())}")
        arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
        if drop_path_rate is not None:
            arguments["drop_path_rate"] = drop_path_rate
        arguments |= dict(model_kwargs or {})
        try:
            self.model = timm.create_model(name, pretrained=pretrained, **arguments)
        except TypeError as error:
            raise ConfigError(
                f"model {name!r} does not take these arguments: {error}. Check model.model_kwargs."
            ) from error
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.mixup = _mixup(mixup, num_classes, label_smoothing) if mixup else None
        self._about = {"name": name, **arguments}

    def init_weights(self) -> None:
        """Do nothing: timm's models are initialised, or loaded, when they are made."""

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        index: Tensor | None = None,
        skipped: Tensor | None = None,
        mode: str = "tensor",
    ) -> Any:
        """Scores, losses or predictions of a batch.

        Args:
            inputs: (B, C, H, W) normalised images.
            labels: (B,) class numbers; −1 where the image could not be read.
            index: (B,) numbers of the samples in their data set.
            skipped: (B,) damaged images passed over for each sample; counted elsewhere.
            mode: MMEngine's: "tensor" gives (B, classes) scores, "loss" `{"loss": …}`, "predict" a dict per sample.
        """
        if mode == "loss":
            assert labels is not None
            return {"loss": self.loss(inputs, labels)}
        scores = self.model(inputs)
        return scores if mode == "tensor" else self._predictions(scores, labels, index)

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy with the mixed or smoothed targets of training."""
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

    def _predictions(self, scores: Tensor, labels: Tensor | None, index: Tensor | None) -> list[dict[str, Any]]:
        scores = scores.float()
        best = scores.softmax(-1).topk(min(5, scores.shape[-1]))
        rows: dict[str, list[Any]] = {"classes": best.indices.tolist(), "scores": best.values.tolist()}
        if labels is not None:
            known = labels >= 0
            rows["label"] = labels.tolist()
            rows["nll"] = cross_entropy(scores, labels.where(known, 0), reduction="none").tolist()
        if index is not None:
            rows["index"] = index.tolist()
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    def checkpoint_meta(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """What a checkpoint says of itself, in plain types, so that it can be used without its config.

        Raises:
            ConfigError: the data sets and the model disagree on the classes or the channels.
        """
        about = [dict(getattr(data, "metainfo", None) or {}) for data in (val_set, train_set) if data is not None]
        named = [x["classes"] for x in about if x.get("classes")]
        if len(named) == 2 and named[0] != named[1]:
            odd = sorted(set(named[0]) ^ set(named[1]))
            raise ConfigError(
                f"the training and validation data have different classes: {len(named[1])} and {len(named[0])}; "
                f"only in one of them: {', '.join(odd[:5]) or 'none, but their order differs'}"
            )
        classes = named[0] if named else [f"class {number}" for number in range(self.num_classes)]
        if len(classes) != self.num_classes:
            raise ConfigError(
                f"model.num_classes={self.num_classes}, but the data set has {len(classes)} classes; set "
                f"model.num_classes={len(classes)}"
            )
        given = next((x["input"] for x in about if x.get("input")), None)
        if given is not None and given["size"][0] != self._about["in_chans"]:
            raise ConfigError(
                f"model.in_chans={self._about['in_chans']}, but the data set's images have {given['size'][0]} channels"
            )
        return {"model": dict(self._about), "classes": list(classes), "input": given}

    def check_checkpoint(self, meta: Mapping[str, Any], path: str) -> None:
        """Refuse a checkpoint of another model, by name.

        Raises:
            CheckpointError: the checkpoint says that it is of another model.
        """
        model = (meta.get("visionssm") or {}).get("model")
        if not model:
            return
        for key in ("name", "num_classes", "in_chans"):
            if model.get(key) != self._about[key]:
                raise CheckpointError(
                    f"{path!r} is of another model: its {key} is {model.get(key)!r}, the config's {self._about[key]!r}."
                    " Use the config it was trained with."
                )


def _mixup(arguments: Mapping[str, Any], num_classes: int, label_smoothing: float) -> Mixup:
    try:
        return Mixup(**arguments, num_classes=num_classes, label_smoothing=label_smoothing)
    except TypeError as error:
        raise ConfigError(f"model.mixup: {error}; the arguments are those of timm.data.Mixup") from error
