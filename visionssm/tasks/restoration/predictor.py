"""Restoring image files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import visionssm
from visionssm.checkpoints import CheckpointError
from visionssm.data.errors import DatasetError
from visionssm.engine.description import arguments_of, description_of, fields_of, rebuilt
from visionssm.engine.task import View
from visionssm.heads.restoration import MambaIR
from visionssm.tasks.restoration.base import BaseRestorer
from visionssm.tasks.restoration.degradations import degradation_of
from visionssm.tasks.restoration.inference import Tiling, restored
from visionssm.tasks.restoration.photo import Photo
from visionssm.tasks.restoration.results import TO_YCC, OfPixels

if TYPE_CHECKING:
    from visionssm.integrations.export import Exportable


@dataclass(frozen=True)
class Restorer(BaseRestorer):
    """A network for image restoration in evaluation mode.

    Attributes:
        model: (1, C, H, W) in [0, 1] to (1, C, scale·H, scale·W).
        tile, overlap: how large images are cut; see `Tiling`.
        degradation: that it was trained to take back, as configs write it; None if that is not known.
    """

    model: MambaIR
    degradation: Mapping[str, Any] | None = None

    @property
    def network(self) -> OfPixels:
        """The network on the pixels of an image of any size."""
        return OfPixels(self.model.in_chans, self.model.scale, self._found)

    def _found(self, pixels: np.ndarray) -> np.ndarray:
        place = next(self.model.parameters()).device
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)).to(place)
        found = restored(self.model, image, self.model.scale, Tiling(self.tile, self.overlap))
        return found.permute(1, 2, 0).cpu().numpy()

    def view(self) -> View:
        """The maps of all groups; images are taken at their own size, or resized to a given one."""

        def prepare(photo: Photo, size: Sequence[int] | None) -> Tensor:
            pixels = photo.pixels
            if pixels.shape[2] != self.model.in_chans:
                pixels = pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels @ TO_YCC[:1].T.astype(np.float32)
            image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
            return image if size is None else F.interpolate(image, tuple(size), mode="bilinear", antialias=True)

        def picture(image: Tensor) -> Tensor:
            return image[0].expand(3, -1, -1).clamp(0, 1).permute(1, 2, 0)

        return View(_GroupMaps(self.model), prepare, picture, (self.model.in_chans, 64, 64))

    def exportable(self) -> Exportable:
        """What `export_onnx` and `export_archive` take: an image in [0, 1] to `restored`, any sides."""
        from visionssm.integrations.export import Exportable, description

        about = description(
            (),
            task="restoration",
            input=f"(B, {self.model.in_chans}, H, W) in [0, 1]",
            degradation=self.degradation,
            tile=self.tile,
            overlap=self.overlap,
        )
        return Exportable(
            self.model,
            outputs=("restored",),
            shape=(1, self.model.in_chans, 64, 64),
            sample=torch.rand,
            about={**about, "scale": str(self.model.scale)},
        )


class _GroupMaps(nn.Module):
    def __init__(self, network: MambaIR) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, C, H, W) to the (B, D, H, W) map of every group."""
        x = self.network.norm_first(self.network.conv_first(image.permute(0, 2, 3, 1) - self.network.mean))
        maps = []
        for group in self.network.layers:
            x = group(x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps


def trained_restorer(checkpoint: Mapping[str, Any]) -> Restorer:
    """What training wrote, as `read_checkpoint` returned it.

    Raises:
        CheckpointError: it asks for what a file may not ask for, or its weights do not fit its own description.
    """
    about = description_of(checkpoint)
    given = fields_of(about, "model", ("name", "in_chans", "changes", "tile", "overlap"))
    name, channels, changes = given.get("name"), given.get("in_chans"), arguments_of(given, "changes")
    if not isinstance(name, str) or name not in visionssm.list_restorers():
        raise CheckpointError(f"the checkpoint is of a model {name!r:.80}, which is no known restorer")
    if channels not in (1, 3):
        raise CheckpointError(f"the checkpoint's description has in_chans={channels!r}; 1 and 3 can be images")
    if changes.keys() & {"pretrained", "in_chans", "name"}:
        raise CheckpointError("the checkpoint's description has changes that are not read from a file")
    degradation = about.get("degradation")
    network = rebuilt(lambda: visionssm.create_restorer(name, in_chans=channels, **changes), checkpoint, name)
    try:
        if degradation is not None:
            degradation_of(arguments_of(about, "degradation"))
        tiling = {key: given[key] for key in ("tile", "overlap") if key in given}
        return Restorer(network, **tiling, degradation=degradation)
    except (DatasetError, ValueError) as error:
        raise CheckpointError(f"the checkpoint's description cannot be used: {error}") from error
