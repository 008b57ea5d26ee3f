"""Rendered shapes as a data set of segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionssm.data.generated import checked_spec
from visionssm.data.shapes import BACKGROUND, SHAPES, ShapesSpec, write_shapes
from visionssm.tasks.segmentation.data import LabelledImages


class ShapesSegmentation(LabelledImages):
    """Rendered shapes with a class number per pixel, 0 = background.

    Args: as `ShapesDetection`.
    """

    def __init__(
        self,
        split: str,
        *,
        root: str | None = None,
        spec: Mapping[str, int] | None = None,
        transforms: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        checked = checked_spec(ShapesSpec, split, spec)
        folder = write_shapes(checked.folder(root), checked)
        super().__init__(
            folder,
            images=f"images/{split}",
            labels=f"labels/{split}",
            classes=[BACKGROUND, *SHAPES],
            transforms=transforms,
        )

    @staticmethod
    def check_available(split: str, spec: Mapping[str, int] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Nothing can be missing, as the set is made when it is first used; looks at the arguments.

        Raises:
            DatasetError: an argument is wrong.
        """
        checked_spec(ShapesSpec, split, spec)
