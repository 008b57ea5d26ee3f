"""What makes a bad image of a good one: downscaling, noise, JPEG.

A degradation of a part of an image is that part of the degraded image, if the part begins at multiples of `grid` and
`margin` pixels around it are given too. So patches can be cut first, and only they are degraded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from visionssm.data.errors import DatasetError
from visionssm.heads.restoration.mambair import SCALES
from visionssm.tasks.restoration.resize import resized

Pixels = np.ndarray
"""(H, W, C), C = 1 or 3."""


class Degradation(Protocol):
    """Makes a bad image of a good one.

    Attributes:
        scale: sides of the good image over those of the bad one.
        grid: multiples, in pixels of the good image, at which a part may begin and end.
        margin: pixels of the good image around a part that the part's degradation depends on.
    """

    @property
    def scale(self) -> int:
        """See the class."""

    @property
    def grid(self) -> int:
        """See the class."""

    @property
    def margin(self) -> int:
        """See the class."""

    def __call__(self, clean: Pixels, generator: np.random.Generator) -> Pixels:
        """(scale·H, scale·W, C) uint8 to (H, W, C) float32; in [0, 1] but for noise."""


@dataclass(frozen=True)
class Downscale:
    """MATLAB's bicubic, rounded to 8 bits as stored images are.

    Args:
        scale: 2, 3 or 4.
    """

    scale: int

    def __post_init__(self) -> None:
        if type(self.scale) is not int or self.scale not in SCALES[1:]:
            raise DatasetError(f"degradation: scale must be 2, 3 or 4, got {self.scale!r}")

    @property
    def grid(self) -> int:
        """One pixel of the small image."""
        return self.scale

    @property
    def margin(self) -> int:
        """Three pixels of the small image: the kernel reaches two and a half."""
        return 3 * self.scale

    def __call__(self, clean: Pixels, generator: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        return _rounded(resized(clean, 1 / self.scale))


@dataclass(frozen=True)
class Noise:
    """Gaussian noise, independent in every channel; values stay as they are, below 0 and above 1 too.

    Args:
        sigma: standard deviation in levels of 8 bits; of two numbers, anything between, drawn for every image.
    """

    scale: ClassVar[int] = 1
    grid: ClassVar[int] = 1
    margin: ClassVar[int] = 0

    sigma: float | tuple[float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", _range("sigma", self.sigma, 0, 255))

    def __call__(self, clean: Pixels, generator: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        sigma = generator.uniform(*self.sigma) if isinstance(self.sigma, tuple) else self.sigma
        noise = generator.standard_normal(clean.shape, np.float32)
        return clean.astype(np.float32) / 255 + np.float32(sigma / 255) * noise


@dataclass(frozen=True)
class Jpeg:
    """JPEG as libjpeg writes it; colours at half the resolution, as nearly all programs store them.

    Args:
        quality: 1 to 100; of two numbers, anything between, drawn for every image.
    """

    scale: ClassVar[int] = 1
    grid: ClassVar[int] = 16
    margin: ClassVar[int] = 16

    quality: int | tuple[int, int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", _range("quality", self.quality, 1, 100, kinds=(int,)))

    def __call__(self, clean: Pixels, generator: np.random.Generator) -> Pixels:
        """See `Degradation`."""
        if isinstance(self.quality, tuple):
            quality = int(generator.integers(self.quality[0], self.quality[1] + 1))
        else:
            quality = self.quality
        file = io.BytesIO()
        Image.fromarray(clean if clean.shape[2] == 3 else clean[..., 0]).save(file, "JPEG", quality=quality)
        found = np.asarray(Image.open(file))
        return found.reshape(clean.shape).astype(np.float32) / 255


@dataclass(frozen=True)
class Given:
    """None: the bad images are in a folder of their own.

    Args:
        scale: sides of the good images over those of the bad ones.
    """

    grid: ClassVar[int] = 1
    margin: ClassVar[int] = 0

    scale: int = 1

    def __post_init__(self) -> None:
        if type(self.scale) is not int or self.scale not in SCALES:
            raise DatasetError(f"degradation: scale must be one of {', '.join(map(str, SCALES))}, got {self.scale!r}")

    def __call__(self, clean: Pixels, generator: np.random.Generator) -> Pixels:
        """Never: the bad image is read."""
        raise NotImplementedError


KINDS: Mapping[str, type[Any]] = {"downscale": Downscale, "noise": Noise, "jpeg": Jpeg, "given": Given}


def degradation_of(spec: Mapping[str, Any]) -> Degradation:
    """From the argument of a config: `dict(type="downscale", scale=2)`, `dict(type="noise", sigma=25)`, ….

    Raises:
        DatasetError: the type or an argument is unknown or wrong.
    """
    arguments = dict(spec)
    kind = arguments.pop("type", None)
    if kind not in KINDS:
        raise DatasetError(f"degradation: type={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    try:
        found: Degradation = KINDS[kind](**arguments)
    except TypeError as error:
        raise DatasetError(f"degradation: {kind} does not take these arguments: {error}") from error
    return found


def plain(degradation: Degradation) -> dict[str, Any]:
    """The argument of a config again, in plain types."""
    kind = next(name for name, known in KINDS.items() if isinstance(degradation, known))
    fields = {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(degradation).items()}  # type: ignore[call-overload]
    return {"type": kind, **fields}


def _range(name: str, value: Any, low: float, high: float, kinds: Sequence[type] = (int, float)) -> Any:
    listed = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    fits = len(listed) == 2 and all(type(x) in kinds for x in listed)
    if not fits or not low <= listed[0] <= listed[1] <= high:
        number = "number" if float in kinds else "whole number"
        raise DatasetError(
            f"degradation: {name} must be a {number}, or two rising ones, from {low} to {high}, got {value!r}"
        )
    return listed if isinstance(value, (list, tuple)) else value


def _rounded(pixels: np.ndarray) -> Pixels:
    """Values of 0 to 255 to levels of 8 bits, in [0, 1]."""
    return (pixels.clip(0, 255).round() / 255).astype(np.float32)
