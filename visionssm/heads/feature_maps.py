"""Any registered model as a list of feature maps, which is what detectors and segmentation heads read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

import visionssm.backbones  # noqa: F401  registers the models
from visionssm.layers.tokens import PaddedPatchGrid

PYRAMID_STRIDES = (4, 8, 16, 32)


class FeatureMaps(nn.Module):
    """A backbone without its classifier: an image to one NCHW map per chosen level.

    The levels of a hierarchical model are its stages, before the step down to the next. A plain model, whose layers
    all have one resolution, gets the simple feature pyramid of ViTDet on its last layer, hence levels of strides 4, 8,
    16 and 32; or its levels are some of its layers, as they are.

    Args:
        name: a model of this package or of timm (`vmamba_tiny_s1l8`, `mambaout_tiny`), with `forward_intermediates`.
        pretrained: load the published ImageNet weights.
        out_indices: levels to return, increasing. (HRVMamba has eight: 4 to 7 are what its authors segment with.)
        frozen_stages: -1 for none; n ≥ 0 keeps the stem and the first n stages (layers of a plain model) as they are:
            no gradients, and evaluation mode whatever `train()` says. As in MMDetection.
        norm_outputs: a LayerNorm over the channels of every output, as most authors' dense models have.
        norm_eps: of these.
        layers: of a plain model, the layers that are its levels, increasing; None for the pyramid.
        in_chans: channels of the image.
        model_kwargs: for the model, for example `drop_path_rate`; timm's transformers take images of any size with
            `dynamic_img_size=True` (ViT) or `strict_img_size=False` (Swin).

    Attributes:
        channels: of every returned map.
        strides: pixels of the image per pixel of every returned map.
        out_indices: as given, a tuple.
        level_strides: of all levels of this model, returned or not.
        layers: as given, a tuple.
        dropped_keys: of the classifier's state dict, those of parts that the maps do not need.

    Raises:
        ValueError: the name is unknown, `out_indices`, `layers` or `frozen_stages` do not fit the model, or the model
            has no maps to give.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_outputs: bool = True,
        norm_eps: float = 1e-5,
        layers: Sequence[int] | None = None,
        in_chans: int = 3,
        **model_kwargs: Any,
    ) -> None:
        super().__init__()
        model = _create(name, pretrained=pretrained, in_chans=in_chans, **model_kwargs)
        info = [(int(level["num_chs"]), int(level["reduction"])) for level in model.feature_info]
        plain = len({stride for _, stride in info}) == 1
        self.pyramid: SimplePyramid | None = None
        self.out_indices = tuple(out_indices)
        self.layers = None if layers is None else tuple(layers)
        if self.layers is not None:
            if not plain:
                raise ValueError(f"layers={self.layers} are for plain models; the levels of {name!r} are its stages")
            _check_indices(self.layers, len(info), name, "layers")
            _check_indices(self.out_indices, len(self.layers), name)
            self._taps = [self.layers[i] for i in self.out_indices]
            self.level_strides: tuple[int, ...] = tuple(info[i][1] for i in self.layers)
            self.channels: tuple[int, ...] = tuple(info[i][0] for i in self._taps)
        elif plain:
            width, stride = info[-1]
            _check_indices(self.out_indices, len(PYRAMID_STRIDES), name)
            self.pyramid = SimplePyramid(width, stride, self.out_indices)
            self.level_strides = PYRAMID_STRIDES
            self.channels = self.pyramid.channels
            self._taps = [len(info) - 1]
        else:
            _check_indices(self.out_indices, len(info), name)
            self.level_strides = tuple(stride for _, stride in info)
            self.channels = tuple(info[i][0] for i in self.out_indices)
            self._taps = list(self.out_indices)
        self.strides = tuple(self.level_strides[i] for i in self.out_indices)

        stages = _stages(model)  # numbered before layers that nobody asked for are dropped
        _check_frozen(frozen_stages, len(stages) - 1, name)
        self.frozen_stages = frozen_stages
        complete = set(model.state_dict())
        self._taps = list(model.prune_intermediate_layers(self._taps, prune_norm=True, prune_head=True))
        if any(True for _ in getattr(model, "head", nn.Identity()).parameters()):
            model.head = nn.Identity()  # older timm leaves norms there, which would get no gradient
        self.model = model
        self.dropped_keys = complete - set(model.state_dict())
        # (H, W) are padded to whole patches, which may overlap, unless the model does so in its own way
        pads = isinstance(getattr(model, "patch_embed", None), PaddedPatchGrid)
        self._patch = _patch_size(model) if plain and not pads else None
        self._freeze({name for stage in stages[: frozen_stages + 1] for name in stage})

        self.norms = nn.ModuleList(
            LayerNorm2d(width, eps=norm_eps) if norm_outputs else nn.Identity() for width in self.channels
        )

    def _freeze(self, frozen: set[str]) -> None:
        for name, parameter in self.model.named_parameters():
            if name in frozen:
                parameter.requires_grad_(False)
        self._frozen_modules = [module for name, module in self.model.named_modules() if name in frozen]
        self.train(self.training)

    def train(self, mode: bool = True) -> FeatureMaps:
        """Training mode for all but the frozen stages."""
        super().train(mode)
        for module in self._frozen_modules:
            module.training = False
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory: recompute blocks in the backward pass."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) image of any size to maps (B, channels[i], H / strides[i], W / strides[i]).

        Sizes that do not divide are rounded up, by a model whose stem has no padding down.
        """
        if self._patch is not None:
            patch, stride = self._patch
            short = [((side + stride - 1) // stride - 1) * stride + patch - side for side in x.shape[2:]]
            x = F.pad(x, (0, max(short[1], 0), 0, max(short[0], 0)))
        maps = self.model.forward_intermediates(
            x, indices=self._taps, stop_early=True, intermediates_only=True, output_fmt="NCHW"
        )
        if self.pyramid is not None:
            maps = self.pyramid(maps[-1])
        return [norm(level) for norm, level in zip(self.norms, maps, strict=True)]


class SimplePyramid(nn.Module):
    """Levels of strides 4, 8, 16 and 32 from one map (ViTDet, Li et al. 2022, arXiv 2203.16527, section 3).

    A finer level is made by 2×2 transposed convolutions of stride 2, each of which halves the channels, with LayerNorm
    and GELU between them; a coarser one by max pooling. The 1×1 and 3×3 convolutions that bring all levels to one
    width are the neck's, for example an FPN's.

    Args:
        dim: C, channels of the map.
        stride: pixels of the image per pixel of the map, a power of two.
        out_indices: levels to make.
    """

    def __init__(self, dim: int, stride: int, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        if stride < 1 or stride & (stride - 1):
            raise ValueError(
                f"a pyramid of strides {PYRAMID_STRIDES} needs a model whose stride is a power of two, got {stride}; "
                "choose a variant with patches of 8, 16 or 32 pixels"
            )
        self.levels = nn.ModuleList()
        channels = []
        for index in out_indices:
            doublings = int(math.log2(stride / PYRAMID_STRIDES[index]))
            self.levels.append(_enlarging(dim, doublings) if doublings > 0 else _pooling(-doublings))
            channels.append(dim >> max(doublings, 0))
        self.channels = tuple(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, dim, H, W) to one map per level."""
        return [level(x) for level in self.levels]


def _enlarging(dim: int, doublings: int) -> nn.Sequential:
    if dim % 2**doublings:
        raise ValueError(f"{dim} channels cannot be halved {doublings} times")
    layers: list[nn.Module] = []
    for i in range(doublings):
        width = dim >> (i + 1)
        layers.append(nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2))
        if i < doublings - 1:
            layers += [LayerNorm2d(width), nn.GELU()]
    return nn.Sequential(*layers)


def _pooling(halvings: int) -> nn.Sequential:
    return nn.Sequential(*(nn.MaxPool2d(kernel_size=2, stride=2, ceil_mode=True) for _ in range(halvings)))


def _create(name: str, **kwargs: Any) -> Any:
    if not timm.is_model(name):
        near = get_close_matches(name.split(".")[0].lower(), timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "timm.list_models() names all there are"
        raise ValueError(f"unknown model name={name!r}; {hint}")
    model: Any = timm.create_model(name, **kwargs)
    needed = ("forward_intermediates", "prune_intermediate_layers", "feature_info")
    missing = [part for part in needed if not hasattr(model, part)]
    if missing:
        raise ValueError(f"model name={name!r} gives no feature maps: it has no {', '.join(missing)}")
    return model


def _check_indices(indices: tuple[int, ...], count: int, name: str, argument: str = "out_indices") -> None:
    valid = all(isinstance(i, int) and 0 <= i < count for i in indices)
    increasing = list(indices) == sorted(set(indices))
    if not indices or not valid or not increasing:
        parts = "levels" if argument == "out_indices" else argument
        raise ValueError(
            f"{argument}={indices} must be increasing numbers from 0 to {count - 1}, the {parts} of {name!r}"
        )


def _check_frozen(frozen_stages: int, stages: int, name: str) -> None:
    if not -1 <= frozen_stages <= stages:
        raise ValueError(
            f"frozen_stages={frozen_stages} must be -1 (nothing frozen), 0 (the stem) or up to {stages}, the number of "
            f"stages of {name!r}"
        )


def _stages(model: Any) -> list[list[str]]:
    """Names of the modules and parameters of the stem, then of every stage, as the model itself groups them."""
    named = itertools.chain(model.named_modules(), model.named_parameters())
    groups = group_with_matcher(named, model.group_matcher(coarse=True))
    *stem_and_stages, _head = (groups[number] for number in sorted(groups))
    return stem_and_stages


def _patch_size(model: Any) -> tuple[int, int]:
    """Side of a patch, and pixels from one to the next."""
    stride = int(model.feature_info[-1]["reduction"])
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", stride)
    return (int(patch[0]) if isinstance(patch, Sequence) else int(patch)), stride
