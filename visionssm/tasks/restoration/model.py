"""Networks for image restoration as MMEngine trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import visionssm
from visionssm.data.errors import DatasetError
from visionssm.engine.adapter import TaskModel, metainfo_of
from visionssm.engine.errors import ConfigError
from visionssm.engine.finite import check_finite
from visionssm.heads.restoration import MambaIR
from visionssm.tasks.restoration.inference import Tiling, restored

LOSSES = ("l1", "charbonnier")
_EPS = 1e-3


class ImageRestorer(TaskModel):
    """A network of `visionssm.create_restorer`.

    Args:
        name: one of `visionssm.list_restorers()`.
        in_chans: channels of the images; None for the published number.
        loss: "l1", the mean of |x − y|, or "charbonnier", the mean of √((x − y)² + 10⁻⁶).
        tile, overlap: how large images are cut, arguments of `Tiling`.
        pretrained: whether to load the published weights; or a file of such, or of ours.
        body: file with the weights of a network of another scale, from which all but the reconstruction starts.
        changes: arguments in place of the variant's.
    Raises:
        ConfigError: an argument is unknown or wrong.
    """

    task = "restoration"
    identity = ("name", "in_chans")
    model: MambaIR

    def __init__(
        self,
        name: str,
        in_chans: int | None = None,
        loss: str = "l1",
        tile: int | None = 256,
        overlap: int = 32,
        pretrained: bool | str = False,
        body: str | Path | None = None,
        changes: Mapping[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        if loss not in LOSSES:
            raise ConfigError(f"model: loss={loss!r} is unknown; choose one of {', '.join(LOSSES)}")
        arguments = dict(changes or {})
        try:
            network = visionssm.create_restorer(name, in_chans=in_chans, pretrained=pretrained, **arguments)
            if body is not None:
                network.load_body(body)
            self_tiling = Tiling(tile, overlap)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model: {error}") from error
        about = {"name": name, "in_chans": network.in_chans, "changes": arguments, **asdict(self_tiling)}
        super().__init__(network, about, data_preprocessor, init_cfg)
        self.loss, self.tiling = loss, self_tiling

    def described_data(self, train_set: Any, val_set: Any) -> dict[str, Any]:
        """What is done to the images, of the training data where these are there; checks that it fits the network.

        Raises:
            ConfigError: the scale or the channels are not the network's.
        """
        metas = [meta for meta in metainfo_of(train_set, val_set) if "degradation" in meta]
        for meta in metas:
            if meta["scale"] != self.model.scale:
                raise ConfigError(
                    f"model.name={self.about['name']!r} is for scale {self.model.scale}, but the data set has scale "
                    f"{meta['scale']}; choose the network of that scale, or set degradation.scale={self.model.scale}"
                )
            if meta["channels"] != self.model.in_chans:
                raise ConfigError(
                    f"the network takes {self.model.in_chans} channels, but the data set has {meta['channels']}; set "
                    f"channels={self.model.in_chans} in all data sets, or model.in_chans={meta['channels']}"
                )
        return {"degradation": metas[0]["degradation"]} if metas else {}

    def losses(  # type: ignore[override]
        self, inputs: Tensor | Sequence[Tensor], clean: Tensor | Sequence[Tensor], **_: Any
    ) -> dict[str, Tensor]:
        """`loss_pixels`, the loss that the config names.

        Args:
            inputs: (B, C, h, w) bad images, or a list of patches of one size.
            clean: (B, C, H, W) uint8 good ones.
        """
        difference = self.model(_stacked(inputs)).float() - _stacked(clean).float() / 255
        error = difference.abs() if self.loss == "l1" else (difference.square() + _EPS**2).sqrt()
        return {"loss_pixels": error.mean()}

    def answers(  # type: ignore[override]
        self,
        inputs: Tensor | Sequence[Tensor],
        clean: Tensor | Sequence[Tensor] | None = None,
        index: Any = None,
        **_: Any,
    ) -> list[dict[str, Any]]:
        """`index`, and uint8 images (H, W, C): `inputs`, `restored` and, where it is known, `clean`.

        Raises:
            ValueError: the network gives NaN or infinite numbers.
        """
        rows = []
        for number, image in enumerate(inputs):
            found = restored(self.model, image, self.model.scale, self.tiling)
            check_finite(bool(found.isfinite().all()))
            row: dict[str, Any] = {
                "index": number if index is None else int(index[number]),
                "inputs": levels(image),
                "restored": levels(found),
            }
            if clean is not None:
                row["clean"] = clean[number].permute(1, 2, 0).cpu().numpy()
            rows.append(row)
        return rows


def levels(image: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] as (H, W, C) uint8."""
    return (image.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _stacked(parts: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(parts, Tensor):
        return parts
    sizes = {tuple(part.shape) for part in parts}
    if len(sizes) > 1:
        raise DatasetError(
            f"the images of a batch have different sizes ({', '.join(map(str, sorted(sizes)[:3]))}); set patch in the "
            "training set's config"
        )
    return torch.stack(list(parts))
