"""Strict loading of authors' weights into our models, and conversion to our own file format."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import safetensors.torch
import timm
import torch
from timm.models import load_pretrained as timm_load_pretrained
from torch import Tensor, nn

from visionssm.checkpoints.fetch import preferred_keys
from visionssm.checkpoints.read import CheckpointError, read_checkpoint, some, unwrap_state_dict
from visionssm.files import complete_or_absent

ModelT = TypeVar("ModelT", bound=nn.Module)
Source = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """How a state dict differs from what a model needs."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]  # key, shape in the file, shape in the model

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        shapes = [f"{key} is {ours} in the model and {theirs} in the file" for key, theirs, ours in self.misshaped]
        lines = [("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", shapes)]
        return "\n".join(f"  {len(keys)} {kind}: {some(keys)}" for kind, keys in lines if keys)


def compare(state: Mapping[str, Tensor], model: nn.Module) -> Mismatch:
    """Compare names and shapes of a state dict in our layout with those of a model."""
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    return Mismatch(
        missing=[key for key in wanted if key not in state],
        unexpected=[key for key in state if key not in wanted],
        misshaped=[
            (key, tuple(state[key].shape), shape)
            for key, shape in wanted.items()
            if key in state and tuple(state[key].shape) != shape
        ],
    )


def convert_state_dict(model: nn.Module, source: Source, *, prefer: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Read a checkpoint and rename it to the layout of `model`; the weights are not loaded and not yet compared.

    Args:
        model: gives the key map, `checkpoint_filter_fn(state_dict, model)` of its class or of the class's module, as
            timm's families have it; without one the keys are taken as they are.
        source: a file, or what was read from one; wrappers are opened (`unwrap_state_dict`).
        prefer: wrapper keys in order of preference; by default those of the registered `OfficialCfg`, else
            `WRAPPER_KEYS`.
    Raises:
        CheckpointError: the file is unreadable or has not the layout of this model's family.
    """
    state = unwrap_state_dict(
        source if isinstance(source, Mapping) else read_checkpoint(source),
        prefer or preferred_keys(getattr(model, "pretrained_cfg", {})),
    )
    family = type(model)
    key_map = getattr(family, "checkpoint_filter_fn", None) or getattr(
        sys.modules[family.__module__], "checkpoint_filter_fn", None
    )
    if key_map is None:
        return state
    try:
        return dict(key_map(state, model))
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{_origin(source)} has not the layout of {type(model).__name__}'s published checkpoints "
            f"({type(error).__name__}: {error}); its keys are {some(state)}. It probably belongs to another family."
        ) from error


def load_official(model: ModelT, source: Source, *, prefer: Sequence[str] | None = None) -> ModelT:
    """Load a checkpoint as its authors published it, or one of ours, into a model; all keys must match.

    The model is changed only if everything fits.

    Args:
        model: a model of this package, with the class count of the checkpoint.
        source: the file (PyTorch or safetensors), or the dictionary read from it, with or without wrapper keys.
        prefer: wrapper keys in order of preference, for files that hold several sets of weights, for example
            `prefer=("model_ema", "model")`.
    Returns:
        The same model.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a key is missing, unexpected or mis-shaped, or the file is unreadable or wants to run code.

    Examples:
        >>> import timm, torch, visionssm
        >>> torch.save(timm.create_model("vmamba_nano_test").state_dict(), "weights.pth")
        >>> model = visionssm.load_official(timm.create_model("vmamba_nano_test"), "weights.pth")
        >>> visionssm.load_official(timm.create_model("vim_nano_test"), "weights.pth")
        Traceback (most recent call last):
        ...
        visionssm.checkpoints.read.CheckpointError: ...does not fit vim_nano_test; nothing was loaded...
    """
    state = convert_state_dict(model, source, prefer=prefer)
    mismatch = compare(state, model)
    if mismatch:
        raise _does_not_fit(model, mismatch, source, prefer)
    model.load_state_dict(state, strict=True)
    return model


def create_official(name: str, source: Source, *, prefer: Sequence[str] | None = None) -> nn.Module:
    """Build a registered variant with the class count of a checkpoint and load that checkpoint strictly.

    Args:
        name: variant as registered with timm, for example "vmamba_tiny_s1l8".
        source, prefer: as for `load_official`.
    Raises:
        ValueError: there is no such variant, or (CheckpointError) the checkpoint does not fit it.
    """
    if not timm.is_model(name):
        raise ValueError(f"model {name!r} is not registered; visionssm.list_models() names those that are")
    raw = source if isinstance(source, Mapping) else read_checkpoint(source)
    model: nn.Module = timm.create_model(name)
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    try:
        state = convert_state_dict(model, raw, prefer=prefer)
        weights = [state.get(f"{layer}.weight") for layer in _names(cfg.get("classifier"))]
        classes = {weight.shape[0] for weight in weights if weight is not None}
        if classes and classes != {model.num_classes}:
            model = timm.create_model(name, num_classes=classes.pop())
        return load_official(model, raw, prefer=prefer)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("the state dict", _origin(source), 1)) from error


def load_pretrained_file(model: nn.Module, path: str | Path) -> None:
    """Load the pretrained file that timm's builder chose; timm adapts the input channels and the classifier.

    This is what `load_pretrained` of our models calls, timm's hook for weights in a format of their own. Unlike
    `load_official` it accepts a model with other input channels or another number of classes than the checkpoint; all
    the rest must match as strictly.
    """
    state = convert_state_dict(model, path)
    cfg = dict(getattr(model, "pretrained_cfg", {}))
    new_classifier, in_chans = _adaptations(model, cfg)
    full = compare(state, model)
    classifiers = [f"{name}.{part}" for name in new_classifier for part in ("weight", "bias")]
    first_convs = [f"{name}.weight" for name in _names(cfg.get("first_conv"))]
    stem_adapts = in_chans != _source_channels(cfg)
    mismatch = Mismatch(
        missing=[key for key in full.missing if key not in classifiers],
        unexpected=[key for key in full.unexpected if key not in classifiers],
        misshaped=[
            entry
            for entry in full.misshaped
            if entry[0] not in classifiers and not (stem_adapts and entry[0] in first_convs)
        ],
    )
    if mismatch:
        raise _does_not_fit(model, mismatch, path, None)
    sources = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
    plain = {key: value for key, value in cfg.items() if key not in sources}
    num_classes = cfg.get("num_classes", 1000)
    timm_load_pretrained(
        model,
        pretrained_cfg={**plain, "num_classes": num_classes, "state_dict": state},
        num_classes=cast(int, getattr(model, "num_classes", num_classes)),
        in_chans=in_chans,
    )


def save_converted(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a model's weights as safetensors, complete or not at all.

    The file is what `timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=path))` and
    `load_official` read back.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with complete_or_absent(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(state, metadata={"format": "pt", **(metadata or {})}))
    return path


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _source_channels(cfg: Mapping[str, Any]) -> int:
    return int((cfg.get("input_size") or (3,))[0])


def _adaptations(model: nn.Module, cfg: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Names of the classifier layers to start afresh (none if the class counts agree), and the model's channels."""
    replaced = getattr(model, "num_classes", None) != cfg.get("num_classes", 1000)
    first_conv = next(iter(_names(cfg.get("first_conv"))), None)
    stem_channels = getattr(model.get_submodule(first_conv), "in_channels", None) if first_conv else None
    in_chans = getattr(model, "in_chans", None) or stem_channels or _source_channels(cfg)
    return (_names(cfg.get("classifier")) if replaced else ()), int(in_chans)


def _origin(source: Source) -> str:
    return "the state dict" if isinstance(source, Mapping) else repr(str(source))


def _does_not_fit(
    model: nn.Module, mismatch: Mismatch, source: Source, prefer: Sequence[str] | None
) -> CheckpointError:
    name = getattr(model, "pretrained_cfg", {}).get("architecture") or type(model).__name__
    return CheckpointError(
        f"{_origin(source)} does not fit {name}; nothing was loaded:\n{mismatch}\n"
        f"Likely cause: {_likely_cause(model, mismatch, source, prefer)}"
    )


def _likely_cause(model: nn.Module, mismatch: Mismatch, source: Source, prefer: Sequence[str] | None) -> str:
    cfg = getattr(model, "pretrained_cfg", {})
    different = {key for key, _, _ in mismatch.misshaped}
    complete = not mismatch.missing and not mismatch.unexpected
    heads = {f"{name}.{part}" for name in _names(cfg.get("classifier")) for part in ("weight", "bias")}
    if complete and different <= heads:
        classes = next(theirs[0] for _, theirs, _ in mismatch.misshaped)
        return (
            f"the checkpoint has {classes} classes: build the model with num_classes={classes}, load, then call "
            "model.reset_classifier(number of classes)."
        )
    if complete and different <= {f"{name}.weight" for name in _names(cfg.get("first_conv"))}:
        return (
            "the model has another number of input channels; build it with in_chans=3, or let "
            "timm.create_model(…, pretrained=True) adapt the first layer."
        )
    fitting = _fitting_variants(model, source, prefer)
    if fitting:
        return f"the checkpoint is of another variant: it fits {', '.join(fitting)}."
    if mismatch.unexpected and 2 * len(mismatch.missing) > len(model.state_dict()):
        return "the checkpoint is of another family or code base, since most keys differ."
    return "another variant or another version of the model, or the model was built with changed arguments."


def _fitting_variants(model: nn.Module, source: Source, prefer: Sequence[str] | None) -> list[str]:
    """Registered variants of the model's family that the checkpoint fits, tried without allocating any weights."""
    family = type(model).__module__.rsplit(".", 1)[-1]
    fitting = []
    for name in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                candidate = timm.create_model(name)
            if not compare(convert_state_dict(candidate, source, prefer=prefer), candidate):
                fitting.append(name)
        except (RuntimeError, NotImplementedError, ValueError, FileNotFoundError):
            continue  # a variant that cannot be built without values is no hint, and the real error is on its way
    return fitting
