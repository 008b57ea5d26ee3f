"""Rendered shapes as a data set of detection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visionssm.data.generated import checked_spec
from visionssm.data.shapes import ShapesSpec, write_shapes
from visionssm.tasks.detection.data import CocoInstances


class ShapesDetection(CocoInstances):
    """Rendered shapes with boxes and masks.

    Args:
        split: "train", "val" or "test".
        root: folder in which the set is kept; None for the cache folder.
        spec: fields of `ShapesSpec`.
        transforms: see `CocoInstances`.
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
            annotations=f"annotations/instances_{split}.json",
            images=f"images/{split}",
            transforms=transforms,
        )

    @staticmethod
    def check_available(split: str, spec: Mapping[str, int] | None = None, **_: Any) -> None:  # type: ignore[override]
        """Nothing can be missing, as the set is made when it is first used; looks at the arguments.

        Raises:
            DatasetError: an argument is wrong.
        """
        checked_spec(ShapesSpec, split, spec)
