"""The rendered shapes as data sets of mmdet and mmseg, made when they are first used.

For configs: `custom_imports = dict(imports=["visionssm.tasks.openmmlab.shapes"])`; that registers the backbone
type `VisionSSM` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from visionssm.integrations.openmmlab.operators import provide_operators

provide_operators()  # before anything imports mmcv.ops

from mmdet.datasets import CocoDataset  # noqa: E402
from mmengine.registry import DATASETS  # noqa: E402
from mmseg.datasets import BaseSegDataset  # noqa: E402

from visionssm.data.generated import checked_spec  # noqa: E402
from visionssm.data.shapes import BACKGROUND, SHAPES, ShapesSpec, write_shapes  # noqa: E402
from visionssm.drawing import class_colour  # noqa: E402

_COLOURS = [class_colour(number) for number in range(len(SHAPES))]


@DATASETS.register_module()
class ShapesCocoDataset(CocoDataset):
    """mmdet's COCO data set of rendered shapes.

    Args:
        split: "train", "val" or "test".
        data_root: folder of the set; it is made if it is not there.
        spec: fields of `visionssm.data.shapes.ShapesSpec`.
        kwargs: mmdet's (`pipeline`, `test_mode`, `filter_cfg`, …).
    """

    METAINFO: Mapping[str, Any] = {"classes": tuple(SHAPES), "palette": _COLOURS}

    def __init__(self, split: str, data_root: str, spec: Mapping[str, int] | None = None, **kwargs: Any) -> None:
        write_shapes(data_root, checked_spec(ShapesSpec, split, spec))
        super().__init__(
            data_root=data_root,
            ann_file=f"annotations/instances_{split}.json",
            data_prefix={"img": f"images/{split}/"},
            **kwargs,
        )

    @staticmethod
    def check_available(split: str, spec: Mapping[str, int] | None = None, **_: Any) -> None:
        """Nothing can be missing; looks at the arguments."""
        checked_spec(ShapesSpec, split, spec)


@DATASETS.register_module()
class ShapesSegDataset(BaseSegDataset):
    """mmseg's data set of rendered shapes; class 0 is the background.

    Args: as `ShapesCocoDataset`; `kwargs` are mmseg's.
    """

    METAINFO: Mapping[str, Any] = {"classes": (BACKGROUND, *SHAPES), "palette": [(40, 40, 40), *_COLOURS]}

    def __init__(self, split: str, data_root: str, spec: Mapping[str, int] | None = None, **kwargs: Any) -> None:
        write_shapes(data_root, checked_spec(ShapesSpec, split, spec))
        super().__init__(
            data_root=data_root,
            data_prefix={"img_path": f"images/{split}", "seg_map_path": f"labels/{split}"},
            img_suffix=".png",
            seg_map_suffix=".png",
            reduce_zero_label=False,
            **kwargs,
        )

    @staticmethod
    def check_available(split: str, spec: Mapping[str, int] | None = None, **_: Any) -> None:
        """Nothing can be missing; looks at the arguments."""
        checked_spec(ShapesSpec, split, spec)
