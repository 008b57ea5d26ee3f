"""The networks for image restoration by name, with what is published of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionssm.checkpoints import OfficialCfg, fetch_pretrained, load_official
from visionssm.heads.restoration.mambair import MambaIR

MAMBAIR = "https://huggingface.co/cguoh/MambaIR"


@dataclass(frozen=True)
class RestorerVariant:
    """A network, and what is published of it.

    Attributes:
        network: arguments of `MambaIR`.
        degradation: that it takes back: "downscale", "noise" or "jpeg".
        parameters: as recorded; None for a network of our own.
        scores: data set and measure (PSNR in dB, SSIM), as the authors print them.
        manual_url: page of the published weights, which a person downloads.
    """

    network: Mapping[str, Any]
    degradation: str
    parameters: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    manual_url: str | None = None


_CLASSIC: Mapping[str, Any] = {"dim": 180, "depths": (6,) * 6, "d_state": 16, "expand": 2.0}
_LIGHT: Mapping[str, Any] = {
    "dim": 60,
    "depths": (6,) * 4,
    "d_state": 10,
    "expand": 1.2,
    "branch": "light",
    "reconstruction": "direct",
}
_RESIDUAL: Mapping[str, Any] = {**_CLASSIC, "expand": 1.2, "scale": 1, "reconstruction": "residual"}
_NANO: Mapping[str, Any] = {"dim": 32, "depths": (2, 2), "d_state": 4, "expand": 1.0, "drop_path_rate": 0.0}


def _enlarging(network: Mapping[str, Any], scale: int, parameters: int, psnr: float, ssim: float) -> RestorerVariant:
    scores = {"Urban100 PSNR": psnr, "Urban100 SSIM": ssim}
    return RestorerVariant({**network, "scale": scale}, "downscale", parameters, scores, MAMBAIR)


VARIANTS: dict[str, RestorerVariant] = {
    "mambair_sr_x2": _enlarging(_CLASSIC, 2, 20_421_863, 34.15, 0.9446),
    "mambair_sr_x3": _enlarging(_CLASSIC, 3, 20_606_503, 29.93, 0.8841),
    "mambair_sr_x4": _enlarging(_CLASSIC, 4, 20_569_575, 27.68, 0.8287),
    "mambair_sr_light_x2": _enlarging(_LIGHT, 2, 905_016, 32.92, 0.9356),
    "mambair_sr_light_x3": _enlarging(_LIGHT, 3, 913_131, 29.00, 0.8689),
    "mambair_sr_light_x4": _enlarging(_LIGHT, 4, 924_492, 26.75, 0.8051),
    "mambair_denoise_color": RestorerVariant(
        _RESIDUAL,
        "noise",
        15_777_507,
        {"Urban100 PSNR, σ 15": 35.17, "Urban100 PSNR, σ 25": 32.99, "Urban100 PSNR, σ 50": 30.07},
        MAMBAIR,
    ),
    "mambair_jpeg": RestorerVariant(
        {**_RESIDUAL, "in_chans": 1},
        "jpeg",
        15_771_025,
        {"Classic5 PSNR, q 10": 30.27, "Classic5 PSNR, q 30": 33.74, "Classic5 PSNR, q 40": 34.53},
        MAMBAIR,
    ),
    "mambair_nano_x2": RestorerVariant(
        {**_NANO, "scale": 2, "branch": "light", "reconstruction": "direct"}, "downscale"
    ),
    "mambair_nano_x3": RestorerVariant({**_NANO, "scale": 3}, "downscale"),
    "mambair_nano_x4": RestorerVariant({**_NANO, "scale": 4}, "downscale"),
    "mambair_nano_denoise": RestorerVariant({**_NANO, "scale": 1, "reconstruction": "residual"}, "noise"),
    "mambair_nano_jpeg": RestorerVariant({**_NANO, "scale": 1, "in_chans": 1, "reconstruction": "residual"}, "jpeg"),
}
"""The networks by name."""


def list_restorers(pattern: str = "*") -> list[str]:
    """Names of the networks for image restoration that match a shell pattern, in alphabetical order.

    Examples:
        >>> import visionssm
        >>> visionssm.list_restorers("*_light_*")
        ['mambair_sr_light_x2', 'mambair_sr_light_x3', 'mambair_sr_light_x4']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def create_restorer(
    name: str, *, in_chans: int | None = None, pretrained: bool | str | Path = False, **changes: Any
) -> MambaIR:
    """A network for image restoration: (B, C, H, W) in [0, 1] to (B, C, scale·H, scale·W), any sides.

    Args:
        name: one of `list_restorers()`.
        in_chans: C; None for the published number.
        pretrained: whether to load the published weights; or a file to load, of the authors or of ours.
        changes: arguments of the network in place of the variant's, for example `drop_path_rate`.

    Returns:
        A module with `in_chans` and `scale`.

    Raises:
        ValueError: there is no such network, or an argument is out of range; (CheckpointError) the file does not fit,
            or no weights are known.

    Examples:
        >>> import torch, visionssm
        >>> model = visionssm.create_restorer("mambair_nano_x2").eval()
        >>> model(torch.rand(1, 3, 20, 31)).shape
        torch.Size([1, 3, 40, 62])
    """
    if name not in VARIANTS:
        raise ValueError(f"restorer {name!r} is unknown; choose one of {', '.join(list_restorers())}")
    variant = VARIANTS[name]
    given = {} if in_chans is None else {"in_chans": in_chans}
    model = MambaIR(**{**variant.network, **given, **changes})
    if pretrained is not False:
        cfg = OfficialCfg(architecture=name, manual_url=variant.manual_url)
        load_official(model, fetch_pretrained(cfg) if pretrained is True else pretrained)
    return model
