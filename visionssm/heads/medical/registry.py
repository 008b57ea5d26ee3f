"""The networks for medical segmentation by name, with what is published of them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visionssm.checkpoints import OfficialCfg, fetch_pretrained, load_official
from visionssm.heads.medical.segmenter import Segmenter

Builder = Callable[..., Segmenter]


@dataclass(frozen=True)
class Published:
    """What is published of a network.

    Attributes:
        paper: its number at arXiv; None for a network of our own.
        parameters: of the network with the published number of classes.
        scores: data set and measure to per cent (HD95: voxels), as the authors print them.
        url: file with the published weights.
        sha256: of that file; None while unknown.
        manual_url: page of weights that only a person can download.
        encoder_url: file with weights of a classifier that the authors start from.
    """

    paper: str | None = None
    parameters: int | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    url: str | None = None
    sha256: str | None = None
    manual_url: str | None = None
    encoder_url: str | None = None


PUBLISHED: dict[str, Published] = {}
"""What is published, by the networks' names."""

_BUILDERS: dict[str, Builder] = {}


def register_segmenter(published: Published | None = None) -> Callable[[Builder], Builder]:
    """Decorator of a function that builds a network: it is found by the function's name.

    Args:
        published: what is published of it.
    Raises:
        ValueError: another network has the name.

    Examples:
        >>> from visionssm.heads.medical.registry import register_segmenter
        >>> from visionssm.heads.medical.vmunet import VMUNet
        >>> @register_segmenter()
        ... def my_vmunet(num_classes=1, in_chans=3, **changes):
        ...     return VMUNet(num_classes=num_classes, in_chans=in_chans, dim=48, **changes)
    """

    def register(build: Builder) -> Builder:
        name = build.__name__
        if name in _BUILDERS:
            raise ValueError(f"there is a segmenter {name!r} already; choose another name")
        _BUILDERS[name], PUBLISHED[name] = build, published or Published()
        return build

    return register


def list_segmenters(pattern: str = "*") -> list[str]:
    """Names of the networks for medical segmentation that match a shell pattern, in alphabetical order.

    Examples:
        >>> import visionssm
        >>> visionssm.list_segmenters("vmunet_*")
        ['vmunet_default', 'vmunet_isic', 'vmunet_nano', 'vmunet_synapse']
    """
    return sorted(fnmatch.filter(_BUILDERS, pattern))


def create_segmenter(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool | str | Path = False,
    pretrained_encoder: bool | str | Path | Mapping[str, Any] = False,
    **changes: Any,
) -> Segmenter:
    """A network for medical segmentation: (B, C, *sides) to logits (B, num_classes, *sides), any sides.

    Args:
        name: one of `list_segmenters()`.
        num_classes: with the background, where that is one; None for the published number. 1 stands for a foreground
            of which the sigmoid of the logit is the probability.
        in_chans: C; None for the published number.
        pretrained: whether to load the published weights; or a file to load, of the authors or of ours.
        pretrained_encoder: whether to start from the weights of a classifier that the authors start from; or a file
            with them, or what was read from one.
        changes: arguments of the network in place of the variant's.

    Returns:
        A module with `num_classes`, `in_chans` and `spatial_dims` (2 or 3).

    Raises:
        ValueError: there is no such network, or an argument is out of range; (CheckpointError) the file does not fit,
            or no weights are known.

    Examples:
        >>> import torch, visionssm
        >>> model = visionssm.create_segmenter("vmunet_nano", num_classes=4, in_chans=1).eval()
        >>> model(torch.rand(1, 1, 50, 75)).shape
        torch.Size([1, 4, 50, 75])
    """
    if name not in _BUILDERS:
        raise ValueError(f"segmenter {name!r} is unknown; choose one of {', '.join(list_segmenters())}")
    given = {"num_classes": num_classes, "in_chans": in_chans}
    model = _BUILDERS[name](**{key: value for key, value in given.items() if value is not None}, **changes)
    published = PUBLISHED[name]
    if pretrained_encoder is not False:
        cfg = OfficialCfg(architecture=f"{name}'s encoder", url=published.encoder_url)
        model.load_encoder(fetch_pretrained(cfg) if pretrained_encoder is True else pretrained_encoder)
    if pretrained is not False:
        cfg = OfficialCfg(
            architecture=name, url=published.url, sha256=published.sha256, manual_url=published.manual_url
        )
        load_official(model, fetch_pretrained(cfg) if pretrained is True else pretrained)
    return model
