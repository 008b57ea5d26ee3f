"""Networks for medical segmentation as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import visionssm
from visionssm.data.arguments import checked
from visionssm.data.errors import DatasetError
from visionssm.engine.adapter import TaskModel, metainfo_of
from visionssm.engine.errors import ConfigError
from visionssm.heads.medical.segmenter import Segmenter
from visionssm.tasks.medical.inference import Inference, probabilities
from visionssm.tasks.medical.losses import loss_named, supervised
from visionssm.tasks.medical.preparation import Preparation


class MedicalSegmentor(TaskModel):
    """A network of `visionssm.create_segmenter`.

    Args:
        name: one of `visionssm.list_segmenters()`.
        num_classes: with the background; 1 for a foreground alone, with a data set of two classes.
        in_chans: channels of the images.
        loss: name of a loss, see `loss_named`; with deep supervision it is the weighted sum over the outputs.
        inference: how the network is applied, arguments of `Inference`: `dict(patch=(8, 48, 48), mirror=(0, 1, 2))`.
        pretrained: whether to start from published weights; or a file of such.
        pretrained_encoder: whether to start from a classifier's published weights; or a file of such.
        changes: arguments in place of the variant's.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "medical"
    identity = ("name", "num_classes", "in_chans")
    model: Segmenter
    num_classes: int

    def __init__(
        self,
        name: str,
        num_classes: int,
        in_chans: int = 1,
        loss: str = "ce_dice",
        inference: Mapping[str, Any] | None = None,
        pretrained: bool | str = False,
        pretrained_encoder: bool | str = False,
        changes: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        arguments: dict[str, Any] = {"name": name, "num_classes": num_classes, "in_chans": in_chans}
        starts: dict[str, Any] = {"pretrained": pretrained, "pretrained_encoder": pretrained_encoder}
        try:
            network = visionssm.create_segmenter(**arguments, **starts, **dict(changes or {}))
            self_inference = checked(Inference, "inference", inference or {})
            self_inference.check(network.spatial_dims)
            found_loss = loss_named(loss)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        if (loss == "bce_dice") != (num_classes == 1):
            raise ConfigError(
                f"model: loss={loss!r} does not go with num_classes={num_classes}; 'bce_dice' goes with 1"
            )
        about = {**arguments, "changes": dict(changes or {}), "inference": asdict(self_inference)}
        super().__init__(network, about, data_preprocessor, init_cfg)
        self.loss, self.inference = found_loss, self_inference
        self.num_classes = max(2, num_classes)
        self.preparation: Preparation | None = None

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """The preparation of the images, which must be one, and fit the network.

        Raises:
            ConfigError: it does not.
        """
        metas = [meta for meta in metainfo_of(train_set, val_set) if "preparation" in meta]
        if not metas:
            return {}
        if any(meta["preparation"] != metas[0]["preparation"] for meta in metas):
            raise ConfigError("the training and validation data differ in prepare; give both the same")
        channels, wanted = metas[0]["preparation"]["channels"], self.about["in_chans"]
        if channels != wanted:
            raise ConfigError(
                f"model.in_chans={wanted}, but the data set's images have {channels} channels; set "
                f"model.in_chans={channels}"
            )
        dims = self.model.spatial_dims
        for meta in metainfo_of(train_set):
            if meta.get("dims", dims) != dims and not getattr(train_set, "transforms", None):
                raise ConfigError(f"{self.about['name']} is trained on {dims}-D samples, got {meta['dims']}-D ones")
        self.preparation = Preparation(**metas[0]["preparation"])
        return {"preparation": metas[0]["preparation"]}

    def losses(  # type: ignore[override]
        self, inputs: Tensor | Sequence[Tensor], labels: Tensor | Sequence[Tensor], **_: Any
    ) -> dict[str, Tensor]:
        """`loss_dice`, the loss that the config names.

        Args:
            inputs: (B, C, *sides), or a list of samples of one size.
            labels: (B, *sides) class numbers.
        """
        return {"loss_dice": supervised(self.loss, self.model(_stacked(inputs)), _stacked(labels))}

    def answers(  # type: ignore[override]
        self,
        inputs: Tensor | Sequence[Tensor],
        labels: Any = None,
        index: Any = None,
        spacing: Any = None,
    ) -> list[dict[str, Any]]:
        """`index`, `pixels` and `predicted`, at the labels' grid where there are such, `truth` and `spacing`."""
        preparation = self.preparation or Preparation()
        rows = []
        for number, image in enumerate(inputs):
            found = probabilities(self.model, image, self.model.spatial_dims, self.inference)
            truth = None if labels is None else labels[number]
            sides = image.shape[1:] if truth is None else truth.shape
            predicted = preparation.restored(found, sides, self.inference.threshold)
            if tuple(image.shape[1:]) != tuple(sides):
                image = F.interpolate(image[None], tuple(sides), mode="nearest-exact")[0]
            row: dict[str, Any] = {
                "index": number if index is None else int(index[number]),
                "pixels": image.float().cpu().numpy(),
                "predicted": predicted.to(torch.uint8).cpu().numpy(),
                "spacing": [1.0] * len(sides) if spacing is None else [float(x) for x in spacing[number]],
            }
            if truth is not None:
                row["truth"] = truth.to(torch.uint8).cpu().numpy()
            rows.append(row)
        return rows


def _stacked(parts: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(parts, Tensor):
        return parts
    sizes = {tuple(x.shape) for x in parts}
    if len(sizes) > 1:
        raise DatasetError(
            f"the samples of a batch have different sizes ({', '.join(map(str, sorted(sizes)[:3]))}); set prepare="
            "dict(size=(H, W)) or cut patches with transforms=[dict(type='RandCropByPosNegLabeld', spatial_size=…)]"
        )
    return torch.stack(list(parts))
