"""Video classifiers as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor
from torch.nn.functional import cross_entropy

from visionssm.backbones.videomamba import VideoMamba, create_video_classifier, start_from_images
from visionssm.checkpoints import CheckpointError
from visionssm.engine.adapter import TaskModel, metainfo_of
from visionssm.engine.errors import ConfigError


class VideoClassifier(TaskModel):
    """A network of `visionssm.create_video_classifier`.

    Args:
        name: one of `list_video_classifiers()`, or with the tag of a checkpoint.
        num_classes: must be that of the data set.
        in_chans: channels of a frame.
        pretrained: start from the published checkpoint of that name.
        image_weights: start from the published weights of the image model of the same size (`videomamba_img_*`); or a
            file of such.
        drop_rate: dropout before the classifier.
        drop_path_rate: largest stochastic-depth rate.
        model_kwargs: further arguments of `VideoMamba`: `num_frames`, `img_size`, `tubelet_size`, ….
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ConfigError: an argument is unknown or wrong.
        CheckpointError: the weights cannot be had or do not fit.
    """

    task = "video_classification"
    identity = ("name", "num_classes", "in_chans")
    num_classes: int
    model: VideoMamba

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_chans: int = 3,
        pretrained: bool = False,
        image_weights: bool | str = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        model_kwargs: Mapping[str, Any] | None = None,
        label_smoothing: float = 0.0,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        rates = {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        for key, rate in {**rates, "label_smoothing": label_smoothing}.items():
            if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
                raise ConfigError(f"model.{key} must be a number from 0 to less than 1, got {rate!r}")
        arguments = {"num_classes": num_classes, "in_chans": in_chans, **rates, **dict(model_kwargs or {})}
        try:
            network = create_video_classifier(name, pretrained=pretrained, **arguments)
        except TypeError as error:
            raise ConfigError(f"model {name!r} does not take these arguments: {error}") from error
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"model: {error}") from error
        if image_weights:
            start_from_images(network, _image_weights(name, image_weights))
        super().__init__(network, {"name": name, **arguments}, data_preprocessor, init_cfg)
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing

    def losses(  # type: ignore[override]
        self, inputs: Tensor, labels: Tensor, index: Any = None, skipped: Any = None
    ) -> dict[str, Tensor]:
        """`loss`, of all clips.

        Args:
            inputs: (B, C, T, H, W) normalised clips, or (B, V, C, T, H, W) views.
            labels: (B,) class numbers.
            index: (B,) numbers of the samples in their data set.
            skipped: (B,) damaged videos passed over for each sample; counted elsewhere.
        """
        if inputs.dim() == 6:
            inputs, labels = inputs.flatten(0, 1), labels.repeat_interleave(inputs.shape[1])
        return {"loss": cross_entropy(self.model(inputs), labels, label_smoothing=self.label_smoothing)}

    def answers(  # type: ignore[override]
        self, inputs: Tensor, labels: Tensor | None = None, index: Tensor | None = None, skipped: Any = None
    ) -> list[dict[str, Any]]:
        """The best five `classes` and their `scores` of every video, with its `label`, `nll` and `index` if known."""
        scores = mean_scores(self.model, inputs)  # (B, classes)
        best = scores.topk(min(5, scores.shape[-1]))
        rows: dict[str, list[Any]] = {"classes": best.indices.tolist(), "scores": best.values.tolist()}
        if labels is not None:
            rows["label"] = labels.tolist()
            true = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]
            rows["nll"] = (-true.clamp(min=1e-30).log()).tolist()
        if index is not None:
            rows["index"] = index.tolist()
        return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """`views`: how a video is looked at.

        Raises:
            ConfigError: the clips have other channels than the model, or differ between the sets.
        """
        given = [meta["views"] for meta in metainfo_of(val_set, train_set) if meta.get("views")]
        if not given:
            return {}
        for key in ("frames", "size", "channels", "mean", "std"):
            if any(views[key] != given[0][key] for views in given):
                raise ConfigError(f"the training and validation data have different views.{key}; give both the same")
        if given[0]["channels"] != self.about["in_chans"]:
            raise ConfigError(
                f"model.in_chans={self.about['in_chans']}, but the clips have {given[0]['channels']} channels"
            )
        tubelet = self.model.tubelet_size
        if given[0]["frames"] % tubelet:
            raise ConfigError(f"clips of views.frames={given[0]['frames']} cannot be cut into tubelets of {tubelet}")
        return {"views": given[0]}


def _image_weights(name: str, given: bool | str) -> Path | dict[str, Tensor]:
    """Of the image model of a video model's size: a file, or downloaded."""
    if isinstance(given, str):
        path = Path(given).expanduser()
        if not path.is_file():
            raise CheckpointError(f"model.image_weights={given!r}: there is no such file")
        return path
    try:
        image = timm.create_model(name.partition(".")[0].replace("videomamba_", "videomamba_img_"), pretrained=True)
    except (CheckpointError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"no published image weights for {name!r}: {error} With their file: --cfg-options "
            "model.image_weights=FILE. From random weights: model.image_weights=False"
        ) from error
    return image.state_dict()


def mean_scores(model: VideoMamba, inputs: Tensor) -> Tensor:
    """(B, classes) probabilities of (B, C, T, H, W) clips, or the mean over the views of (B, V, C, T, H, W)."""
    if inputs.dim() == 5:
        return model(inputs).float().softmax(-1)
    batch, views = inputs.shape[:2]
    return model(inputs.flatten(0, 1)).float().softmax(-1).unflatten(0, (batch, views)).mean(1)
