"""Mamba-YOLO in the form that a file holds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from visionssm.heads.yolo import MambaYolo, suppress
from visionssm.heads.yolo.nms import CANDIDATES, MOST, OVERLAP, THRESHOLD
from visionssm.integrations.export.detection import (
    best_places,
    object_difference,
    suppressed_places,
    telling_threshold,
)
from visionssm.integrations.export.exportable import Exportable, description, largest

USUAL_SIDE = 640

OUTPUTS = ("boxes", "scores", "labels")


class PointsGraph(nn.Module):
    """(B, C, H, W) images in [0, 1], any sides, to a box, the best score and its class at all points.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: MambaYolo) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """To (B, N, 4) left, top, right, bottom in pixels, (B, N) scores in [0, 1] and (B, N) classes from 0."""
        boxes, scores = self.model.predict(image)
        best, labels = scores.max(dim=-1)
        return boxes, best, labels


class ObjectsGraph(nn.Module):
    """A (1, C, H, W) image in [0, 1], any sides, to its objects: what `suppress` leaves, in operators that files hold.

    Args:
        model: in evaluation mode.
        threshold: what a score must exceed.
        overlap: IoU of two boxes of one class above which the worse is left out.
    """

    score_threshold: Tensor

    def __init__(self, model: MambaYolo, threshold: float, overlap: float) -> None:
        super().__init__()
        self.model, self.overlap = model, overlap
        self.register_buffer("score_threshold", torch.tensor(threshold), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """To (n, 4) left, top, right, bottom in pixels, (n,) scores, best first, and (n,) classes from 0."""
        boxes, scores = (x[0] for x in self.model.predict(image))
        certain = (scores > self.score_threshold).flatten().nonzero()[:, 0]
        place = certain[best_places(scores.flatten()[certain], CANDIDATES)]
        point, label = place // self.model.num_classes, place % self.model.num_classes
        box, score = boxes[point], scores.flatten()[place]
        kept = suppressed_places(box, score, label, self.overlap, MOST)
        return box[kept], score[kept], label[kept]


def exportable_yolo(
    model: MambaYolo,
    classes: Sequence[str],
    side: int = USUAL_SIDE,
    *,
    nms: bool = False,
    threshold: float = THRESHOLD,
    overlap: float = OVERLAP,
) -> Exportable:
    """(B, 3, H, W) images in [0, 1] to `boxes`, `scores` and `labels`, before or after overlapping boxes are left out.

    Before, the outputs are (B, N, 4) boxes in pixels (left, top, right, bottom) at all points, (B, N) scores of the
    best class, and (B, N) numbers of that class, from 0. After, they are (n, 4), (n,) and (n,) of one image, best
    first, as `suppress` finds them; a file holds the least score as the constant `score_threshold`.

    The sides of the images need not be multiples of 32: the graph fills them up with grey.

    Args:
        model: its results are those of evaluation mode.
        classes: class names.
        side: of the square image with which the file is made.
        nms: leave overlapping boxes out in the graph, with torchvision's operator.
        threshold: with `nms`, what a score must exceed.
        overlap: with `nms`, IoU of two boxes of one class above which the worse is left out.
    """
    model.eval()
    batch = 1 if nms else "B"
    about = description(
        classes,
        task="yolo",
        input=f"({batch}, {model.in_chans}, H, W) in [0, 1]",
        size=side,
        multiple=model.strides[-1],
        threshold=threshold if nms else None,
        overlap=overlap if nms else None,
    )
    if not nms:
        return Exportable(
            PointsGraph(model),
            outputs=OUTPUTS,
            shape=(1, model.in_chans, side, side),
            sample=torch.rand,
            expected=model.predict,
            difference=_difference_of_points,
            about=about,
        )
    graph = ObjectsGraph(model, threshold, overlap)

    def expected(image: Tensor) -> dict[str, Tensor]:
        (boxes,), (scores,) = model.predict(image)
        return suppress(boxes, scores, threshold=float(graph.score_threshold), overlap=overlap)._asdict()

    def probe(image: Tensor) -> dict[str, float]:
        (boxes,), (scores,) = model.predict(image)
        return {"score_threshold": telling_threshold(suppress(boxes, scores, threshold=0.0, overlap=overlap).scores)}

    return Exportable(
        graph,
        outputs=OUTPUTS,
        axes={2: "height", 3: "width"},
        shape=(1, model.in_chans, side, side),
        sample=torch.rand,
        expected=expected,
        difference=object_difference,
        probe=probe,
        doubt="inf: it finds other objects. The order of nearly equal scores, as a detector gives before it is trained,"
        " is open",
        about=about,
    )


def _difference_of_points(actual: Sequence[Tensor], expected: tuple[Tensor, Tensor]) -> float:
    """The largest difference of boxes, relative to the image, and of scores.

    Of two classes whose scores are equal but for rounding either may be the best.
    """
    boxes, scores, labels = actual
    own_boxes, own_scores = expected
    if boxes.shape != own_boxes.shape or not scores.shape == labels.shape == own_scores.shape[:-1]:
        return math.inf
    side = own_boxes.amax().clamp(min=1)
    of_label = own_scores.gather(-1, labels[..., None])[..., 0]
    differences = ((boxes - own_boxes) / side, scores - own_scores.amax(-1), scores - of_label)
    return largest(float(x.abs().max()) for x in differences)
