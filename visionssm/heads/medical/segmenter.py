"""What all networks for medical segmentation have in common: checks, padding and cropping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from visionssm.kernels.routes import n_cells
from visionssm.layers.padding import cropped, padded_to_multiples

_AXES = {2: ("H", "W"), 3: ("D", "H", "W")}


class Segmenter(nn.Module):
    """A network from images or volumes (B, C, *sides) to logits (B, num_classes, *sides) of the same sides.

    Derived classes write `logits`, which gets sides that are multiples of `stride`. What is padded is cropped again.
    With deep supervision a network in training mode gives a list, the logits of finest resolution first.

    Args:
        num_classes: with the background, where that is one. 1 stands for a foreground of which the sigmoid of the logit
            is the probability.
        in_chans: C.
        stride: multiples that the sides must be, one for each; their number is that of the spatial dimensions.
    Raises:
        ValueError: a number is no whole one or out of range.
    """

    least_cells: ClassVar[int] = 1
    """Pixels of the deepest map, at least: two, where it is normalised over its pixels."""

    def __init__(self, *, num_classes: int, in_chans: int, stride: Sequence[int]) -> None:
        super().__init__()
        for argument, value in (("num_classes", num_classes), ("in_chans", in_chans)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{argument} must be a whole number, at least 1, got {value!r}")
        if len(stride) not in _AXES:
            raise ValueError(f"stride={tuple(stride)} has {len(stride)} numbers; give 2 for images or 3 for volumes")
        self.num_classes, self.in_chans = num_classes, in_chans
        self.stride = tuple(stride)

    @property
    def spatial_dims(self) -> int:
        """2 for images, 3 for volumes."""
        return len(self.stride)

    @property
    def only_sides(self) -> tuple[int, ...] | None:
        """The sides that images must have, if the network is for one size alone."""
        return None

    def logits(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *sides), sides multiples of `stride`, to logits; a list of them with deep supervision."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(B, C, *sides) to (B, num_classes, *sides), or a list of logits, finest first.

        Raises:
            ValueError: `x` has another number of dimensions or channels, no pixels, or whole numbers.
        """
        if hasattr(x, "as_tensor"):  # MONAI's images, whose class operators would keep in backward passes
            x = x.as_tensor()
        self._check(x)
        padded = padded_to_multiples(x, self.stride, self.least_cells)
        y = self.logits(padded)
        if isinstance(y, Tensor):
            return cropped(y, x.shape[2:])
        return [cropped(level, _share(x, padded, level)) for level in y]

    def encoded(self, x: Tensor) -> list[Tensor]:
        """(B, C, *sides), sides multiples of `stride`, to the encoder's maps (B, D, *sides'), the finest first."""
        raise NotImplementedError

    def load_encoder(self, source: str | Path | Mapping[str, Any]) -> None:
        """Start from published weights of a classifier.

        Raises:
            ValueError: the network has no encoder that is published as a classifier.
        """
        raise ValueError(f"{type(self).__name__} has no encoder of which there are weights of a classifier")

    def _check(self, x: Tensor) -> None:
        if torch.compiler.is_compiling():  # sizes may be open
            return
        axes = _AXES[self.spatial_dims]
        expected = f"(B, C={self.in_chans}, {', '.join(axes)})"
        if x.ndim != 2 + len(axes):
            remedy = "; x[None] makes a batch of a single one" if x.ndim == 1 + len(axes) else ""
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {expected}{remedy}")
        if x.shape[1] != self.in_chans:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, so {x.shape[1]} channels; expected {expected}, or a network made with"
                f" in_chans={x.shape[1]}"
            )
        if min(x.shape[2:]) < 1:
            raise ValueError(f"x has shape {tuple(x.shape)}, so no pixels; expected {expected}")
        if not x.is_floating_point():
            raise ValueError(
                f"x is {x.dtype}, expected floating-point pixels as the network was trained with; x.float()"
            )


def _share(x: Tensor, padded: Tensor, level: Tensor) -> list[int]:
    """Sides of a level, in proportion to what of the padded input is the input; rounded up."""
    sizes = zip(x.shape[2:], padded.shape[2:], level.shape[2:], strict=True)
    return [n_cells(side * of_level, of_padded) for side, of_padded, of_level in sizes]
