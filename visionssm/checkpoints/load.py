"""Strict loading of authors' weights into our models, and conversion to our own file format."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import timm
import torch
from timm.models import load_pretrained as timm_load_pretrained
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from visionssm.checkpoints import sealed
from visionssm.checkpoints.fetch import preferred_keys
from visionssm.checkpoints.fitting import Mismatch, check_values, classifier_keys, compare, layer_names
from visionssm.checkpoints.read import read_checkpoint, some, unwrap_state_dict
from visionssm.data.errors import CheckpointError
from visionssm.files import complete_or_absent

_logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=nn.Module)
Source = str | Path | Mapping[str, Any]

TRAINING_PREFIX = "model."
"""What training, and timm's `features_only` models, put before the names of a model's weights."""


def convert_state_dict(model: nn.Module, source: Source, *, prefer: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Read a checkpoint and rename it to the layout of `model`; the weights are not loaded and not yet compared.

    Checkpoints of this package's training, and of `features_only` models, are renamed too.

    Args:
        model: gives the key map, `checkpoint_filter_fn(state_dict, model)` of its class or of the class's module, as
            timm's families have it; without one the keys are taken as they are.
        source: a file, or what was read from one; wrappers are opened (`unwrap_state_dict`).
        prefer: wrapper keys in order of preference; by default `checkpoint_keys` of the model's class, or those of the
            registered `OfficialCfg`, else `WRAPPER_KEYS`.
    Raises:
        CheckpointError: the file is unreadable or has not the layout of this model's family.
    """
    state = unwrap_state_dict(
        source if isinstance(source, Mapping) else read_checkpoint(source),
        prefer or getattr(type(model), "checkpoint_keys", None) or preferred_keys(getattr(model, "pretrained_cfg", {})),
    )
    state = without_training_prefix(state, model)
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


def without_training_prefix(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict whose keys all start with `TRAINING_PREFIX`, without it, unless those of `model` do as well."""
    prefixed = all(key.startswith(TRAINING_PREFIX) for key in state)
    if not prefixed or any(key.startswith(TRAINING_PREFIX) for key in model.state_dict()):
        return dict(state)
    return {key.removeprefix(TRAINING_PREFIX): value for key, value in state.items()}


def load_official(model: ModelT, source: Source, *, prefer: Sequence[str] | None = None) -> ModelT:
    """Load a checkpoint as its authors published it, or one of ours, into a model; all keys must match.

    The model is changed only if everything fits. A model without a classifier (`num_classes=0`) or without the parts
    that feature maps do not need (`features_only=True`) takes what it has from files of the whole model, of any number
    of classes.

        model = load_official(timm.create_model("vmamba_tiny_s1l8"), "vssm1_tiny_0230s_ckpt_epoch_264.pth")

    Args:
        model: a model of this package, with the class count of the checkpoint.
        source: the file (PyTorch or safetensors), or the dictionary read from it, with or without wrapper keys. Files
            of the authors, of `tools/convert_checkpoint.py` and of `tools/train.py` are taken.
        prefer: wrapper keys in order of preference, for files that hold several sets of weights, for example
            `prefer=("model_ema", "model")`.
    Returns:
        The same model.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a key is missing, unexpected or mis-shaped, a weight is not finite or of another kind than the
            model's, or the file is unreadable or wants to run code.

    Examples:
        >>> import timm, torch, visionssm
        >>> torch.save(timm.create_model("vmamba_nano_test").state_dict(), "weights.pth")
        >>> model = visionssm.load_official(timm.create_model("vmamba_nano_test"), "weights.pth")
        >>> visionssm.load_official(timm.create_model("vim_nano_test"), "weights.pth")
        Traceback (most recent call last):
        ...
        visionssm.data.errors.CheckpointError: ...does not fit vim_nano_test; nothing was loaded...
    """
    inner = _inner(model)
    state = convert_state_dict(inner, source, prefer=prefer)
    unneeded = _unneeded(inner)
    mismatch = compare(state, inner).without(unneeded)
    if mismatch:
        raise _does_not_fit(inner, mismatch, source, prefer)
    check_values(state, inner, _origin(source))
    inner.load_state_dict({key: value for key, value in state.items() if key not in unneeded}, strict=True)
    return model


def _inner(model: nn.Module) -> nn.Module:
    """The model that a `features_only` one holds; any other as it is."""
    return cast(nn.Module, model.model) if isinstance(model, FeatureGetterNet) else model


def _unneeded(model: nn.Module) -> frozenset[str]:
    """Keys of the whole model that this one was made without."""
    dropped: frozenset[str] = getattr(model, "dropped_keys", frozenset())
    headless = getattr(model, "num_classes", None) == 0
    return dropped | (classifier_keys(getattr(model, "pretrained_cfg", {})) if headless else frozenset())


def create_official(name: str, source: Source, *, prefer: Sequence[str] | None = None) -> nn.Module:
    """Build a registered variant with the classes and channels of a checkpoint and load that checkpoint strictly.

    Args:
        name: variant as registered with timm, for example "vmamba_tiny_s1l8".
        source, prefer: as for `load_official`.
    Raises:
        ValueError: there is no such variant, or (CheckpointError) the checkpoint does not fit it.
    """
    if not timm.is_model(name):
        near = ", ".join(map(repr, difflib.get_close_matches(name, timm.list_models(), n=3))) or "none"
        raise ValueError(f"model {name!r} is not registered; similar: {near}; visionssm.list_models() names all")
    raw = source if isinstance(source, Mapping) else read_checkpoint(source)
    model: nn.Module = timm.create_model(name)
    try:
        state = convert_state_dict(model, raw, prefer=prefer)
        changed = _sizes(state, model)
        if changed:
            model = timm.create_model(name, **changed)
        return load_official(model, raw, prefer=prefer)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("the state dict", _origin(source), 1)) from error


def _sizes(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Any]:
    """Class count and channels of a state dict, where they differ from those of the model."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    classes = _class_count(state, cfg)
    changed = {} if classes in (None, getattr(model, "num_classes", None)) else {"num_classes": cast(int, classes)}
    for key in (f"{layer}.weight" for layer in layer_names(cfg.get("first_conv"))):
        theirs, ours = state.get(key), model.state_dict().get(key)
        if theirs is None or ours is None or theirs.dim() != 4:
            continue
        if theirs.shape[1] != ours.shape[1] == getattr(model, "in_chans", None):
            changed["in_chans"] = theirs.shape[1]
    return changed


def _class_count(state: Mapping[str, Tensor], cfg: Mapping[str, Any]) -> int | None:
    """Classes that a state dict has a classifier for; None if it has none."""
    weights = [state.get(f"{layer}.weight") for layer in layer_names(cfg.get("classifier"))]
    counts = {weight.shape[0] for weight in weights if weight is not None and weight.dim()}
    return counts.pop() if len(counts) == 1 else None


def load_pretrained_file(model: nn.Module, path: str | Path) -> None:
    """Load the pretrained file that timm's builder chose; timm adapts the input channels and the classifier.

    This is what `load_pretrained` of our models calls, timm's hook for weights in a format of their own. Unlike
    `load_official` it accepts a model with other input channels, or one that was asked for with another number of
    classes than the checkpoint; all the rest must match as strictly.
    """
    inner = _inner(model)
    state = convert_state_dict(inner, path)
    cfg = dict(getattr(inner, "pretrained_cfg", {}))
    classes, in_chans = cast(int, getattr(inner, "num_classes", 0)), _channels(inner, cfg)
    unneeded = _unneeded(inner)
    stated = cfg.get("num_classes", 1000)
    same_classes = _class_count(state, cfg) == classes  # as in a file that was trained for them
    new_classifier = not same_classes and classes != stated
    if new_classifier:
        unneeded |= classifier_keys(cfg)
    state = {key: value for key, value in state.items() if key not in unneeded}
    mismatch = compare(state, inner).without(unneeded)
    if in_chans != _source_channels(cfg):
        adapted = frozenset(f"{name}.weight" for name in layer_names(cfg.get("first_conv")))
        mismatch = Mismatch(mismatch.missing, mismatch.unexpected, mismatch.without(adapted).misshaped)
    if mismatch:
        raise _does_not_fit(inner, mismatch, path, None)
    check_values(state, inner, _origin(path))
    if new_classifier and classes:
        _logger.info("%s: the classifier for %d classes is new, untrained", path, classes)
    sources = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "custom_load")
    plain = {key: value for key, value in cfg.items() if key not in sources}
    if not _sizes(state, inner).get("in_chans"):  # the file is for the model's channels, whatever is registered
        plain["input_size"] = (in_chans, *(cfg.get("input_size") or (3, 224, 224))[1:])
    timm_load_pretrained(
        inner,
        pretrained_cfg={**plain, "num_classes": classes if same_classes else stated, "state_dict": state},
        num_classes=classes,
        in_chans=in_chans,
        strict=not unneeded,
    )


def save_converted(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a model's weights as safetensors, complete or not at all.

    The file is what `timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=path))` and
    `load_official` read back. It holds a digest of itself, which `read_checkpoint` compares.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
    with complete_or_absent(path) as temporary:
        temporary.write_bytes(sealed.to_bytes(state, metadata))
    return path


def _source_channels(cfg: Mapping[str, Any]) -> int:
    return int((cfg.get("input_size") or (3,))[0])


def _channels(model: nn.Module, cfg: Mapping[str, Any]) -> int:
    """Input channels of a model."""
    first_conv = next(iter(layer_names(cfg.get("first_conv"))), None)
    stem_channels = getattr(model.get_submodule(first_conv), "in_channels", None) if first_conv else None
    return int(getattr(model, "in_chans", None) or stem_channels or _source_channels(cfg))


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
    if complete and different <= classifier_keys(cfg):
        classes = next(theirs[0] for _, theirs, _ in mismatch.misshaped)
        return (
            f"the checkpoint has {classes} classes: build the model with num_classes={classes}, load, then call "
            "model.reset_classifier(number of classes)."
        )
    if complete and different <= {f"{name}.weight" for name in layer_names(cfg.get("first_conv"))}:
        channels = next(theirs[1] for _, theirs, _ in mismatch.misshaped)
        return (
            f"the checkpoint is for {channels} input channels: build the model with in_chans={channels}, or let "
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
