"""What timm asks of a model, written once for all hierarchical backbones, and the registration of variants.

The counterpart for models of one resolution is in `_plain.py`.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, checkpoint_seq, register_model
from timm.models._features import FeatureGetterNet, feature_take_indices
from torch import Tensor, nn

from visionssm.checkpoints import OfficialCfg, load_pretrained_file, local_pretrained_overlay
from visionssm.checkpoints.fitting import check_values
from visionssm.checkpoints.load import TRAINING_PREFIX, without_training_prefix
from visionssm.layers import NormClassifierHead
from visionssm.layers.image import checked_images, least_side

StateDict = dict[str, Tensor]

_registered: list[str] = []


def list_models(pattern: str = "*") -> list[str]:
    """Names of this package's variants that match a shell pattern, in alphabetical order.

    Examples:
        >>> import visionssm
        >>> visionssm.list_models("vim_*")
        ['vim_base', 'vim_nano_test', 'vim_small', 'vim_small_stride8', 'vim_tiny', 'vim_tiny_stride8']
    """
    return sorted(fnmatch.filter(_registered, pattern))


class Stage(nn.Module):
    """Blocks at one resolution, and the step down to the next stage (identity after the last)."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample if downsample is not None else nn.Identity()
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) map through the blocks; the caller applies `downsample`."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


def _formatted(y: Tensor, output_fmt: str) -> Tensor:
    """(B, H, W, C) map in a layout of `forward_intermediates`."""
    if output_fmt == "NLC":
        return y.flatten(1, 2)
    return y.permute(0, 3, 1, 2) if output_fmt == "NCHW" else y


class Backbone(nn.Module):
    """What all backbones have in common, of whatever shape.

    Attributes:
        dropped_keys: parameters of the whole model that a `features_only` one was left without.
    """

    dropped_keys: frozenset[str] = frozenset()
    output_formats: ClassVar[tuple[str, ...]] = ("NCHW", "NHWC")
    feature_classes: ClassVar[tuple[str, ...]] = ("getter", "fx", "hook")
    """What `feature_cls` may be: the last two give a level as its module does, maps in NHWC or tokens."""

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to features before pooling."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to (B, num_classes); with `pre_logits`, to what the classifier gets."""
        raise NotImplementedError

    @property
    def n_levels(self) -> int:
        """Feature levels that `forward_intermediates` can return."""
        raise NotImplementedError

    def tap_levels(self, x: Tensor, wanted: Sequence[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """(B, C, H, W) image to the features and the wanted levels as (B, H', W', C') maps.

        Args:
            x: (B, C, H, W) image.
            wanted: levels.
            last: the level after which nothing need be computed.
            norm: see `forward_intermediates`.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """What the levels give: stages, or layers of a plain model, without the class token.

        Args:
            x: (B, C, H, W) image.
            indices: levels to return; an integer means the last n, None all.
            norm: of stages, apply the head's norm to the last one; of layers, return what the features would be if the
                model ended with that layer.
            stop_early: leave out the levels after the last one asked for.
            output_fmt: NCHW or NHWC; of plain models also NLC (rows·columns tokens).
            intermediates_only: do not return the features beside them.

        Raises:
            ValueError: `output_fmt` is none of these.
        """
        if output_fmt not in self.output_formats:
            *others, final = self.output_formats
            raise ValueError(f"output_fmt={output_fmt!r} is not supported; choose {', '.join(others)} or {final}")
        wanted, last_wanted = feature_take_indices(self.n_levels, indices)
        last = last_wanted if stop_early else self.n_levels - 1
        features, maps = self.tap_levels(x, wanted, last, norm)
        intermediates = [_formatted(y, output_fmt) for y in maps]
        return intermediates if intermediates_only else (features, intermediates)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters that the published recipe does not decay, beside biases and other 1-D parameters."""
        return set()

    @torch.jit.ignore
    def load_pretrained(self, path: str) -> None:
        """Load the authors' checkpoint file; timm calls this for `pretrained=True` (see `build`)."""
        load_pretrained_file(self, path)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As PyTorch's, and also takes the state dict of a checkpoint that training wrote.

        `timm.create_model(…, checkpoint_path=…)` calls it with such a state dict.

        Raises:
            RuntimeError: as PyTorch's.
            CheckpointError: a weight is not finite, or of another kind than the model's.
        """
        state = without_training_prefix(state_dict, self)
        if not assign:
            check_values(state, self, "the state dict")
        return super().load_state_dict(state, strict=strict, assign=assign)


class HierarchicalBackbone(Backbone):
    """Stem, stages and head with timm's whole contract.

    A family's class builds `patch_embed` (image to map), `layers` (a ModuleList of `Stage`) and `head`. Maps are
    (B, H, W, C) between modules; stage outputs are tapped before the downsampling.
    """

    output_fmt = "NHWC"
    first_reduction: ClassVar[int] = 4

    patch_embed: nn.Module
    layers: nn.ModuleList
    head: NormClassifierHead

    def __init__(self, *, in_chans: int, num_classes: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": self.first_reduction * 2**i, "module": f"layers.{i}.blocks"}
            for i, dim in enumerate(dims)
        ]

    # The functions that a family may replace, beside `no_weight_decay`.

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) image to the last stage's (B, H', W', num_features) map, before the head's norm."""
        x = self.patch_embed(self.checked(x))
        *stages, last = self.stages
        for stage in stages:
            x = stage.downsample(stage(x))
        return last(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Norm, pool and classify; with `pre_logits`, norm and pool."""
        return self.head(x, pre_logits=pre_logits)

    # The contract, the same for all.

    def checked(self, x: Tensor) -> Tensor:
        """`x`, if the stem can take it; see `checked_images`."""
        return checked_images(x, self.in_chans, least_side(self.patch_embed))

    @property
    def stages(self) -> list[Stage]:
        """The modules in `layers`."""
        return cast(list[Stage], list(self.layers))

    @property
    def n_levels(self) -> int:
        """The stages."""
        return len(self.layers)

    def tap_levels(self, x: Tensor, wanted: Sequence[int], last: int, norm: bool) -> tuple[Tensor, list[Tensor]]:
        """Stage outputs before downsampling; the head's norm fits the last one only."""
        maps = []
        x = self.patch_embed(self.checked(x))
        for i, stage in enumerate(self.stages[: last + 1]):
            x = stage(x)
            if i in wanted:
                maps.append(self.head.norm(x) if norm and i == len(self.layers) - 1 else x)
            if i < last:
                x = stage.downsample(x)
        return x, maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what is not needed to compute the given stages; returns their indices."""
        wanted, last = feature_take_indices(len(self.layers), indices)
        shortened = last < len(self.layers) - 1
        self.layers = self.layers[: last + 1]
        self.stages[-1].downsample = nn.Identity()
        if shortened:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_norm or shortened:
            self.head.norm = nn.Identity()
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return wanted

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, untrained classifier; 0 classes for none, `global_pool=''` for unpooled maps."""
        self.num_classes = num_classes
        like = next(
            self.parameters()
        )  # a head without norm and classifier has no parameter whose device could be copied
        self.head.reset(num_classes, global_pool, in_features=self.num_features, device=like.device, dtype=like.dtype)
        self.head_hidden_size = self.head.num_features

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory: recompute blocks in the backward pass."""
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning-rate decay."""
        blocks = [(r"^layers\.(\d+)\.blocks\.(\d+)", None), (r"^layers\.(\d+)\.downsample", (99999,))]
        return {"stem": r"^patch_embed", "blocks": r"^layers\.(\d+)" if coarse else blocks}


class FeatureMapsGetter(FeatureGetterNet):
    """timm's model for `features_only=True`, with further methods that detectors call."""

    model: Backbone

    def __init__(self, model: Backbone, *arguments: Any, **options: Any) -> None:
        complete = set(model.state_dict())
        super().__init__(model, *arguments, **options)
        model.dropped_keys = frozenset(complete.difference(model.state_dict()))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory: recompute blocks in the backward pass."""
        cast(Any, self.model).set_grad_checkpointing(enable)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """PyTorch's, which also takes a state dict of the whole model, and leaves out what the maps do not need."""
        dropped = self.model.dropped_keys
        bare = {key.removeprefix(TRAINING_PREFIX): value for key, value in state_dict.items()}
        needed = {TRAINING_PREFIX + key: value for key, value in bare.items() if key not in dropped}
        if not assign:
            check_values(needed, self, "the state dict")
        return super().load_state_dict(needed, strict=strict, assign=assign)


def init_linear_(module: nn.Module) -> None:
    """Linear weights truncated normal 0.02, biases 0: the rule of all published hierarchical families."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def imagenet_cfg(url: str = "", **overrides: Any) -> OfficialCfg:
    """timm's pretrained configuration of an ImageNet-1k classifier at 224×224, with `OfficialCfg`'s fields beside.

    `origin_url` is made from the source: the repository, or the page from which a person downloads.
    """
    values: dict[str, Any] = {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.0",
        "classifier": "head.fc",
    }
    values |= overrides
    hub = values.get("hf_hub_id")
    address = values["url"] if isinstance(values["url"], str) else values["url"][0]
    repository = re.match(r"https://(github\.com|huggingface\.co)/[^/]+/[^/]+", address)
    page = f"https://huggingface.co/{hub}" if hub else repository[0] if repository else values.get("manual_url")
    return OfficialCfg(**{"origin_url": page, **values})


def build(
    model_class: Callable[..., nn.Module],
    variant: str,
    pretrained: bool,
    *,
    checkpoint_filter_fn: Callable[[StateDict, nn.Module], StateDict],
    feature_indices: Sequence[int] = (0, 1, 2, 3),
    **kwargs: Any,
) -> nn.Module:
    """Build a variant through timm: pretrained weights, `features_only`, `out_indices`, overlays as timm has them.

    `feature_indices` are the `out_indices` of `features_only` where the caller names none.

    Raises:
        ValueError: `feature_cls` or `output_stride` is not possible here.
        TypeError: an argument is unknown.
    """
    _check_arguments(model_class, variant, kwargs)
    overlay: dict[str, Any] = {}
    if pretrained:
        overlay = kwargs["pretrained_cfg_overlay"] = local_pretrained_overlay(
            variant,
            kwargs.get("pretrained_cfg"),
            kwargs.get("pretrained_cfg_overlay"),
            cache_dir=kwargs.get("cache_dir"),
        )
    # Maps are loaded when they have lost the parts that they do not need, which the file then need not have.
    is_getter = bool(kwargs.get("features_only")) and kwargs.get("feature_cls", "getter") == "getter"
    load_after = is_getter and bool(overlay.get("custom_load"))
    feature_cfg: dict[str, Any] = {"out_indices": tuple(feature_indices), "feature_cls": FeatureMapsGetter}
    if is_getter:
        kwargs["feature_cls"] = FeatureMapsGetter
        feature_cfg["output_fmt"] = "NCHW"  # timm before 1.0.31 takes the model's own layout for other classes than its
    model = build_model_with_cfg(
        model_class,
        variant,
        pretrained and not load_after,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=feature_cfg,
        **kwargs,
    )
    if load_after:
        load_pretrained_file(model, overlay["file"])
    return model


def _check_arguments(model_class: Any, variant: str, arguments: dict[str, Any]) -> None:
    """Say what timm's other models have and this one has not; drops an `output_stride` that is the model's own."""
    kind = arguments.get("feature_cls", "getter")
    known = getattr(model_class, "feature_classes", ("getter",))
    if isinstance(kind, str) and kind not in known:
        raise ValueError(f"feature_cls={kind!r} is not possible for {variant}; choose {' or '.join(map(repr, known))}")
    stride = arguments.pop("output_stride", None)
    if stride is not None and not (stride == 32 and issubclass(model_class, HierarchicalBackbone)):
        raise ValueError(
            f"output_stride={stride} is not possible for {variant}: its layers cannot be dilated. Leave it out; "
            "out_indices chooses finer maps"
        )
    if "img_size" in arguments and "img_size" not in inspect.signature(model_class).parameters:
        raise TypeError(f"{variant} has no argument img_size: it takes images of any size")


def register_variants(
    module_name: str,
    model_class: Callable[..., nn.Module],
    variants: Mapping[str, Mapping[str, Any]],
    checkpoint_filter_fn: Callable[[StateDict, nn.Module], StateDict],
) -> None:
    """Register one timm entry point per variant in the family's module, which must define `default_cfgs` before."""
    module = sys.modules[module_name]
    for variant, arguments in variants.items():
        entry_point = _entry_point(model_class, variant, arguments, checkpoint_filter_fn)
        entry_point.__module__ = module_name
        setattr(module, variant, register_model(entry_point))
        _registered.append(variant)


def _entry_point(
    model_class: Callable[..., nn.Module],
    variant: str,
    arguments: Mapping[str, Any],
    checkpoint_filter_fn: Callable[[StateDict, nn.Module], StateDict],
) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        options = {**arguments, **kwargs}
        return build(model_class, variant, pretrained, checkpoint_filter_fn=checkpoint_filter_fn, **options)

    entry_point.__name__ = entry_point.__qualname__ = variant
    entry_point.__doc__ = f"{variant}: " + ", ".join(f"{name}={value}" for name, value in arguments.items())
    return entry_point
