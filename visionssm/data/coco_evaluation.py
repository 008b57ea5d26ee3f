"""COCO's evaluation, from the faster of the packages that have it."""

from __future__ import annotations

from typing import Any

from visionssm.extras import needs_extra


def coco_evaluator() -> tuple[Any, Any]:
    """COCO's index and evaluation: faster-coco-eval's where it is installed, which gives the same figures.

    Raises:
        MissingExtraError: (an ImportError) neither faster-coco-eval nor pycocotools is installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        with needs_extra("train", "average precision"):
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        return COCO, COCOeval
    return COCO, COCOeval_faster
