"""Segmentors of mmseg in the form that a file holds: images in [0, 1] to the class of every pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visionssm.integrations.export import Exportable, ExportError, description, exportable_segmentor


class Scores(nn.Module):
    """(B, 3, H, W) images, RGB in [0, 1], to (B, classes, H, W) scores at their own size.

    Args:
        segmentor: of mmseg, in evaluation mode. One that is meant to be slid over an image sees the whole image here.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor: Any = segmentor
        preprocessor: Any = segmentor.data_preprocessor
        self.flips = not preprocessor._channel_conversion  # mmseg reads BGR, and its preprocessor may make that RGB
        normalises = preprocessor._enable_normalize
        for name, neutral in (("mean", 0.0), ("std", 1.0)):
            level = getattr(preprocessor, name).detach().clone() if normalises else torch.tensor(neutral)
            self.register_buffer(name, level / 255, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        maps = self.segmentor.extract_feat(((image.flip(1) if self.flips else image) - self.mean) / self.std)
        head = self.segmentor.decode_head
        scores = head.predict(maps, [{"img_shape": (image.shape[2], image.shape[3])}], self.segmentor.test_cfg)
        if self.segmentor.out_channels > 1:
            return scores
        # one score: the second class is where its logistic function is above the threshold
        return torch.cat((torch.full_like(scores, math.log(head.threshold / (1 - head.threshold))), scores), 1)


def exportable_openmmlab_segmentor(segmentor: nn.Module, classes: Sequence[str]) -> Exportable:
    """What `export_onnx` and `export_archive` take.

    Args:
        segmentor: of mmseg, in evaluation mode.
        classes: class names.

    Raises:
        ExportError: it is made of several heads in a row.
    """
    model: Any = segmentor
    if not isinstance(model.decode_head, nn.Module) or isinstance(model.decode_head, nn.ModuleList):
        raise ExportError(f"a {type(model).__name__} of mmseg, whose heads follow each other, has no form for export")
    window = model.test_cfg.get("crop_size") if model.test_cfg.get("mode") == "slide" else None
    about = description(classes, task="mmseg", input="(B, 3, H, W) in [0, 1]", window=window)
    return exportable_segmentor(Scores(segmentor), about)
