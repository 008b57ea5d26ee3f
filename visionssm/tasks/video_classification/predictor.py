"""Classifying videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from visionssm.backbones.videomamba import VIDEO_VARIANTS, VideoMamba, create_video_classifier
from visionssm.checkpoints import CheckpointError
from visionssm.data.arguments import checked
from visionssm.data.errors import DatasetError
from visionssm.engine.description import class_names_of, description_of, fields_of, rebuilt
from visionssm.engine.finite import check_finite
from visionssm.engine.task import View
from visionssm.tasks.video_classification.base import BaseVideoClassifier
from visionssm.tasks.video_classification.results import Clip
from visionssm.tasks.video_classification.views import Views

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable

_MOST_CLIPS = 16
"""Clips that go through the network at once."""

_FIELDS = (
    *("name", "num_classes", "in_chans", "drop_rate", "drop_path_rate", "global_pool", "num_frames", "img_size"),
    *("tubelet_size", "patch_size", "embed_dim", "depth", "d_state"),
)


@dataclass(frozen=True)
class VideoPredictor(BaseVideoClassifier):
    __doc__ = BaseVideoClassifier.__doc__

    model: VideoMamba
    views: Views

    def probabilities(self, views: Tensor) -> np.ndarray:
        """(V, classes) of the views of a video, in float32.

        Raises:
            ValueError: the network gives NaN or infinite scores.
        """
        place = next(self.model.parameters()).device
        scores = torch.cat([self.model(x.to(place)).detach().float().cpu() for x in views.split(_MOST_CLIPS)])
        check_finite(bool(scores.isfinite().all()))
        return scores.softmax(-1).numpy()

    def view(self) -> View:
        """What the layers make of every frame; an input is the frames of a clip side by side."""
        frames = self.views.frames

        def prepare(clip: Clip, size: Sequence[int] | None) -> Tensor:
            view = clip.inputs[len(clip.inputs) // 2]  # (C, T, H, W)
            if size is not None:
                view = nn.functional.interpolate(view, size=tuple(size), mode="bilinear", align_corners=False)
            return view.permute(0, 2, 1, 3).flatten(2)[None]

        def picture(strip: Tensor) -> Tensor:
            clip = strip[0].unflatten(2, (frames, -1)).transpose(1, 2)
            levels = torch.from_numpy(self.views.levels(clip))  # (T, H, W, 3)
            return levels.transpose(0, 1).flatten(1, 2).float() / 255

        channels, size = self.views.channels, self.views.size
        return View(_StripMaps(self.model, frames), prepare, picture, (channels, size, frames * size))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: (B, C, T, H, W) clips to the scores before softmax."""
        from visionssm.integrations.export import Exportable, description

        about = description(
            self.classes,
            task="video_classification",
            input="(B, C, T, H, W), (RGB or grey in [0, 1] - mean) / std",
            **self.views.plain(),
        )
        return Exportable(
            self.model, outputs=("scores",), input="clip", axes={0: "batch"}, shape=(1, *self.views.shape), about=about
        )


class _StripMaps(nn.Module):
    """(B, C, H, T·W) frames side by side to maps of the layers, (B, D, rows, T'·columns) each, side by side as well."""

    def __init__(self, model: VideoMamba, frames: int) -> None:
        super().__init__()
        self.model, self.frames = model, frames

    def forward(self, strip: Tensor) -> list[Tensor]:
        clip = strip.unflatten(3, (self.frames, -1)).permute(0, 1, 3, 2, 4)
        maps = self.model.forward_intermediates(clip, intermediates_only=True)
        return [cast(Tensor, x).transpose(2, 3).flatten(3) for x in maps]


def trained_video_classifier(checkpoint: Mapping[str, Any]) -> VideoPredictor:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    given = fields_of(about, "model", _FIELDS)
    name = given.pop("name", None)
    if not isinstance(name, str) or name.partition(".")[0] not in VIDEO_VARIANTS:
        raise CheckpointError(f"the checkpoint is of a model {name!r:.80}, which is no known video classifier")
    try:
        views: Views = checked(Views, "views", fields_of(about, "views", Views.__dataclass_fields__))
    except CheckpointError:
        raise
    except (DatasetError, TypeError) as error:
        raise CheckpointError(f"the checkpoint's description cannot be used: {error}") from error
    model = rebuilt(lambda: create_video_classifier(name, **given), checkpoint, name)
    if model.in_chans != views.channels or views.frames % model.tubelet_size:
        raise CheckpointError("the checkpoint's description has views that do not fit its model")
    return VideoPredictor(model, class_names_of(about, model.num_classes), views)
