"""Images with boxes as Mamba-YOLO trains on them: Mosaic, scale and shift, colours and mirror images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from visionssm.data.errors import DatasetError
from visionssm.tasks.detection.data import CocoInstances
from visionssm.tasks.detection.shapes import ShapesDetection
from visionssm.tasks.yolo.transforms import Scene, letterboxed, mirrored, mosaic, recoloured, zoomed

SOURCES: Mapping[str, type[CocoInstances]] = {"CocoInstances": CocoInstances, "ShapesDetection": ShapesDetection}
"""Data sets that can be changed, by name."""


class MosaicDetection(Dataset):
    """A detection data set whose images are changed at random, and come in squares of one size.

    Mosaic: the image and three others around a random point, half of which is cut off again. Without it the image is
    letter-boxed. Either is then scaled and shifted, recoloured and mirrored at random. Random numbers are drawn from
    PyTorch's global generator, so samples are as reproducible as that.

    Args:
        dataset: `dict(type="CocoInstances", …)` or `dict(type="ShapesDetection", …)`, without transforms.
        size: side of the squares in pixels, a multiple of 32.
        mosaic: probability.
        scale: scales are from 1 − scale to 1 + scale.
        translate: shifts, at most, of the middle in shares of the size.
        flip: probability of a mirror image.
        hsv: hue, saturation and value are multiplied by up to 1 ± these.
    Raises:
        DatasetError: an argument is out of range, or the data set is wrong.
    """

    def __init__(
        self,
        dataset: Mapping[str, Any],
        size: int = 640,
        mosaic: float = 1.0,
        scale: float = 0.5,
        translate: float = 0.1,
        flip: float = 0.5,
        hsv: Sequence[float] = (0.015, 0.7, 0.4),
    ) -> None:
        _check(size, {"mosaic": mosaic, "flip": flip}, {"scale": scale, "translate": translate}, hsv)
        kind, arguments = _source(dataset)
        self.dataset = kind(**_without_masks(kind, arguments))
        self.size = size
        self.mosaic, self.scale, self.translate, self.flip, self.hsv = mosaic, scale, translate, flip, tuple(hsv)
        # in shared memory, so that workers that are there already see a change
        self._uses_mosaic = torch.ones((), dtype=torch.bool).share_memory_()

    @staticmethod
    def check_available(dataset: Mapping[str, Any], **_: Any) -> None:
        """Look whether the files of the data set are there.

        Raises:
            DatasetError: one is missing; says where was looked.
        """
        kind, arguments = _source(dataset)
        kind.check_available(**arguments)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Class names; number 1 is the first."""
        return self.dataset.metainfo

    def sample_name(self, index: int) -> str:
        """File name of the image, or of the first of the four."""
        return self.dataset.sample_name(index)

    def use_mosaic(self, wanted: bool) -> None:
        """Whether later samples may be of four images; the published recipe ends without."""
        self._uses_mosaic.fill_(wanted)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, skipped = self._scene(index)
        size = self.size
        if self._uses_mosaic and _drawn(0, 1) < self.mosaic:
            others = torch.randint(len(self), (3,)).tolist()
            scenes = [first]
            for other in others:
                scene, passed_over = self._scene(other)
                scenes.append(scene)
                skipped += passed_over
            scene = mosaic(scenes, size, (round(_drawn(0.5, 1.5) * size), round(_drawn(0.5, 1.5) * size)))
        else:
            box = letterboxed(first.image, size, square=True)
            scene = Scene(box.image, box.inside(first.boxes), first.labels)
        return {**self._sample(self._changed(scene)), "index": index, "skipped": skipped}

    def plain(self, index: int) -> dict[str, Any]:
        """A sample that nothing random has changed: the image in its letter box."""
        scene, skipped = self._scene(index)
        box = letterboxed(scene.image, self.size, square=True)
        return {**self._sample(Scene(box.image, box.inside(scene.boxes), scene.labels)), "index": index} | {
            "skipped": skipped
        }

    def _scene(self, index: int) -> tuple[Scene, int]:
        sample = self.dataset[index]
        targets = sample["targets"]
        return Scene(sample["inputs"], targets["boxes"], targets["labels"]), sample["skipped"]

    def _changed(self, scene: Scene) -> Scene:
        size = self.size
        scale = _drawn(1 - self.scale, 1 + self.scale)
        middle = [size * _drawn(0.5 - self.translate, 0.5 + self.translate) for _ in range(2)]
        scene = zoomed(scene, size, scale, (middle[0], middle[1]))
        gains = [_drawn(1 - gain, 1 + gain) for gain in self.hsv]
        scene = Scene(recoloured(scene.image, gains), scene.boxes, scene.labels)
        return mirrored(scene) if _drawn(0, 1) < self.flip else scene

    @staticmethod
    def _sample(scene: Scene) -> dict[str, Any]:
        targets: dict[str, Tensor] = {"boxes": scene.boxes, "labels": scene.labels}
        return {"inputs": scene.image, "targets": targets}


def _drawn(low: float, high: float) -> float:
    """A random number between two."""
    return low + (high - low) * torch.rand(()).item()


def _source(dataset: Mapping[str, Any]) -> tuple[type[CocoInstances], dict[str, Any]]:
    arguments = dict(dataset)
    name = arguments.pop("type", None)
    if name not in SOURCES:
        raise DatasetError(f"MosaicDetection: dataset.type={name!r} must be one of {', '.join(SOURCES)}")
    if arguments.get("transforms"):
        raise DatasetError(
            "MosaicDetection: dataset.transforms must be left out; the changes are MosaicDetection's own"
        )
    return SOURCES[name], arguments


def _without_masks(kind: type[CocoInstances], arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, so that no masks are decoded, which nothing would use."""
    return arguments if kind is not CocoInstances else {"masks": False, **arguments}


def _check(size: int, shares: Mapping[str, float], ranges: Mapping[str, float], hsv: Sequence[float]) -> None:
    if not isinstance(size, int) or size < 32 or size % 32:
        raise DatasetError(f"MosaicDetection: size={size!r} must be a multiple of 32")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise DatasetError(f"MosaicDetection: {name}={value!r} must be from 0 to 1")
    for name, value in ranges.items():
        if not 0 <= value < 1:
            raise DatasetError(f"MosaicDetection: {name}={value!r} must be from 0 to below 1")
    if len(hsv) != 3 or not all(0 <= x <= 1 for x in hsv):
        raise DatasetError(f"MosaicDetection: hsv={hsv!r} must be three numbers from 0 to 1")
