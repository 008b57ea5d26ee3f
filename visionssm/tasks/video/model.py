"""The task of predicting video: every frame from those before it, and the rest of a clip from its beginning."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from visionssm.backbones.convs5 import VARIANTS, ConvS5, next_frame_losses
from visionssm.data.spelling import closest
from visionssm.engine.errors import CheckpointError, ConfigError
from visionssm.tasks.video.metric import mean_psnr


@MODELS.register_module()
class NextFramePredictor(BaseModel):
    """A ConvS5 model as MMEngine trains it.

    Args:
        name: a variant of `visionssm.backbones.convs5`.
        context: frames that are given when a clip is continued in evaluation; the rest is generated step by step.
        model_kwargs: fields of `ConvS5Config` to change.

    Raises:
        ConfigError: the name or a field is unknown, or the context is empty.
    """

    def __init__(
        self,
        name: str,
        context: int = 10,
        model_kwargs: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if name not in VARIANTS:
            raise ConfigError(f"model.name={name!r} is not a ConvS5 variant; closest: {closest(name, list(VARIANTS))}")
        if context < 1:
            raise ConfigError(f"model.context={context}: at least one frame must be given")
        try:
            config = dataclasses.replace(VARIANTS[name], **dict(model_kwargs or {}))
        except TypeError as error:
            raise ConfigError(f"model.model_kwargs: {error}; the fields are those of ConvS5Config") from error
        self.model = ConvS5(config)
        self.context = context
        self._about = {"name": name, **dict(model_kwargs or {})}

    def init_weights(self) -> None:
        """Do nothing: the model is initialised when it is made."""

    def forward(self, inputs: Tensor, index: Tensor | None = None, mode: str = "tensor") -> Any:
        """Predictions, losses or evaluated clips of a batch.

        Args:
            inputs: (B, T, H, W, C) clips in [−1, 1].
            index: (B,) numbers of the clips in their data set.
            mode: MMEngine's: "tensor" gives (B, T − 1, H, W, C) predictions of all frames but the first, "loss"
                `{"loss": …, "mse": …, "l1": …}`, "predict" a dict per clip (see `NextFrameMetric`).
        """
        predicted = self.model(inputs)
        if mode == "tensor":
            return predicted
        if mode == "predict":
            return self._evaluated(inputs, predicted.detach(), index)
        losses = next_frame_losses(predicted, inputs[:, 1:])
        # MMEngine trains the sum of what is named loss; the parts are only logged
        return {"loss": losses["loss"], "mse": losses["mse"].detach(), "l1": losses["l1"].detach()}

    def _evaluated(self, clips: Tensor, predicted: Tensor, index: Tensor | None) -> list[dict[str, Any]]:
        known = self.context
        if clips.shape[1] <= known:
            raise ConfigError(
                f"model.context={known}, but a clip has {clips.shape[1]} frames; nothing is left to generate"
            )
        generated = self.model.generate(clips[:, :known], clips.shape[1] - known)
        rows = []
        for number, clip in enumerate(clips):
            one = slice(number, number + 1)
            following = clips[one, 1:]
            rows.append(
                {
                    "index": number if index is None else int(index[number]),
                    "error": float(next_frame_losses(predicted[one], following)["loss"]),
                    "copy_error": float(next_frame_losses(clips[one, :-1], following)["loss"]),
                    "psnr": mean_psnr(predicted[number], clip[1:]),
                    "rollout_psnr": mean_psnr(generated[number], clip[known:]),
                    "copy_psnr": mean_psnr(clip[known - 1].expand_as(clip[known:]), clip[known:]),
                    "clip": clip.float().cpu(),
                    "generated": generated[number].float().cpu(),
                }
            )
        return rows

    def checkpoint_meta(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """What a checkpoint says of itself, in plain types.

        Raises:
            ConfigError: the clips do not fit the model.
        """
        for data in (train_set, val_set):
            clip = dict(getattr(data, "metainfo", None) or {}).get("clip")
            if clip is None:
                continue
            height, width, channels = clip["size"]
            if channels != self.model.config.channels or height % self.model.reduction or width % self.model.reduction:
                raise ConfigError(
                    f"the frames are {height}×{width}×{channels}, but the model takes {self.model.config.channels} "
                    f"channels and sides divisible by {self.model.reduction}"
                )
        return {"model": dict(self._about)}

    def check_checkpoint(self, meta: Mapping[str, Any], path: str) -> None:
        """Refuse a checkpoint of another model, by name.

        Raises:
            CheckpointError: the checkpoint says that it is of another model.
        """
        name = ((meta.get("visionssm") or {}).get("model") or {}).get("name", self._about["name"])
        if name != self._about["name"]:
            raise CheckpointError(f"{path!r} is of the model {name!r}, the config's is {self._about['name']!r}")
