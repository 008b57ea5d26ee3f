"""How well poses are found: COCO's average precision of key points, and errors in sizes of the boxes."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from visionssm.data.coco_evaluation import coco_evaluator
from visionssm.heads.pose.oks import COCO_SIGMAS, oks_nms

Array = npt.NDArray[np.float64]

LEAST_SCORE = 0.2
"""Points of a higher score count in the score of a person."""

DUPLICATE = 0.9
"""Similarity from which of two people in an image one is left out."""

FIGURES = ("AP", "AP50", "AP75", "APm", "APl", "AR")
"""COCO's, in its order: over similarities of 0.5 to 0.95, of 0.5 and 0.75, of medium and large people; recall."""


class TruePose(NamedTuple):
    """Somebody in an image.

    Attributes:
        image: number of the image.
        points: (K, 3) x, y and visibility, which is 0 for points that are not labelled.
        area: in pixels, as annotated.
        box: left, top, right and bottom.
        label: number of the category.
        crowd: not asked for, and not wrong where it is found.
    """

    image: int
    points: Array
    area: float
    box: Sequence[float]
    label: int = 1
    crowd: bool = False


class FoundPose(NamedTuple):
    """Somebody who was found in an image.

    Attributes:
        image: number of the image.
        points: (K, 3) x, y and score.
        score: of the person, see `rescored`.
        area: of the box in which the points were looked for, in pixels.
        label: number of the category.
    """

    image: int
    points: Array
    score: float
    area: float
    label: int = 1


def rescored(box_scores: npt.ArrayLike, point_scores: npt.ArrayLike, least: float = LEAST_SCORE) -> Array:
    """Scores of people: that of the box times the mean of the points' scores that are greater than `least`.

    Args:
        box_scores: (N,); 1 of annotated boxes.
        point_scores: (N, K).
        least: without any point above it, a person's score is 0.

    Examples:
        >>> rescored([0.5, 1.0], [[0.1, 0.4, 0.8], [0.1, 0.2, 0.0]]).tolist()
        [0.30000000000000004, 0.0]
    """
    points = np.asarray(point_scores, dtype=np.float64)
    counted = points > least
    mean = np.where(counted, points, 0).sum(-1) / np.maximum(counted.sum(-1), 1)
    scores: Array = np.asarray(box_scores, dtype=np.float64) * mean
    return scores


def without_duplicates(
    found: Sequence[FoundPose], sigmas: npt.ArrayLike = COCO_SIGMAS, threshold: float = DUPLICATE
) -> list[FoundPose]:
    """Those who are left after OKS-NMS in every image and category, in their order."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, pose in enumerate(found):
        groups[pose.image, pose.label].append(number)
    kept: list[int] = []
    for numbers in groups.values():
        poses = [found[number] for number in numbers]
        points = np.stack([pose.points[:, :2] for pose in poses])
        chosen = oks_nms(points, [x.score for x in poses], [x.area for x in poses], sigmas, threshold)
        kept += [numbers[number] for number in chosen]
    return [found[number] for number in sorted(kept)]


def average_precision(
    truth: Sequence[TruePose], found: Sequence[FoundPose], sigmas: npt.ArrayLike = COCO_SIGMAS
) -> dict[str, float]:
    """COCO's `FIGURES` of key points, between 0 and 1; −1 where there is nobody to be found.

    Duplicates are counted as wrong: leave them out before (`without_duplicates`). At most 20 people per image and
    category count, those with the highest scores. People without a labelled point are not asked for.

    Args:
        truth: everybody in the images.
        found: everybody who was found, also in images without anybody.
        sigmas: (K,) constants of the similarity.

    Raises:
        ValueError: points have another shape, or numbers are not finite.
        MissingExtraError: (an ImportError) neither faster-coco-eval nor pycocotools is installed.
    """
    sigmas = np.asarray(sigmas, dtype=np.float64)
    everybody: list[TruePose | FoundPose] = [*truth, *found]
    for pose in everybody:
        if np.shape(pose.points) != (len(sigmas), 3):
            raise ValueError(
                f"points of shape {np.shape(pose.points)} must be ({len(sigmas)}, 3), as {len(sigmas)} sigmas"
            )
        if not np.isfinite(pose.points).all():
            raise ValueError(f"points of image {pose.image} must be finite")
    if not all(np.isfinite([pose.score, pose.area]).all() for pose in found):
        raise ValueError("scores and areas of the found must be finite")
    asked = any(not pose.crowd and (pose.points[:, 2] > 0).any() for pose in truth)
    if not found or not asked:
        return dict.fromkeys(FIGURES, 0.0 if asked else -1.0)
    coco, evaluator = coco_evaluator()
    # It prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = coco()
        annotated.dataset = {
            "info": {},
            "images": [{"id": number} for number in sorted({pose.image for pose in everybody})],
            "annotations": [_annotation(number, pose) for number, pose in enumerate(truth, 1)],
            "categories": [{"id": label, "name": str(label)} for label in sorted({pose.label for pose in everybody})],
        }
        annotated.createIndex()
        evaluation = evaluator(annotated, annotated.loadRes([_result(pose) for pose in found]), "keypoints")
        evaluation.params.kpt_oks_sigmas = sigmas
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(figure) for name, figure in zip(FIGURES, evaluation.stats, strict=False)}


def box_errors(points: npt.ArrayLike, truth: npt.ArrayLike, boxes: npt.ArrayLike) -> Array:
    """Distances of the labelled points to the true ones, in longer sides of the boxes: mean error, and PCK.

    The share of errors up to 0.2 is PCK@.2 (Yang and Ramanan 2013, there of the person's box).

    Args:
        points: (N, K, 2) or more columns, of which x and y are the first.
        truth: (N, K, 3), x, y and visibility.
        boxes: (N, 4), left, top, right and bottom.

    Returns:
        (n,) errors of all labelled points.

    Examples:
        >>> errors = box_errors([[[3, 0], [9, 9]]], [[[0, 4, 2], [0, 0, 0]]], [[0, 0, 20, 50]])
        >>> errors.tolist(), float((errors <= 0.2).mean())
        ([0.1], 1.0)
    """
    points, truth = np.asarray(points, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    boxes = np.asarray(boxes, dtype=np.float64)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(1)
    distances = np.linalg.norm(points[..., :2] - truth[..., :2], axis=-1)
    errors: Array = (distances / sides[:, None])[truth[..., 2] > 0]
    return errors


def _annotation(number: int, pose: TruePose) -> dict[str, Any]:
    left, top, right, bottom = (float(x) for x in pose.box)
    return {
        "id": number,
        "image_id": pose.image,
        "category_id": pose.label,
        "keypoints": np.asarray(pose.points, dtype=np.float64).reshape(-1).tolist(),
        "num_keypoints": int((pose.points[:, 2] > 0).sum()),
        "bbox": [left, top, right - left, bottom - top],
        "area": float(pose.area),
        "iscrowd": int(pose.crowd),
    }


def _result(pose: FoundPose) -> dict[str, Any]:
    return {
        "image_id": pose.image,
        "category_id": pose.label,
        "keypoints": np.asarray(pose.points, dtype=np.float64).reshape(-1).tolist(),
        "score": float(pose.score),
    }
