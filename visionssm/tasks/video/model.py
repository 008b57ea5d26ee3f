"""ConvS5 as MMEngine trains it: every frame from those before it, and the rest of a clip from its beginning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from visionssm.backbones.convs5 import VARIANTS, create_convs5, next_frame_losses
from visionssm.data.spelling import closest
from visionssm.engine.adapter import TaskModel, metainfo_of
from visionssm.engine.errors import ConfigError
from visionssm.tasks.video.metric import mean_psnr


class NextFramePredictor(TaskModel):
    """A ConvS5 model.

    Args:
        name: a variant of `visionssm.backbones.convs5`.
        context: frames that are given when a clip is continued in evaluation; the rest is generated step by step.
        model_kwargs: fields of `ConvS5Config` to change.

    Raises:
        ConfigError: the name or a field is unknown, or the context is empty.
    """

    task = "video"

    def __init__(
        self,
        name: str,
        context: int = 10,
        model_kwargs: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        if name not in VARIANTS:
            raise ConfigError(f"model.name={name!r} is not a ConvS5 variant; closest: {closest(name, list(VARIANTS))}")
        if context < 1:
            raise ConfigError(f"model.context={context}: at least one frame must be given")
        about = {"name": name, **dict(model_kwargs or {})}
        try:
            network = create_convs5(**about)
        except TypeError as error:
            raise ConfigError(f"model.model_kwargs: {error}; the fields are those of ConvS5Config") from error
        super().__init__(network, about, data_preprocessor, init_cfg)
        self.network = (network,)  # typed, and in a tuple, where nn.Module does not look
        self.context = context

    def losses(self, inputs: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        """`loss`, and its parts `mse` and `l1`, of predicting all frames but the first.

        Args:
            inputs: (B, T, H, W, C) clips in [−1, 1].
            index: (B,) numbers of the clips in their data set.
        """
        losses = next_frame_losses(self.model(inputs), inputs[:, 1:])
        # MMEngine trains the sum of what is named loss; the parts are only logged
        return {"loss": losses["loss"], "mse": losses["mse"].detach(), "l1": losses["l1"].detach()}

    def answers(  # type: ignore[override]
        self, inputs: Tensor, index: Tensor | None = None
    ) -> list[dict[str, Any]]:
        """Errors and frames of every clip; see `NextFrameMetric`."""
        clips, known = inputs, self.context
        predicted = self.model(clips).detach()
        if clips.shape[1] <= known:
            raise ConfigError(
                f"model.context={known}, but a clip has {clips.shape[1]} frames; nothing is left to generate"
            )
        generated = self.network[0].generate(clips[:, :known], clips.shape[1] - known)
        rows = []
        for number, clip in enumerate(clips):
            one = slice(number, number + 1)
            following = clips[one, 1:]
            rows.append(
                {
                    "index": number if index is None else int(index[number]),
                    "known": known,
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

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """`context`, the frames that are given.

        Raises:
            ConfigError: the clips do not fit the model.
        """
        channels, reduction = self.network[0].config.channels, self.network[0].reduction
        for clip in (meta["clip"] for meta in metainfo_of(val_set, train_set) if meta.get("clip")):
            height, width, given = clip["size"]
            if given != channels or height % reduction or width % reduction:
                raise ConfigError(
                    f"the frames are {height}×{width}×{given}, but the model takes {channels} channels and sides "
                    f"divisible by {reduction}"
                )
        return {"context": self.context}
