"""Top-down pose estimators as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visionssm.data.keypoints import Skeleton
from visionssm.engine.adapter import TaskModel, metainfo_of
from visionssm.engine.errors import ConfigError
from visionssm.heads.pose.heatmap import PoseNetwork
from visionssm.heads.pose.registry import VARIANTS, create_pose
from visionssm.tasks.pose.crops import Crop, heat_maps, placed


class PoseEstimator(TaskModel):
    """A network of `visionssm.heads.pose.create_pose`, trained with the mean squared error of its heat maps.

    Args:
        name: one of `list_poses()`.
        num_keypoints: K, of the data.
        flip_test: evaluate with the mean of the maps of crops and of mirrored crops.
        pretrained: start from published weights; or a file of such.
        pretrained_backbone: start the backbone from published ImageNet weights; or a file of such.
        changes: arguments of `create_pose` in place of the variant's, as `dict(drop_path_rate=0.1, drop_rate=0.1)`.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "pose"
    identity = ("name", "num_keypoints")
    model: PoseNetwork

    def __init__(
        self,
        name: str,
        num_keypoints: int = 17,
        flip_test: bool = True,
        pretrained: bool | str = False,
        pretrained_backbone: bool | str = False,
        changes: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        arguments = dict(changes or {})
        try:
            starts: dict[str, Any] = {"pretrained": pretrained, "pretrained_backbone": pretrained_backbone}
            network = create_pose(name, num_keypoints, **starts, **arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        about = {"name": name, "num_keypoints": num_keypoints, "flip_test": flip_test, "changes": arguments}
        super().__init__(network, about, data_preprocessor, init_cfg)

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """Categories, key points and how people are cut out, which must be the same in both sets and fit the network.

        Raises:
            ConfigError: they are not, or do not.
        """
        metas = [meta for meta in metainfo_of(train_set, val_set) if "skeleton" in meta]
        if not metas:
            return {}
        for key, what in (("skeleton", "key points, pairs or sigmas"), ("classes", "categories"), ("crop", "crops")):
            if any(meta[key] != metas[0][key] for meta in metas):
                raise ConfigError(f"the training and validation data have different {what}; give both the same")
        skeleton = Skeleton.from_plain(metas[0]["skeleton"])
        crop = Crop(tuple(metas[0]["crop"]["size"]), metas[0]["crop"]["padding"])
        count, name = self.about["num_keypoints"], self.about["name"]
        if len(skeleton.names) != count:
            raise ConfigError(
                f"model.num_keypoints={count}, but the data set has {len(skeleton.names)} key points; set "
                f"model.num_keypoints={len(skeleton.names)}"
            )
        said = VARIANTS[name].crop_size
        if crop.size != said and name.endswith("x".join(map(str, said))):
            raise ConfigError(
                f"model.name={name!r} is for crops of {said[0]}×{said[1]}, but the data set has size={crop.size}; "
                "set the same size in all data sets, or choose the network of that size"
            )
        return {"classes": list(metas[0]["classes"]), "skeleton": skeleton.plain(), "crop": crop.plain()}

    def losses(  # type: ignore[override]
        self,
        inputs: Tensor | Sequence[Tensor],
        maps: Tensor | Sequence[Tensor],
        weights: Tensor | Sequence[Tensor],
        **_: Any,
    ) -> dict[str, Tensor]:
        """`loss_heatmap`: the mean over all pixels and points of weight · (map − true map)².

        Args:
            inputs: (B, 3, H, W).
            maps: (B, K, H/4, W/4).
            weights: (B, K).
        """
        wanted, counted = _stacked(maps), _stacked(weights)
        found = self.model(_stacked(inputs)).float()
        return {"loss_heatmap": (counted[..., None, None] * (found - wanted) ** 2).mean()}

    def scores(self, inputs: Tensor | Sequence[Tensor]) -> Tensor:
        """(B, K, H/4, W/4) heat maps, without the flip test."""
        return heat_maps(self.model, _stacked(inputs), None)

    def answers(  # type: ignore[override]
        self,
        inputs: Tensor | Sequence[Tensor],
        centre: Tensor | Sequence[Tensor],
        scale: Tensor | Sequence[Tensor],
        flip_order: Tensor | Sequence[Tensor],
        index: Any = None,
        **_: Any,
    ) -> list[dict[str, Any]]:
        """`index`, `points` (K, 3) in the image with scores, and `area` of the region, of every crop."""
        crops = _stacked(inputs)
        order = flip_order[0].tolist()  # the same for all
        pairs = [(first, second) for first, second in enumerate(order) if first < second]
        maps = heat_maps(self.model, crops, pairs if self.about["flip_test"] else None).float().cpu().numpy()
        centres, scales = (_stacked(x).cpu().numpy() for x in (centre, scale))
        points = placed(maps, centres, scales, (crops.shape[2], crops.shape[3]))
        return [
            {
                "index": number if index is None else int(index[number]),
                "points": points[number],
                "area": float(np.prod(scales[number])),
            }
            for number in range(len(points))
        ]


def _stacked(parts: Tensor | Sequence[Tensor]) -> Tensor:
    return parts if isinstance(parts, Tensor) else torch.stack(list(parts))
