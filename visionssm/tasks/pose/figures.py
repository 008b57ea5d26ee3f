"""Rendered stick figures as a data set of pose estimation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionssm.data.figures import FiguresSpec, write_figures
from visionssm.data.generated import checked_spec
from visionssm.tasks.pose.data import CocoKeypoints


class Figures(CocoKeypoints):
    """Rendered stick figures with 14 joints.

    Args:
        split: "train", "val" or "test".
        root: folder in which the set is kept; None for the cache folder.
        spec: fields of `FiguresSpec`.
        options: size, sigma, padding, augment, boxes: see `CocoKeypoints`.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str | None = None,
        spec: Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        checked = checked_spec(FiguresSpec, split, spec)
        super().__init__(
            write_figures(checked.folder(root), checked),
            annotations=f"annotations/person_keypoints_{split}.json",
            images=f"images/{split}",
            **options,
        )

    @staticmethod
    def check_available(split: str, spec: Mapping[str, int] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Nothing can be missing, as the set is made when it is first used; looks at the arguments.

        Raises:
            DatasetError: an argument is wrong.
        """
        checked_spec(FiguresSpec, split, spec)
